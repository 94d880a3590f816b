//! Why the gateway cannot start or take over a configuration.
//!
//! Owns: [`GatewayError`] and [`Fault`]. Refusals of single requests are in `refusal.rs`.

use std::fmt;

use ringwall_data_path::log::LogError;
use ringwall_service::ConfigError;
use thiserror::Error;

/// One thing that is wrong in the configuration, in the words a person needs to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where: `hosts[api.localhost].routes[orders].policy`.
    pub(crate) key: String,
    pub(crate) seen: String,
    pub(crate) expected: String,
    pub(crate) fix: String,
}

impl Fault {
    pub(crate) fn new(
        key: impl Into<String>,
        seen: impl Into<String>,
        expected: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            seen: seen.into(),
            expected: expected.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            seen,
            expected,
            fix,
        } = self;
        write!(f, "{key}: saw {seen}, expected {expected}; {fix}")
    }
}

/// A step of the start or of a reload that failed.
#[derive(Debug, Error)]
pub(crate) enum GatewayError {
    #[error("compile configuration: {0}")]
    Compile(Fault),
    #[error("the production profile refuses {0}")]
    Production(String),
    #[error("read configuration: {0}")]
    Read(#[from] ConfigError),
    #[error("TLS: {0}")]
    Tls(#[from] ringwall_tls::TlsError),
    #[error("user-context key: {0}")]
    Key(#[from] ringwall_token::TokenError),
    #[error(transparent)]
    AccessLog(#[from] LogError),
    #[error("authorization server: {0}")]
    Tokens(String),
    #[error("plugin: {0}")]
    Plugin(#[from] ringwall_plugin_host::Error),
    #[error("start worker thread: {0}")]
    Worker(std::io::Error),
}
