//! Why the proxy cannot start. Refusals of single requests are in `refusal.rs`.

use ringwall_data_path::log::LogError;
use thiserror::Error;

/// A step of the start that failed.
#[derive(Debug, Error)]
pub(crate) enum ProxyError {
    #[error("start worker thread: {0}")]
    Worker(std::io::Error),
    #[error("plugins: {0}")]
    Plugins(#[from] ringwall_plugin_host::Error),
    #[error(transparent)]
    AccessLog(#[from] LogError),
    #[error("TLS: {0}")]
    Tls(#[from] ringwall_tls::TlsError),
    #[error(
        "the secret `{name}` is no loopback token: {why}\n  fix: make it of 32 random bytes in base64url"
    )]
    LoopbackToken { name: String, why: &'static str },
}
