//! The configuration: whose tokens are believed, and who may ask for a token for whom.
//!
//! Owns: the keys and their limits. Must not: hold a secret. Read next: `tokens.rs`.

use std::collections::HashSet;
use std::time::Duration;

use ringwall_proto::ids::Name;
use ringwall_proto::tokenizer::{MAX_LIFETIME_SECONDS, TokenMethod, TokenPath};
use ringwall_service::{ComponentConfig, ConfigError, ServiceConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of `ringwall-tokenizer`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: ServiceConfig,
    /// What a user's access token must carry.
    pub(crate) subject: SubjectConfig,
    /// Who may ask for a token for whom; everything else is refused.
    pub(crate) edges: Vec<EdgeConfig>,
    /// Life of a source token: 1s to 30s.
    #[serde(default = "default_lifetime", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) lifetime: Duration,
    /// Tokens of one caller that may be unspent at the same time.
    #[serde(default = "default_max_outstanding")]
    pub(crate) max_outstanding: u32,
    /// How long a token stays listed after its end: at most 1h.
    #[serde(default = "default_keep", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) keep: Duration,
}

/// What introspection must say about a user's access token.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubjectConfig {
    /// Issuer of the access tokens.
    pub(crate) issuer: String,
    /// Their one audience.
    pub(crate) audience: String,
}

/// One request that a caller may make to an audience on behalf of users.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EdgeConfig {
    /// The workload that asks for the token and makes the request.
    pub(crate) caller: Name,
    /// The workload that receives the request and redeems the token.
    pub(crate) audience: Name,
    pub(crate) method: TokenMethod,
    pub(crate) path: TokenPath,
    /// Scope that the user's access token must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
}

fn default_lifetime() -> Duration {
    Duration::from_secs(MAX_LIFETIME_SECONDS.into())
}

fn default_max_outstanding() -> u32 {
    512
}

fn default_keep() -> Duration {
    Duration::from_secs(60)
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let longest = Duration::from_secs(MAX_LIFETIME_SECONDS.into());
        if self.lifetime < Duration::from_secs(1) || self.lifetime > longest {
            let seen = format!("{:?}", self.lifetime);
            return Err(ConfigError::invalid(
                "lifetime",
                &seen,
                "1s to 30s",
                "write 30s",
            ));
        }
        if self.keep > Duration::from_secs(3600) {
            let seen = format!("{:?}", self.keep);
            return Err(ConfigError::invalid(
                "keep",
                &seen,
                "at most 1h",
                "write 60s",
            ));
        }
        if !(1..=100_000).contains(&self.max_outstanding) {
            let seen = self.max_outstanding.to_string();
            return Err(ConfigError::invalid(
                "max_outstanding",
                &seen,
                "1 to 100000",
                "write 512",
            ));
        }
        for (key, value) in [
            ("subject.issuer", &self.subject.issuer),
            ("subject.audience", &self.subject.audience),
        ] {
            if value.is_empty() {
                return Err(ConfigError::invalid(key, "nothing", "a URL", "name it"));
            }
        }
        self.validate_edges()
    }
}

impl Config {
    fn validate_edges(&self) -> Result<(), ConfigError> {
        if self.edges.is_empty() {
            let fix =
                "add `- { caller: orders, audience: payments, method: POST, path: /v1/payments }`";
            return Err(ConfigError::invalid(
                "edges",
                "none",
                "at least one edge",
                fix,
            ));
        }
        let mut seen = HashSet::new();
        for edge in &self.edges {
            let text = format!(
                "{} -> {} {} {}",
                edge.caller,
                edge.audience,
                edge.method.as_str(),
                edge.path.as_str()
            );
            if edge.caller == edge.audience {
                let fix = "name two workloads";
                return Err(ConfigError::invalid(
                    "edges",
                    &text,
                    "caller is not audience",
                    fix,
                ));
            }
            // A workload that the listener refuses could never use its edge.
            for name in [&edge.caller, &edge.audience] {
                if !self
                    .service
                    .callers
                    .iter()
                    .any(|caller| caller.as_str() == name.as_str())
                {
                    let fix = format!("add {name} to service.callers, or remove the edge");
                    let expected = "workloads of service.callers";
                    return Err(ConfigError::invalid("edges", &text, expected, &fix));
                }
            }
            if !seen.insert(text.clone()) {
                let fix = "remove the second one";
                return Err(ConfigError::invalid("edges", &text, "each edge once", fix));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
