//! The proxy's configuration: what the CLI renders for each workload.
//!
//! Owns: the serde structs and checks that need no other file. Must not: open anything. Services, endpoints and
//! policy are not configuration: they come from the control plane (`control.rs`). Read next: `config/validate.rs`.

mod validate;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ringwall_mesh_api::weight;
use ringwall_plugin_host::config::PluginConfig;
use ringwall_service::{ComponentConfig, ConfigError, Refusal, ServiceConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::egress::EgressConfig;
use crate::snapshot::Protocol;

/// The whole file.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: ServiceConfig,
    /// The machine, and the zone in which calls preferably stay: 1 to 128 letters, digits, `-`, `.` and `_`.
    #[serde(default = "local")]
    pub(crate) node: String,
    #[serde(default = "local")]
    pub(crate) zone: String,
    /// Share of the service's traffic beside its other endpoints, 0 to 10000; 0 is registered and not called.
    #[serde(default = "ordinary")]
    pub(crate) weight: u32,
    /// Listeners for peers, and the application behind each.
    #[serde(default)]
    pub(crate) inbound: Vec<InboundConfig>,
    /// Address under which other proxies dial the inbound listeners: an address, or `auto` for the one from which this
    /// proxy reaches the control plane.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) advertise: Advertise,
    /// The HBONE port, where only tunnels are accepted; the inbound listeners accept them as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hbone: Option<SocketAddr>,
    /// Listeners for the application.
    #[serde(default)]
    pub(crate) outbound: OutboundConfig,
    /// Name of the secret that proxy and application share; absent: loopback is believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) loopback_token: Option<String>,
    /// Verify the gateway's statement about the user, so that policies may ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_context: Option<UserContextConfig>,
    /// How to ask the application whether it can serve. Default: `GET /readyz` of the second inbound port where that is
    /// HTTP, else whether the first one accepts connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<HealthConfig>,
    /// Headers whose values `ringwall tap` never shows, beside those that sound like secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) redact: Vec<String>,
    /// Plugins that `filters` may name (docs/running-plugins.md).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) plugins: Vec<PluginConfig>,
    /// Files of ed25519 public keys: with any, each plugin must be signed by one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) plugin_keys: Vec<PathBuf>,
    /// The egress gateway only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) egress: Option<EgressConfig>,
    /// Threads of the data path; each runs its own event loop.
    #[serde(default = "one")]
    pub(crate) workers: usize,
    #[serde(default)]
    pub(crate) limits: Limits,
    #[serde(default)]
    pub(crate) access_log: AccessLogConfig,
}

/// One listener for peers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InboundConfig {
    pub(crate) listen: SocketAddr,
    /// Where the application listens, in plaintext.
    pub(crate) app: SocketAddr,
    /// What edges and policies call this port.
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) protocol: ProtocolConfig,
    /// Names in `plugins`: what comes to this port passes them in this order, answers in the reverse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) filters: Vec<String>,
}

/// Where the application is asked whether it can serve.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HealthConfig {
    pub(crate) address: SocketAddr,
    /// Answers 2xx when it can; absent: whether a connection opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
}

/// Under which address a proxy is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Advertise {
    Address(IpAddr),
    /// Looked up whenever the control plane is connected to: a container that comes back may have another one.
    Auto,
}

/// How `auto` is written.
const AUTO: &str = "auto";

impl Default for Advertise {
    fn default() -> Self {
        Self::Address(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

impl TryFrom<String> for Advertise {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == AUTO {
            return Ok(Self::Auto);
        }
        text.parse()
            .map(Self::Address)
            .map_err(|_| format!("`{text}` is neither an IP address nor `{AUTO}`"))
    }
}

impl From<Advertise> for String {
    fn from(advertise: Advertise) -> Self {
        match advertise {
            Advertise::Address(address) => address.to_string(),
            Advertise::Auto => AUTO.to_owned(),
        }
    }
}

/// How the application reads bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProtocolConfig {
    #[default]
    Http,
    Http2,
    Tcp,
}

impl From<ProtocolConfig> for Protocol {
    fn from(config: ProtocolConfig) -> Self {
        match config {
            ProtocolConfig::Http => Self::Http,
            ProtocolConfig::Http2 => Self::Http2,
            ProtocolConfig::Tcp => Self::Tcp,
        }
    }
}

/// Listeners on loopback.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OutboundConfig {
    /// `Host` names the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<SocketAddr>,
    pub(crate) tcp: Vec<OutboundTcp>,
    /// Where the kernel leads the application's connections, whatever they were going to: one for each family of addresses.
    /// The original destination is the socket's `SO_ORIGINAL_DST`; a connection without one is refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) captured: Vec<SocketAddr>,
    /// Where the kernel leads the application's questions for names (UDP), whichever server it asks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) names: Vec<SocketAddr>,
    /// Names that it may ask for beside the services' own: of what it dials past this proxy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<String>,
    /// Names in `plugins`, by `service`, `service:port` or `*`, the most exact counting alone: calls pass them in this order.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) filters: BTreeMap<String, Vec<String>>,
}

/// The key of `outbound.filters` for every service that has none of its own.
pub(crate) const ANY_SERVICE: &str = "*";

/// One listener whose bytes go to one service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutboundTcp {
    pub(crate) listen: SocketAddr,
    pub(crate) service: String,
    /// Which of the service's ports; default: its first `tcp` port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    /// Ends connections on which nothing moves for so long; default: never.
    #[serde(
        default,
        with = "humantime_serde",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub(crate) idle_timeout: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserContextConfig {
    /// Name in `service.upstreams`: who signs user contexts and publishes the keys.
    pub(crate) issuer_upstream: String,
}

/// Limits of connections, requests and tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Connections at once over all workers, both directions; further ones are closed at accept.
    pub(crate) max_connections: usize,
    /// TLS handshakes at once per worker; further connections wait in the kernel.
    pub(crate) max_handshakes: usize,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) handshake_timeout: Duration,
    /// From the first byte of a request head to its end.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) header_timeout: Duration,
    /// Between requests; longer than what callers allow, so that they close first.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) idle_timeout: Duration,
    /// Without a byte of a request body that is due (HTTP/1.1).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) body_timeout: Duration,
    /// Bytes per second that a request body must keep up after the first ten seconds (HTTP/1.1).
    pub(crate) body_min_rate: u64,
    /// While the peer does not take bytes.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) write_timeout: Duration,
    /// A request in flight on which neither side moves a byte.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) stall_timeout: Duration,
    /// Request head in bytes; at least 8192.
    pub(crate) max_head: usize,
    /// HTTP/2: streams at once per connection.
    pub(crate) max_streams: u32,
    /// Request body in bytes; bodies of gRPC calls and tunnels have no end and so no limit.
    pub(crate) max_body: u64,
    /// Requests at once to the application, per worker; further ones are answered 503.
    pub(crate) max_requests: usize,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) connect_timeout: Duration,
    /// Until the application's response head. The caller's proxy has the deadline that counts.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) response_timeout: Duration,
    /// Idle connections to the application that are kept, per worker and port.
    pub(crate) max_idle: usize,
    pub(crate) tunnels: TunnelLimits,
}

/// Limits of the connections to other proxies, per worker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TunnelLimits {
    /// Connections to one endpoint; a further one is opened when the streams of the others are in use.
    pub(crate) max_connections: usize,
    /// Requests that wait for a connection or a stream to one endpoint.
    pub(crate) max_pending: usize,
    /// Without a request.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) idle_timeout: Duration,
    /// Between pings; a peer that does not answer one within `ping_timeout` is gone.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) ping_interval: Duration,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) ping_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_handshakes: 256,
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            body_timeout: Duration::from_secs(30),
            body_min_rate: 256,
            write_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(300),
            max_head: 64 * 1024,
            max_streams: 256,
            max_body: 1024 * 1024 * 1024,
            max_requests: 1024,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(60),
            max_idle: 128,
            tunnels: TunnelLimits::default(),
        }
    }
}

impl Default for TunnelLimits {
    fn default() -> Self {
        Self {
            max_connections: 16,
            max_pending: 1024,
            idle_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
        }
    }
}

/// One JSON line per request, written by a thread of its own; lines are dropped and counted, never waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AccessLogConfig {
    pub(crate) disabled: bool,
    /// Default: standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
}

const fn ordinary() -> u32 {
    weight::DEFAULT
}

fn local() -> String {
    "local".to_owned()
}

const fn one() -> usize {
    1
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        validate::validate(self)
    }

    fn production_refusals(&self) -> Vec<Refusal> {
        validate::production_refusals(self)
    }
}
