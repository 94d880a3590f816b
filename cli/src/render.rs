//! A component's configuration file: `service:` from the declared ports and edges, the rest as it
//! stands in the composition.

use serde_json::{Map, Value, json};

use crate::composition::{Component, Composition, OPERATOR, Profile, Variables};
use crate::error::CliError;
use crate::site::Site;

/// Who may read admin listeners besides the operator and the component itself (`--health`).
const MONITOR: &str = "prometheus";

/// The YAML text for one component.
pub(crate) fn config(
    composition: &Composition,
    component: &Component,
    site: &Site,
    profile: Profile,
) -> Result<String, CliError> {
    let name = &component.name.value;
    let variables = Variables {
        composition,
        site,
        profile,
        component,
    };
    let mut document = Map::new();
    document.insert(
        "service".into(),
        service(composition, component, site, profile),
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
        "# Made by `ringwall` from the composition: changes here are lost.\n{yaml}"
    ))
}

fn service(
    composition: &Composition,
    component: &Component,
    site: &Site,
    profile: Profile,
) -> Value {
    let name = &component.name.value;
    let files = site.read(name);
    // A database is dialled with its own protocol, by the keys of the component's own section.
    let mut upstreams: Map<String, Value> = composition
        .callees_of(component)
        .into_iter()
        .filter_map(|callee| composition.component(callee))
        .filter(|callee| callee.binary.is_some())
        .map(|callee| {
            let other = &callee.name.value;
            (
                other.clone(),
                json!({ "address": site.dial(callee), "identity": other }),
            )
        })
        .collect();
    if composition.is_collector(component)
        && let Some(export) = site.span_export(composition)
    {
        let to = &export.to.value;
        let upstream = json!({ "address": site.place(to, export.port.value), "identity": to });
        upstreams.insert(to.clone(), upstream);
    }
    let mut service = json!({
        "name": name,
        "trust_domain": composition.trust_domain.value,
        "profile": profile.as_str(),
        "listen": site.listen(component),
        "admin": site.admin_listen(component),
        "identity": files.identity,
        "callers": composition.callers_of(component),
        "admin_callers": [OPERATOR, MONITOR, name],
        "upstreams": upstreams,
        "secrets": { "provider": "sealed", "file": files.sealed, "key_file": files.seal_key },
        "logs": { "format": composition.logs.format, "level": composition.logs.level },
        "drain": format!("{}s", composition.drain.as_secs()),
        "state": site.data(name),
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
