//! Configuration: everything that a deployment can choose, with the bounds that it cannot cross
//! (R64).
//!
//! Reads nothing but the file; client and group declarations stand in `config/clients.rs` and
//! `config/directory.rs`, the checks in `config/validate.rs`
//! and `config/production.rs`.

pub(crate) mod clients;
pub(crate) mod directory;
mod production;
mod validate;

use std::path::PathBuf;
use std::time::Duration;

use ringwall_service::{ComponentConfig, ConfigError, Refusal, ServiceConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use clients::ClientDeclaration;
use directory::{Demo, GroupDeclaration};

/// Configuration of the authorization server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: ServiceConfig,
    /// The issuer identifier (RFC 8414 §2): https origin without path, query or fragment.
    #[schemars(with = "String")]
    pub(crate) issuer: Url,
    /// Workload name of the ingress gateway: the only peer whose `x-forwarded-for` counts, and
    /// the one whose certificate never authenticates a client.
    pub(crate) ingress: String,
    /// Every audience for which tokens can be issued.
    pub(crate) audiences: Vec<String>,
    #[serde(default)]
    pub(crate) lifetimes: Lifetimes,
    #[serde(default)]
    pub(crate) keys: KeyPolicy,
    #[serde(default)]
    pub(crate) passwords: PasswordPolicy,
    #[serde(default)]
    pub(crate) login_limits: LoginLimits,
    /// Groups with their roles and the audiences that their members may use.
    #[serde(default)]
    pub(crate) groups: Vec<GroupDeclaration>,
    /// Clients of the platform itself.
    #[serde(default)]
    pub(crate) clients: Vec<ClientDeclaration>,
    /// Seeded users and clients; a production profile refuses this section.
    #[serde(default)]
    pub(crate) demo: Option<Demo>,
}

/// How long each thing lives. Bounds are enforced at start.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Lifetimes {
    /// Access tokens; at most 15 min.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) access_token: Duration,
    /// Tokens from token exchange (RFC 8693); at most 5 min.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) exchanged_token: Duration,
    /// ID tokens; at most 15 min.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) id_token: Duration,
    /// Absolute life of a refresh family, however often it rotates; at most 30 days (production:
    /// 24 h).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) refresh_family: Duration,
    /// Window in which a lost refresh response can be asked for again; at most 30 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) refresh_retry: Duration,
    /// Authorization codes (RFC 6749 §4.1.2); at most 60 s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) code: Duration,
    /// Pushed requests (RFC 9126 §2.2); 5 s to 10 min.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) pushed_request: Duration,
    /// Time that a person has for sign-in and consent; at most 1 h.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) interaction: Duration,
    /// Absolute life of a sign-in; at most 24 h.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) login_session: Duration,
    /// Sign-in without use; at most the absolute life.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) login_idle: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            access_token: Duration::from_secs(5 * 60),
            exchanged_token: Duration::from_secs(60),
            id_token: Duration::from_secs(5 * 60),
            refresh_family: Duration::from_secs(12 * 3600),
            refresh_retry: Duration::from_secs(10),
            code: Duration::from_secs(60),
            pushed_request: Duration::from_secs(60),
            interaction: Duration::from_secs(30 * 60),
            login_session: Duration::from_secs(12 * 3600),
            login_idle: Duration::from_secs(2 * 3600),
        }
    }
}

/// Signing keys: age of rotation, overlap, and what seals them at rest.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KeyPolicy {
    /// A signing key older than this is replaced; at most 90 days.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) rotate_after: Duration,
    /// A replaced key stays published this long; at least 1 h and longer than any token.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) keep_for: Duration,
    /// Key that seals the signing keys at rest. Default: the `key_file` of a sealed secret
    /// provider.
    pub(crate) seal_key_file: Option<PathBuf>,
}

impl Default for KeyPolicy {
    fn default() -> Self {
        Self {
            rotate_after: Duration::from_secs(30 * 24 * 3600),
            keep_for: Duration::from_secs(24 * 3600),
            seal_key_file: None,
        }
    }
}

/// argon2id runs at 19 MiB each, so their number is memory.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PasswordPolicy {
    /// Hashes at the same time; 1 to 64.
    pub(crate) concurrent_hashes: usize,
    /// Sign-ins that may wait for a hash; beyond it the answer is 503. 1 to 1024.
    pub(crate) waiting: usize,
}

impl Default for PasswordPolicy {
    fn default() -> Self {
        Self {
            concurrent_hashes: 4,
            waiting: 32,
        }
    }
}

/// Failed sign-ins within one window, per account, client address and network (/24, /64).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LoginLimits {
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) window: Duration,
    pub(crate) account: u32,
    pub(crate) address: u32,
    pub(crate) network: u32,
}

impl Default for LoginLimits {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(5 * 60),
            account: 10,
            address: 50,
            network: 200,
        }
    }
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        validate::check(self)
    }

    fn production_refusals(&self) -> Vec<Refusal> {
        production::refusals(self)
    }
}
