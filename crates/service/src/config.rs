//! Configuration that all components share: the `service:` section.
//!
//! Owns: its shape and validation. `config/load.rs` reads files, `config/production.rs` says what a
//! production profile refuses, `config/sidecar.rs` is the part of a component behind a service proxy.
//! This is the only place where a component's surroundings are named.
//! Must not: read the environment; secrets come through `ringwall-secret`.

mod error;
mod identity;
mod load;
mod production;
mod sidecar;

use std::{
    collections::BTreeMap, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration,
};

use ringwall_http_io::Address;
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_secret::SecretsConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::StartError;

pub use self::{
    error::ConfigError,
    identity::IdentityFrom,
    load::{load_yaml, parse_yaml, place, read},
    production::{Refusal, validate_production},
    sidecar::SidecarConfig,
};

/// A component's whole configuration file.
pub trait ComponentConfig: DeserializeOwned + JsonSchema {
    /// The shared section.
    fn service(&self) -> &ServiceConfig;

    /// Checks that types alone cannot make. Called once, before anything is opened.
    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// What of the component's own keys a production profile refuses.
    fn production_refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }

    /// What has to be done while the process has one thread, such as giving up privileges, which are a thread's own. Called
    /// once, before the runtime is made; not by `--check`.
    fn before_threads(&self) -> Result<(), StartError> {
        Ok(())
    }
}

/// The `service:` section of every component.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// The component's name; also the path of its SPIFFE id, unless `workload` says otherwise.
    pub name: String,
    /// Path of the SPIFFE id where it differs from the name: a service proxy has its workload's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    pub trust_domain: TrustDomain,
    #[serde(default)]
    pub profile: Profile,
    /// Mesh listener (mTLS).
    pub listen: SocketAddr,
    /// Admin listener (mTLS): `/healthz`, `/readyz`, `/metrics`.
    pub admin: SocketAddr,
    /// A directory of `svid.pem`, `svid.key` and `bundle.pem`; or `unix:PATH`, the socket of a SPIFFE
    /// Workload API; or `self`, for components that get an identity in their own way. Behind a service
    /// proxy there is none here.
    #[serde(default)]
    pub identity: IdentityFrom,
    /// Workloads that may connect to the mesh listener; nobody else completes the handshake.
    #[serde(default)]
    pub callers: Vec<String>,
    /// Workloads that may connect to the admin listener.
    #[serde(default = "default_admin_callers")]
    pub admin_callers: Vec<String>,
    /// The only places that this component can dial.
    #[serde(default)]
    pub upstreams: BTreeMap<String, UpstreamConfig>,
    pub secrets: SecretsConfig,
    #[serde(default)]
    pub logs: LogsConfig,
    /// Traces; absent means off.
    #[serde(default)]
    pub telemetry: Option<TelemetryConfig>,
    /// How long open requests may take after SIGTERM.
    #[serde(default = "default_drain", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub drain: Duration,
    /// Directory for the component's own durable files.
    #[serde(default)]
    pub state: Option<PathBuf>,
    /// Worker threads. One is enough where many components share a machine.
    #[serde(default = "default_workers")]
    pub workers: NonZeroUsize,
    /// The service proxy that stands before this component; absent: the component speaks mTLS itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<SidecarConfig>,
}

/// How strict the component is about its own configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Convenience where it does no harm on one machine.
    Demo,
    /// Refuses to start with anything that is fit for a demo only.
    #[default]
    Production,
}

/// One upstream workload.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// `ip:port` or `name:port`.
    #[schemars(with = "String")]
    pub address: Address,
    /// Workload that must answer there.
    pub identity: String,
    /// Request timeout, default 10s.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Option<String>")]
    pub timeout: Option<Duration>,
}

/// Logs: JSON goes to stdout for collectors, pretty goes to stderr for people.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogsConfig {
    pub format: LogFormat,
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or targets with levels
    /// (`info,ringwall_orders=debug`).
    pub level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Pretty,
}

/// Where traces go: a mesh upstream or a collector, exactly one of the two (OTLP/HTTP protobuf).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Name of a declared upstream that receives `POST /v1/traces`.
    #[serde(default)]
    pub upstream: Option<String>,
    /// `http://host:port` of a collector.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Share of new traces that are recorded, 0.0 to 1.0; a caller's decision is kept.
    #[serde(default = "default_ratio")]
    pub sample_ratio: f64,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Json,
            level: "info".into(),
        }
    }
}

fn default_admin_callers() -> Vec<String> {
    vec!["ringwall".into(), "prometheus".into()]
}

fn default_drain() -> Duration {
    Duration::from_secs(10)
}

fn default_workers() -> NonZeroUsize {
    NonZeroUsize::MIN
}

fn default_ratio() -> f64 {
    1.0
}

impl ServiceConfig {
    /// SPIFFE id of a workload of our trust domain.
    pub fn workload(&self, name: &str) -> Result<SpiffeId, ConfigError> {
        SpiffeId::workload(&self.trust_domain, name).map_err(|error| {
            ConfigError::invalid(
                "service",
                &format!("the workload name `{name}`"),
                &format!("a path of a SPIFFE id ({error})"),
                "use lower-case letters, digits and hyphens",
            )
        })
    }

    /// This component's own SPIFFE id.
    pub fn own_id(&self) -> Result<SpiffeId, ConfigError> {
        self.workload(self.workload.as_deref().unwrap_or(&self.name))
    }

    /// Whether a configuration of our name is for the binary called `binary`. What stands beside a
    /// workload has both in its name: `orders-proxy` is a `proxy`. A replica has a number:
    /// `control-plane-2` is a `control-plane`.
    fn is_for(&self, binary: &str) -> bool {
        let number = self
            .name
            .strip_prefix(binary)
            .and_then(|rest| rest.strip_prefix('-'));
        let replica = number.is_some_and(|number| number.parse::<u8>().is_ok());
        let beside = self
            .name
            .strip_suffix(binary)
            .and_then(|rest| rest.strip_suffix('-'));
        let beside = beside.is_some_and(|of| !of.is_empty());
        self.name == binary || (self.workload.is_some() && (beside || replica))
    }

    /// Checks what types alone cannot, for the component called `name`.
    pub fn validate(&self, name: &str) -> Result<(), ConfigError> {
        if !self.is_for(name) {
            return Err(ConfigError::invalid(
                "service.name",
                &format!("`{}`", self.name),
                &format!("`{name}`, which this binary is"),
                "start the binary with its own configuration file",
            ));
        }
        if self.listen == self.admin && self.listen.port() != 0 {
            return Err(ConfigError::invalid(
                "service.admin",
                &format!("{}, the same as service.listen", self.admin),
                "an address of its own",
                "choose another port, such as the mesh port plus 100",
            ));
        }
        self.own_id()?;
        self.validate_way()?;
        for workload in self.callers.iter().chain(&self.admin_callers) {
            self.workload(workload)?;
        }
        for upstream in self.upstreams.values() {
            self.workload(&upstream.identity)?;
        }
        crate::logs::filter(&self.logs.level).map_err(|error| {
            ConfigError::invalid(
                "service.logs.level",
                &format!("`{}` ({error})", self.logs.level),
                "a level, or targets with levels",
                "write `level: info`",
            )
        })?;
        self.telemetry
            .as_ref()
            .map_or(Ok(()), |telemetry| telemetry.validate(self))
    }
}

impl TelemetryConfig {
    fn validate(&self, service: &ServiceConfig) -> Result<(), ConfigError> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(ConfigError::invalid(
                "service.telemetry.sample_ratio",
                &self.sample_ratio.to_string(),
                "a number from 0.0 to 1.0",
                "write `sample_ratio: 1.0` to record every trace",
            ));
        }
        match (&self.upstream, &self.endpoint) {
            (Some(name), None) if service.upstreams.contains_key(name) => Ok(()),
            (Some(name), None) => Err(ConfigError::invalid(
                "service.telemetry.upstream",
                &format!("`{name}`, which service.upstreams does not declare"),
                "the name of a declared upstream",
                &format!("declare `{name}` under service.upstreams"),
            )),
            (None, Some(_)) => self.collector().map(|_| ()),
            _ => Err(ConfigError::invalid(
                "service.telemetry",
                if self.upstream.is_some() {
                    "both `upstream` and `endpoint`"
                } else {
                    "neither `upstream` nor `endpoint`"
                },
                "exactly one of the two",
                "write `telemetry: { upstream: spa-proxy }`, or leave the section out to turn traces off",
            )),
        }
    }

    /// Address of the collector that `endpoint` names.
    pub(crate) fn collector(&self) -> Result<Address, ConfigError> {
        let seen = self.endpoint.as_deref().unwrap_or_default();
        let address = seen
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'));
        address.and_then(|address| address.parse().ok()).ok_or_else(|| {
            ConfigError::invalid(
                "service.telemetry.endpoint",
                &format!("`{seen}`"),
                "`http://host:port` without a path",
                "write `endpoint: \"http://127.0.0.1:4318\"`; for a remote collector use a mesh upstream",
            )
        })
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
