//! Checks between the parts of a configuration that yield nothing but a fault.

use http::Method;
use ringwall_plugin_host::config::{NameFault, fault_of_names};

use super::{list, quoted};
use crate::config::{AuthConfig, Config, RouteConfig};
use crate::error::Fault;
use crate::snapshot::PolicyVerdict;

/// The highest `introspection_max_age`: R11 promises that a revoked token is denied within one second.
const MAX_INTROSPECTION_AGE: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) fn check_auth(config: &Config, key: &str, route: &RouteConfig) -> Result<(), Fault> {
    match route.auth {
        AuthConfig::None if route.audience.is_some() || !route.scopes.is_empty() => {
            Err(Fault::new(
                format!("{key}.auth"),
                "none, with an audience or scopes",
                "bearer",
                "a route without a token cannot check one",
            ))
        }
        AuthConfig::Bearer if config.tokens.is_none() => Err(Fault::new(
            format!("{key}.auth"),
            "bearer, without a `tokens` section",
            "an issuer to believe",
            "add `tokens: { issuer: …, upstream: … }`",
        )),
        AuthConfig::Bearer if route.audience.is_none() => Err(Fault::new(
            format!("{key}.audience"),
            "nothing",
            "the one audience that tokens for this route carry",
            "add `audience: https://…`",
        )),
        _ => Ok(()),
    }
}

/// A route that everybody may call but that its policy closes to everybody is a mistake, not a rule.
pub(super) fn refuse_closed_anonymous(
    key: &str,
    method: &Method,
    verdict: Option<&PolicyVerdict>,
) -> Result<(), Fault> {
    match verdict {
        Some(verdict) if !verdict.allowed => Err(Fault::new(
            format!("{key}.policy"),
            format!("`auth: none`, and a policy that denies {method} to everybody"),
            "a policy that permits Anonymous, or `auth: bearer`",
            "permit the route's action, or ask for a token",
        )),
        _ => Ok(()),
    }
}

/// Names of plugins are theirs alone, and have a form that metrics can show.
pub(super) fn check_plugins(config: &Config) -> Result<(), Fault> {
    if let Some((name, fault)) = fault_of_names(&config.plugins) {
        let key = format!("plugins[{name}]");
        return Err(match fault {
            NameFault::Characters => Fault::new(
                key,
                quoted(name),
                "letters, digits, `-`, `_` and `.`",
                "give it another name",
            ),
            NameFault::Twice => Fault::new(
                key,
                "the name twice",
                "each name once",
                "rename one of the two",
            ),
        });
    }
    for plugin in &config.plugins {
        let key = format!("plugins[{}]", plugin.name);
        if let Some(unknown) = plugin
            .capabilities
            .clusters
            .iter()
            .find(|name| !name.ends_with('*') && !config.clusters.contains_key(*name))
        {
            return Err(Fault::new(
                format!("{key}.capabilities.clusters"),
                quoted(unknown),
                list(config.clusters.keys()),
                "declare it under `clusters`",
            ));
        }
    }
    Ok(())
}

pub(super) fn check_listeners(config: &Config) -> Result<(), Fault> {
    if config.listeners.is_empty() {
        return Err(Fault::new(
            "listeners",
            "none",
            "at least one listener",
            "add an address to listen on",
        ));
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        let key = format!("listeners[{index}]");
        if listener.addresses.is_empty() {
            return Err(Fault::new(
                format!("{key}.addresses"),
                "none",
                "at least one address",
                "add `addresses: [\"127.0.0.1:8443\"]`",
            ));
        }
        if listener.tls.is_some() == listener.plaintext {
            return Err(Fault::new(
                key,
                "both or neither of `tls` and `plaintext: true`",
                "exactly one",
                "a public listener has `tls`",
            ));
        }
    }
    if config.connections.max_head < 8192 {
        return Err(Fault::new(
            "connections.max_head",
            config.connections.max_head.to_string(),
            "at least 8192",
            "raise it",
        ));
    }
    if config.workers == Some(0) {
        return Err(Fault::new(
            "workers",
            "0",
            "at least 1",
            "leave it out for one per core",
        ));
    }
    Ok(())
}

pub(super) fn check_tokens(config: &Config) -> Result<(), Fault> {
    let Some(tokens) = &config.tokens else {
        return Ok(());
    };
    if !config.service.upstreams.contains_key(&tokens.upstream) {
        return Err(Fault::new(
            "tokens.upstream",
            quoted(&tokens.upstream),
            list(config.service.upstreams.keys()),
            "declare it under `service.upstreams`",
        ));
    }
    if tokens.introspection_max_age > MAX_INTROSPECTION_AGE {
        return Err(Fault::new(
            "tokens.introspection_max_age",
            format!("{:?}", tokens.introspection_max_age),
            "at most 1s",
            "a revoked token must be denied within one second",
        ));
    }
    Ok(())
}
