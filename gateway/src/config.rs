//! The gateway's configuration: what a person writes.
//!
//! Owns: the serde structs, their JSON Schema, and checks that need no other file. Must not: compile routes
//! or open sockets. Next: `snapshot.rs`, which turns this into what the data path runs on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ringwall_plugin_host::config::{PluginConfig, unverified};
use ringwall_service::{ComponentConfig, ConfigError, Refusal, ServiceConfig};
use ringwall_tls::EdgeCertificate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::abuse::AbuseConfig;

/// The whole file.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: ServiceConfig,
    /// Worker threads; each runs its own event loop with its own listeners and pools. Default: one per core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workers: Option<usize>,
    /// The public addresses. Changing them needs a restart.
    pub(crate) listeners: Vec<ListenerConfig>,
    #[serde(default)]
    pub(crate) connections: ConnectionLimits,
    #[serde(default)]
    pub(crate) access_log: AccessLogConfig,
    /// Sources that go on although they are refused are dropped by the kernel; absent: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) abuse: Option<AbuseConfig>,
    /// Where bearer tokens come from; needed as soon as one route says `auth: bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<TokensConfig>,
    /// Actions that policies speak of, each in one class.
    #[serde(default)]
    pub(crate) actions: BTreeMap<String, ActionClass>,
    /// Cedar policies by name; every route names one.
    pub(crate) policies: BTreeMap<String, String>,
    /// Plugins that routes may name under `filters` (docs/running-plugins.md).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) plugins: Vec<PluginConfig>,
    /// Files of ed25519 public keys: with any, each plugin must be signed by one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) plugin_keys: Vec<PathBuf>,
    /// Where requests go.
    pub(crate) clusters: BTreeMap<String, ClusterConfig>,
    /// Hosts and their routes; any other host is refused.
    pub(crate) hosts: Vec<HostConfig>,
}

/// One public listener: exactly one of `tls` and `plaintext`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenerConfig {
    pub(crate) addresses: Vec<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<TlsConfig>,
    /// Speaks HTTP/1.1 without TLS: benchmarks and tests only, refused in the production profile.
    #[serde(default)]
    pub(crate) plaintext: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsConfig {
    /// Certificates and the SNI names they serve; an SNI that none of them names is closed.
    pub(crate) certificates: Vec<EdgeCertificate>,
}

/// Limits of client connections. Changing `max` needs a restart.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConnectionLimits {
    /// Connections at once over all workers; further ones are closed at accept.
    pub(crate) max: usize,
    /// From the first byte of a request head (or the start of TLS) to its end.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) header_timeout: Duration,
    /// Between requests.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) idle_timeout: Duration,
    /// Without a byte of a request body that is due.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) body_timeout: Duration,
    /// Bytes per second that a request body must keep up, on average, after the first ten seconds.
    pub(crate) body_min_rate: u64,
    /// While the client does not take response bytes.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) write_timeout: Duration,
    /// A request in flight on which neither side moves a byte.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) stall_timeout: Duration,
    /// Request head in bytes, request line included; at least 8192.
    pub(crate) max_head: usize,
    /// HTTP/2: streams at once per connection.
    pub(crate) max_streams: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            body_min_rate: 256,
            write_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(300),
            max_head: 32 * 1024,
            max_streams: 100,
        }
    }
}

/// One JSON line per request, written by a thread of its own; lines are dropped and counted, never waited for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AccessLogConfig {
    pub(crate) disabled: bool,
    /// Default: standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
}

/// The authorization server, as the gateway sees it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokensConfig {
    /// The `iss` that tokens must carry.
    pub(crate) issuer: String,
    /// Name in `service.upstreams`.
    pub(crate) upstream: String,
    #[serde(default = "default_jwks_path")]
    pub(crate) jwks_path: String,
    #[serde(default = "default_introspection_path")]
    pub(crate) introspection_path: String,
    /// The gateway's own client at the introspection endpoint (client_secret_basic).
    #[serde(default = "default_client_id")]
    pub(crate) client_id: String,
    /// Name of the secret in `service.secrets`.
    #[serde(default = "default_client_secret")]
    pub(crate) client_secret: String,
    /// Clock difference forgiven in `exp`, `nbf` and `iat`.
    #[serde(default = "default_leeway", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) leeway: Duration,
    /// How long one answer of the introspection endpoint is believed; at most 1s.
    #[serde(default = "default_introspection_age", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) introspection_max_age: Duration,
}

fn default_jwks_path() -> String {
    "/jwks".to_owned()
}
fn default_introspection_path() -> String {
    "/introspect".to_owned()
}
fn default_client_id() -> String {
    "gateway".to_owned()
}
fn default_client_secret() -> String {
    "oauth-client-secret".to_owned()
}
const fn default_leeway() -> Duration {
    Duration::from_secs(5)
}
const fn default_introspection_age() -> Duration {
    Duration::from_secs(1)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ActionClass {
    Read,
    Write,
    Admin,
}

/// A destination: exactly one of `upstream` and `plain`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterConfig {
    /// Name in `service.upstreams`: dialled over mTLS with the gateway's identity, and only that identity answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<String>,
    /// Dialled without TLS: benchmarks and tests only, refused in the production profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plain: Option<SocketAddr>,
    #[serde(default)]
    pub(crate) pool: PoolLimits,
}

/// Limits of one worker's connections to one cluster.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PoolLimits {
    /// Open connections; a request beyond them is refused with 503.
    pub(crate) max_connections: usize,
    pub(crate) max_idle: usize,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) idle_timeout: Duration,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) connect_timeout: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_idle: 128,
            idle_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostConfig {
    pub(crate) host: String,
    pub(crate) routes: Vec<RouteConfig>,
}

/// What happens to requests of one path and set of methods.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteConfig {
    pub(crate) id: String,
    #[serde(rename = "match")]
    pub(crate) matches: MatchConfig,
    pub(crate) auth: AuthConfig,
    /// The one `aud` that a bearer token must carry; needed with `auth: bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) audience: Option<String>,
    /// Scopes that the token must hold, all of them, before the policy is asked.
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
    /// Name in `policies`. A route without one does not load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    /// Name in `actions`.
    pub(crate) action: String,
    #[serde(default)]
    pub(crate) limits: Vec<LimitConfig>,
    /// Names in `plugins`: requests pass them in this order, responses in the reverse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) filters: Vec<String>,
    /// Leave the client's access token in the request; otherwise the upstream never sees it.
    #[serde(default)]
    pub(crate) forward_access_token: bool,
    /// Let RFC 6455 upgrades pass.
    #[serde(default)]
    pub(crate) websocket: bool,
    /// Until the upstream's response head.
    #[serde(default = "default_timeout", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) timeout: Duration,
    /// Request body in bytes.
    #[serde(default = "default_max_body")]
    pub(crate) max_body: u64,
    /// Name in `clusters`.
    pub(crate) cluster: String,
}

/// Envoy's default too; longer than what components give each other, so that theirs is the answer.
const fn default_timeout() -> Duration {
    Duration::from_secs(15)
}
const fn default_max_body() -> u64 {
    1024 * 1024
}

/// Exactly one of `path` and `prefix`. `path` may hold `{name}` segments; `prefix` matches whole segments.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MatchConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefix: Option<String>,
    pub(crate) methods: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuthConfig {
    None,
    Bearer,
}

/// GCRA: `rate` requests per `period`, with `burst` at once.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitConfig {
    pub(crate) per: LimitScope,
    pub(crate) rate: u64,
    #[serde(default = "default_period", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) period: Duration,
    /// Default: `rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) burst: Option<u64>,
}

const fn default_period() -> Duration {
    Duration::from_secs(1)
}

/// Whose requests are counted together. Without a token, `user` and `client` fall back to the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LimitScope {
    User,
    Client,
    Address,
    Route,
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    /// Everything that can be said without starting: the routes are compiled once for their faults.
    fn validate(&self) -> Result<(), ConfigError> {
        if let Some(abuse) = &self.abuse {
            abuse.validate()?;
        }
        crate::snapshot::check(self).map_err(|fault| {
            ConfigError::invalid(&fault.key, &fault.seen, &fault.expected, &fault.fix)
        })
    }

    fn production_refusals(&self) -> Vec<Refusal> {
        let listeners = self
            .listeners
            .iter()
            .filter(|listener| listener.plaintext)
            .map(|listener| {
                Refusal::new(
                    format!("listener {:?} without TLS", listener.addresses),
                    "whoever is on the way reads and changes every request",
                    "give it certificates under `tls`",
                )
            });
        let clusters = self
            .clusters
            .iter()
            .filter(|(_, cluster)| cluster.plain.is_some());
        let clusters = clusters.map(|(name, _)| {
            Refusal::new(
                format!("cluster {name} without TLS"),
                "the upstream cannot know that the gateway calls, nor the gateway who answers",
                "declare it under `service.upstreams` and name it as `upstream`",
            )
        });
        let unsigned = unverified(&self.plugins, &self.plugin_keys);
        let unsigned = unsigned.map(|name| {
            Refusal::new(
                format!("plugin {name} neither signed nor pinned"),
                "whoever can write the file runs code in the request path",
                "declare `plugin_keys`, or the module's `sha256`",
            )
        });
        listeners.chain(clusters).chain(unsigned).collect()
    }
}
