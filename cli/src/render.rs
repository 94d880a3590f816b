//! A component's configuration file: `service:` from the declared ports and edges, the rest as it
//! stands in the composition.

use serde_json::{Map, Value, json};

use crate::composition::{Component, Composition, OPERATOR, Profile, Variables};
use crate::error::CliError;
use crate::state::StateDir;

/// Who may read admin listeners besides the operator.
const MONITOR: &str = "prometheus";

/// The YAML text for one component.
pub(crate) fn config(
    composition: &Composition,
    component: &Component,
    state: &StateDir,
    profile: Profile,
) -> Result<String, CliError> {
    let name = &component.name.value;
    let variables = Variables {
        composition,
        state,
        profile,
        component,
    };
    let mut document = Map::new();
    document.insert(
        "service".into(),
        service(composition, component, state, profile),
    );
    for (key, value) in &component.config {
        let value = variables.fill(value).map_err(|why| CliError::Composition {
            place: format!("component `{name}`, config.{key}"),
            what: why,
            fix: "the variables are listed at the top of ringwall.yaml".into(),
        })?;
        document.insert(key.clone(), value);
    }
    let yaml = serde_saphyr::to_string(&Value::Object(document))
        .map_err(|error| CliError::internal("rendering a configuration", error))?;
    Ok(format!(
        "# Made by `ringwall up` from the composition: changes here are lost.\n{yaml}"
    ))
}

fn service(
    composition: &Composition,
    component: &Component,
    state: &StateDir,
    profile: Profile,
) -> Value {
    let name = &component.name.value;
    let (sealed, seal_key) = state.secrets(name);
    // A database is dialled with its own protocol, by the keys of the component's own section.
    let upstreams: Map<String, Value> = composition
        .callees_of(component)
        .into_iter()
        .filter_map(|callee| composition.component(callee))
        .filter(|callee| callee.binary.is_some())
        .map(|callee| {
            let other = &callee.name.value;
            (
                other.clone(),
                json!({ "address": callee.address().to_string(), "identity": other }),
            )
        })
        .collect();
    let mut service = json!({
        "name": name,
        "trust_domain": composition.trust_domain.value,
        "profile": profile.as_str(),
        "listen": component.address().to_string(),
        "admin": component.admin_address().map(|address| address.to_string()),
        "identity": state.identity(name),
        "callers": composition.callers_of(component),
        "admin_callers": [OPERATOR, MONITOR],
        "upstreams": upstreams,
        "secrets": { "provider": "sealed", "file": sealed, "key_file": seal_key },
        "logs": { "format": composition.logs.format, "level": composition.logs.level },
        "drain": format!("{}s", composition.drain.as_secs()),
        "state": state.data(name),
    });
    if let (Some(telemetry), Some(fields)) = (&composition.telemetry, service.as_object_mut()) {
        let (upstream, ratio) = (&telemetry.collector.value, telemetry.sample_ratio);
        fields.insert(
            "telemetry".into(),
            json!({ "upstream": upstream, "sample_ratio": ratio }),
        );
    }
    service
}
