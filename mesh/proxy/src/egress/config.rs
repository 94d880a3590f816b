//! The `egress:` section: what may be reached outside of the platform, by whom. Nothing else may.
//!
//! Owns: the serde structs and the checks that need no other file. Read next: `rules.rs`, which compiles them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ringwall_service::{ConfigError, Refusal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::Network;
use super::rules::Rules;

/// The egress gateway's role.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EgressConfig {
    /// PEM file of the roots that servers outside are verified against.
    pub(crate) roots: PathBuf,
    #[serde(default)]
    pub(crate) dns: DnsConfig,
    /// Networks that are not public and may be reached by rules with `private: true`.
    #[serde(default)]
    pub(crate) networks: Vec<Network>,
    #[serde(default)]
    pub(crate) rules: Vec<RuleConfig>,
}

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DnsConfig {
    /// Name servers; none: those of the system.
    pub(crate) servers: Vec<SocketAddr>,
    /// Of one question to one server.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) timeout: Duration,
    /// Answers are believed no longer than this, whatever they say themselves.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) max_ttl: Duration,
}

/// One thing that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleConfig {
    /// For logs.
    pub(crate) name: String,
    /// Workloads.
    pub(crate) callers: Vec<String>,
    /// `api.example.com`, or `*.example.com` for exactly one label in the place of the star.
    pub(crate) host: String,
    #[serde(default = "https")]
    pub(crate) port: u16,
    /// Without TLS passthrough only; none: all.
    #[serde(default)]
    pub(crate) methods: Vec<String>,
    /// Prefixes by whole segments; none: all.
    #[serde(default)]
    pub(crate) paths: Vec<String>,
    #[serde(default)]
    pub(crate) tls: TlsMode,
    /// May resolve to an address of `networks`.
    #[serde(default)]
    pub(crate) private: bool,
    /// Added to each request; whatever the workload sends in its place is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credential: Option<CredentialConfig>,
    #[serde(default)]
    pub(crate) limits: LimitsConfig,
}

/// Who speaks TLS with the server outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TlsMode {
    /// This gateway: the request is seen, checked and completed here.
    #[default]
    Originate,
    /// The workload, through a CONNECT tunnel: host and port can be checked, method and path cannot.
    Passthrough,
    /// Nobody. For tests and demos.
    None,
}

/// A secret that workloads never hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialConfig {
    /// Header field, such as `authorization`.
    pub(crate) header: String,
    /// Name of the secret.
    pub(crate) secret: String,
    /// Before the secret, such as `Bearer `.
    #[serde(default)]
    pub(crate) prefix: String,
}

/// Limits of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsConfig {
    /// Requests and tunnels at once.
    pub(crate) max_requests: usize,
    /// Bytes.
    pub(crate) max_request_body: u64,
    pub(crate) max_response_body: u64,
    /// TCP and TLS together.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) connect_timeout: Duration,
    /// Until the head of the response.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) timeout: Duration,
    /// Of a response body or a tunnel on which nothing moves.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) idle_timeout: Duration,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(2),
            max_ttl: Duration::from_secs(60),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_requests: 256,
            max_request_body: 10 * 1024 * 1024,
            max_response_body: 1024 * 1024 * 1024,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

const fn https() -> u16 {
    443
}

impl EgressConfig {
    /// Checks that types alone cannot make.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        Rules::compile(self).map(drop)
    }

    /// What a production profile refuses.
    pub(crate) fn production_refusals(&self) -> Vec<Refusal> {
        let plain = self.rules.iter().filter(|rule| rule.tls == TlsMode::None);
        let plain = plain.map(|rule| {
            Refusal::new(
                format!("egress rule `{}`: tls: none", rule.name),
                "requests would leave the platform in plaintext, with whatever they carry",
                "write `tls: originate`",
            )
        });
        let loopback = ["127.0.0.1", "::1"].map(|text| text.parse::<std::net::IpAddr>().ok());
        let loopback = loopback.into_iter().flatten();
        let open: Vec<_> = loopback
            .filter(|address| self.networks.iter().any(|network| network.contains(*address)))
            .map(|address| {
                Refusal::new(
                    format!("egress.networks: holds {address}"),
                    "the gateway's own machine is not outside: workloads would reach its loopback listeners",
                    "declare the networks of the servers alone",
                )
            })
            .collect();
        plain.chain(open).collect()
    }
}
