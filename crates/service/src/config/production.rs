//! What a production profile refuses, each with its reason and the fix.

use std::fmt;

use ringwall_secret::SecretsConfig;

use super::{Profile, ServiceConfig};

/// Trust domain of the demo: its name is in every checkout.
const DEMO_TRUST_DOMAIN: &str = "ringwall.local";

/// One reason not to start in production.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub what: String,
    pub why: String,
    pub fix: String,
}

impl Refusal {
    pub fn new(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "- {}\n    why: {}\n    fix: {}",
            self.what, self.why, self.fix
        )
    }
}

/// Everything in the shared section that is fit for a demo only; empty in the demo profile.
pub fn validate_production(config: &ServiceConfig) -> Vec<Refusal> {
    if config.profile == Profile::Demo {
        return Vec::new();
    }
    let mut refusals = Vec::new();
    if !matches!(config.secrets, SecretsConfig::Sealed { .. }) {
        refusals.push(Refusal::new(
            "service.secrets: the provider is not `sealed`",
            "secrets would lie in plain text in files or in the environment, where other processes and crash reports can read them",
            "write `secrets: { provider: sealed, file: …, key_file: … }`",
        ));
    }
    if config.trust_domain.as_str() == DEMO_TRUST_DOMAIN {
        refusals.push(Refusal::new(
            "service.trust_domain: `ringwall.local` is the demo's",
            "identities of every demo carry this name; a bundle copied from one would make strangers into workloads",
            "choose a trust domain of your organisation and issue identities for it",
        ));
    }
    let collector = config.telemetry.as_ref().filter(|t| t.endpoint.is_some());
    if collector
        .and_then(|t| t.collector().ok())
        .is_some_and(|a| !a.is_loopback())
    {
        refusals.push(Refusal::new(
            "service.telemetry.endpoint: plain HTTP to another machine",
            "traces tell who does what and when, and anybody on the path could read or forge them",
            "send traces to a mesh upstream, or to a collector on loopback",
        ));
    }
    if ["debug", "trace"]
        .iter()
        .any(|level| config.logs.level.contains(level))
    {
        refusals.push(Refusal::new(
            format!("service.logs.level: `{}`", config.logs.level),
            "debug logs of libraries may show headers and bodies of requests",
            "write `level: info`",
        ));
    }
    refusals
}
