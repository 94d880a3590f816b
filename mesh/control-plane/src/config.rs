//! The configuration: what is certified for how long, where state is kept, and who exists.
//!
//! Owns: the keys and their limits. Must not: hold a secret; secrets are named.
//! Read next: `config/services.rs` (the registry's entries), `app.rs`.

pub(crate) mod policy;
mod services;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ringwall_proto::ids::Name;
use ringwall_service::{ComponentConfig, ConfigError, IdentityFrom, Refusal, ServiceConfig};
use ringwall_store::postgres::PostgresConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use self::policy::PolicyConfig;
pub(crate) use self::services::ServiceEntry;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Configuration of `ringwall-control-plane`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: ServiceConfig,
    /// TLS listener without client certificates, for `Attestation.Join` alone.
    pub(crate) bootstrap: SocketAddr,
    pub(crate) authority: AuthorityConfig,
    pub(crate) store: StoreConfig,
    /// Nodes that may join, and get workloads.
    pub(crate) nodes: Vec<Name>,
    #[serde(default)]
    pub(crate) join: JoinConfig,
    /// Everything that has a name in the mesh.
    pub(crate) services: Vec<ServiceEntry>,
    /// Who may speak to whom: the first version, and a new one whenever it changes here.
    #[serde(default)]
    pub(crate) policy: PolicyConfig,
}

/// What is certified, by which authority, for how long.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthorityConfig {
    /// The trust bundle, PEM: the roots, without their keys.
    pub(crate) roots: PathBuf,
    /// Name of the secret with the intermediate's certificate chain, PEM, without the root.
    #[serde(default = "default_intermediate_cert")]
    pub(crate) intermediate_cert: String,
    /// Name of the secret with the intermediate's key, PKCS#8 PEM.
    #[serde(default = "default_intermediate_key")]
    pub(crate) intermediate_key: String,
    /// Name of the secret (32 bytes at least) that seals keys in the store.
    #[serde(default = "default_store_key")]
    pub(crate) store_key: String,
    /// Whether the root is somebody else's. Nothing is checked less strictly: operators see it.
    #[serde(default)]
    pub(crate) external_root: bool,
    /// Life of X.509-SVIDs: 10s to 1h.
    #[serde(default = "hour", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) svid_ttl: Duration,
    /// Life of client certificates for databases: 10s to 1h.
    #[serde(default = "hour", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) database_ttl: Duration,
    /// Life of server certificates: 1m to 7 days.
    #[serde(default = "day", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) server_ttl: Duration,
    /// Life of JWT-SVIDs: 10s to 1h.
    #[serde(default = "five_minutes", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) jwt_ttl: Duration,
    /// Age at which another key signs tokens and policies: 1h to 30 days. The old one stays
    /// published for as long again.
    #[serde(default = "week", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) jwt_key_life: Duration,
    /// How long the audit log is kept: 1 to 366 days.
    #[serde(default = "quarter", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) audit_keep: Duration,
}

/// Where state is kept.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum StoreConfig {
    /// A file of this process: one replica.
    Embedded(PathBuf),
    /// A database that replicas share. The client certificate is issued by this process into the
    /// directory `tls`.
    Postgres(PostgresConfig),
}

/// How nodes join.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct JoinConfig {
    /// Name of a secret with tokens that were made elsewhere: a JSON list of
    /// `{"sha256": hex, "node": name, "not_after": Unix seconds}`. It may be absent.
    pub(crate) tokens: String,
    /// Attempts of one address (IPv6: one /64) in a row, then one each second.
    pub(crate) burst: u32,
}

impl Default for JoinConfig {
    fn default() -> Self {
        Self {
            tokens: "join-tokens".to_owned(),
            burst: 20,
        }
    }
}

fn default_intermediate_cert() -> String {
    "intermediate-cert".to_owned()
}

fn default_intermediate_key() -> String {
    "intermediate-key".to_owned()
}

fn default_store_key() -> String {
    "store-key".to_owned()
}

fn hour() -> Duration {
    HOUR
}

fn day() -> Duration {
    24 * HOUR
}

fn week() -> Duration {
    7 * day()
}

fn quarter() -> Duration {
    90 * day()
}

fn five_minutes() -> Duration {
    5 * MINUTE
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if self.service.identity != IdentityFrom::Own {
            return Err(ConfigError::invalid(
                "service.identity",
                &format!("`{}`", self.service.identity),
                "`self`: this component issues its own identity",
                "write `identity: self`",
            ));
        }
        if self.service.state.is_none() {
            return Err(ConfigError::invalid(
                "service.state",
                "nothing",
                "a directory for durable files",
                "add `state: /var/lib/ringwall/data/control-plane`",
            ));
        }
        if self.join.burst == 0 {
            return Err(ConfigError::invalid(
                "join.burst",
                "0",
                "1 or more: nobody could ever join",
                "write `burst: 20`",
            ));
        }
        if let StoreConfig::Postgres(postgres) = &self.store {
            postgres.validate().map_err(|error| {
                ConfigError::invalid(
                    "store.postgres",
                    &error.to_string(),
                    "a usable server",
                    "see above",
                )
            })?;
        }
        self.authority.validate()?;
        self.validate_nodes()?;
        services::validate(&self.service, &self.nodes, &self.services)
    }

    fn production_refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }
}

impl Config {
    fn validate_nodes(&self) -> Result<(), ConfigError> {
        let mut seen = HashSet::new();
        for node in &self.nodes {
            self.service.workload(&format!("agent/{node}"))?;
            if !seen.insert(node) {
                return Err(ConfigError::invalid(
                    "nodes",
                    &format!("`{node}` twice"),
                    "each node once",
                    "remove one of the two",
                ));
            }
        }
        Ok(())
    }
}

impl AuthorityConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let ten_seconds = Duration::from_secs(10);
        let ranges = [
            ("svid_ttl", self.svid_ttl, ten_seconds, HOUR, "10s to 1h"),
            (
                "database_ttl",
                self.database_ttl,
                ten_seconds,
                HOUR,
                "10s to 1h",
            ),
            ("server_ttl", self.server_ttl, MINUTE, week(), "1m to 7days"),
            ("jwt_ttl", self.jwt_ttl, ten_seconds, HOUR, "10s to 1h"),
            (
                "jwt_key_life",
                self.jwt_key_life,
                HOUR,
                30 * day(),
                "1h to 30days",
            ),
            (
                "audit_keep",
                self.audit_keep,
                day(),
                366 * day(),
                "1day to 366days",
            ),
        ];
        for (key, seen, least, most, range) in ranges {
            if seen < least || seen > most {
                return Err(ConfigError::invalid(
                    &format!("authority.{key}"),
                    &format!("{seen:?}"),
                    range,
                    &format!("leave `{key}` out, or choose a value of {range}"),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
