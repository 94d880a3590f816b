//! Why TLS material cannot be used: which file, what is wrong, and what to do.

use std::path::PathBuf;

use ringwall_identity::{IdentityError, SpiffeId};
use ringwall_secret::SecretError;
use time::OffsetDateTime;

/// Every refusal of this crate outside a handshake.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A private key's file cannot be read, or others can read it too.
    #[error("private key: {0}")]
    KeyFile(#[from] SecretError),
    /// A certificate's file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Key and certificate are not a pair. While both are being replaced, this passes by itself.
    #[error("{} is not the key of the certificate in {}", key.display(), chain.display())]
    NotAPair {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        chain: PathBuf,
    },
    /// A certificate does not carry a workload identity.
    #[error("{}: {source}", path.display())]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// The rule that it breaks.
        source: IdentityError,
    },
    /// A certificate has ended.
    #[error("{} expired at {not_after}; issue a new one (`ringwall up` does)", path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When it ended.
        not_after: OffsetDateTime,
    },
    /// A rotated certificate names another workload. A process keeps its identity for life.
    #[error("{} now names {seen}, but this process is {expected}", path.display())]
    IdentityChanged {
        /// The certificate's file.
        path: PathBuf,
        /// The workload that it names now.
        seen: SpiffeId,
        /// The workload that this process is.
        expected: SpiffeId,
    },
    /// A certificate revocation list cannot be used (RFC 5280 §5).
    #[error("{}: a revocation list in it is not usable: {why}", path.display())]
    RevocationList {
        /// Where the list came from.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An edge certificate does not cover a host that it is configured for.
    #[error("{} does not cover the host {host:?} that it is configured for", path.display())]
    HostNotCovered {
        /// The certificate's file.
        path: PathBuf,
        /// The configured host.
        host: String,
    },
    /// The edge configuration names no host, or one host twice.
    #[error("edge certificates: {0}")]
    Hosts(String),
    /// The TLS library refused the material.
    #[error("TLS material was refused: {0}")]
    Rustls(#[from] rustls::Error),
}
