//! TLS to PostgreSQL: client certificate, verify-full, channel binding (R23, R24).
//!
//! Owns: [`PostgresTls`], which reads the certificate files again for each connection, so that a
//! pool rotates its certificate by recycling connections.
//! Must not: fall back to an unencrypted or unverified connection.
//!
//! The handshake itself is `tokio-postgres-rustls`, which also gives tokio-postgres the channel
//! binding `tls-server-end-point` (RFC 5929 §4) for SCRAM-SHA-256-PLUS.

use std::path::{Path, PathBuf};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::provider::provider;
use crate::{TlsError, pem};

/// Connects to PostgreSQL with the files `client.pem`, `client.key` (0600) and `bundle.pem` of one
/// directory, as they are at the time of each connection.
///
/// The name to verify is the `host` of the `tokio_postgres::Config`; give the address separately as
/// `hostaddr` where they differ.
#[derive(Clone, Debug)]
pub struct PostgresTls {
    directory: PathBuf,
}

impl PostgresTls {
    /// Uses the files in `directory`. They are not read yet; see [`PostgresTls::check`].
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The directory that holds the files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the files once, so that a wrong one stops the start and not the first query.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn check(&self) -> Result<(), TlsError> {
        self.config().map(drop)
    }

    /// When the client certificate ends that the next connection would use.
    ///
    /// # Errors
    /// [`TlsError`] when the certificate cannot be read.
    pub fn not_after(&self) -> Result<time::OffsetDateTime, TlsError> {
        let path = self.directory.join("client.pem");
        let chain = pem::certificates(&path)?;
        let none = TlsError::Content {
            path: path.clone(),
            what: "there is no certificate in it",
        };
        let (_, not_after) = ringwall_identity::svid::validity_of(chain.first().ok_or(none)?)
            .map_err(|source| TlsError::Identity { path, source })?;
        Ok(not_after)
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let file = |name| self.directory.join(name);
        let roots = pem::roots(&file("bundle.pem"))?;
        // The same check for a matching pair as everywhere; rustls alone would find out later.
        let pair = pem::certified_key(&file("client.pem"), &file("client.key"))?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_cert_resolver(std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(
                pair,
            )));
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl<S> MakeTlsConnect<S> for PostgresTls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = <MakeRustlsConnect as MakeTlsConnect<S>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<S>>::TlsConnect;
    type Error = TlsError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, TlsError> {
        let mut connector = MakeRustlsConnect::new(self.config()?);
        match MakeTlsConnect::<S>::make_tls_connect(&mut connector, domain) {
            Ok(connect) => Ok(connect),
            Err(never) => match never {},
        }
    }
}
