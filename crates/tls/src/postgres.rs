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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{HOUR, authority, certified, now};
    use ringwall_identity::authority::Authority;
    use ringwall_secret::private_file;
    use rustls::server::WebPkiClientVerifier;
    use rustls::sign::SingleCertAndKey;
    use rustls::{RootCertStore, ServerConfig};
    use rustls_pki_types::CertificateDer;
    use std::sync::Arc;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_rustls::TlsAcceptor;

    struct Fixture {
        dir: TempDir,
        authority: Authority,
    }

    impl Fixture {
        fn new() -> Self {
            let fixture = Self {
                dir: tempfile::tempdir().unwrap(),
                authority: authority("ringwall.local"),
            };
            let bundle = fixture.authority.cert_pem();
            private_file::write(&fixture.dir.path().join("bundle.pem"), bundle.as_bytes()).unwrap();
            fixture.rotate("orders");
            fixture
        }

        fn rotate(&self, role: &str) {
            let issued = self.authority.issue_client(role, HOUR, now()).unwrap();
            let write = |name: &str, text: &str| {
                private_file::write(&self.dir.path().join(name), text.as_bytes()).unwrap();
            };
            write("client.key", &issued.key_pem);
            write("client.pem", &issued.chain_pem);
        }

        fn tls(&self) -> PostgresTls {
            PostgresTls::new(self.dir.path())
        }

        /// A server as PostgreSQL is configured here: client certificate required.
        fn server(&self) -> Arc<ServerConfig> {
            let dns = ["postgres.localhost".to_owned()];
            let issued = self.authority.issue_server(&dns, &[], HOUR, now()).unwrap();
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(self.authority.cert_pem()));
            let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .unwrap();
            let pair = certified(&issued.chain_pem, &issued.key_pem);
            Arc::new(
                ServerConfig::builder_with_provider(provider())
                    .with_protocol_versions(&[&TLS13])
                    .unwrap()
                    .with_client_cert_verifier(clients)
                    .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair))),
            )
        }

        /// Connects as tokio-postgres does, up to and including the client's choice of a SASL
        /// mechanism. Returns what the server saw: the client certificate and the first SASL message.
        async fn connect(
            &self,
            tls: PostgresTls,
            host: &str,
        ) -> Result<(CertificateDer<'static>, Vec<u8>), String> {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let mut config = tokio_postgres::Config::new();
            config
                .host(host)
                .user("orders")
                .password("p")
                .ssl_mode(tokio_postgres::config::SslMode::Require)
                .channel_binding(tokio_postgres::config::ChannelBinding::Require);
            let client = async {
                let mut tls = tls;
                let connect = MakeTlsConnect::<DuplexStream>::make_tls_connect(&mut tls, host)
                    .map_err(|error| error.to_string())?;
                match config.connect_raw(near, connect).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(format!("{error:?}")),
                }
            };
            let server = self.server();
            let serve = async move { serve(far, server).await.map_err(|error| error.to_string()) };
            match tokio::join!(client, serve) {
                (_, Ok(seen)) => Ok(seen),
                (client, Err(server)) => Err(format!("server: {server}; client: {client:?}")),
            }
        }
    }

    fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
        use rustls_pki_types::pem::PemObject;
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .map(Result::unwrap)
            .collect()
    }

    /// The first steps of PostgreSQL's protocol: SSLRequest, TLS, startup, SASL mechanisms.
    async fn serve(
        mut stream: DuplexStream,
        config: Arc<ServerConfig>,
    ) -> std::io::Result<(CertificateDer<'static>, Vec<u8>)> {
        let mut request = [0; 8];
        stream.read_exact(&mut request).await?;
        assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "SSLRequest");
        stream.write_all(b"S").await?;
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let length = stream.read_i32().await?;
        let mut startup = vec![0; usize::try_from(length).unwrap() - 4];
        stream.read_exact(&mut startup).await?;
        let mechanisms = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        stream.write_u8(b'R').await?;
        stream
            .write_i32(8 + i32::try_from(mechanisms.len()).unwrap())
            .await?;
        stream.write_i32(10).await?;
        stream.write_all(mechanisms).await?;
        stream.flush().await?;
        assert_eq!(stream.read_u8().await?, b'p');
        let length = stream.read_i32().await?;
        let mut message = vec![0; usize::try_from(length).unwrap() - 4];
        stream.read_exact(&mut message).await?;
        Ok((certificate, message))
    }

    #[tokio::test]
    async fn r23_client_certificate_and_channel_binding_reach_the_server() {
        let fixture = Fixture::new();
        let (certificate, sasl) = fixture
            .connect(fixture.tls(), "postgres.localhost")
            .await
            .unwrap();
        let own = std::fs::read_to_string(fixture.dir.path().join("client.pem")).unwrap();
        assert_eq!(certificate, certificates(&own)[0]);
        let text = String::from_utf8_lossy(&sasl);
        assert!(text.starts_with("SCRAM-SHA-256-PLUS\0"), "{text}");
        assert!(text.contains("p=tls-server-end-point,,"), "{text}");
    }

    #[tokio::test]
    async fn r24_each_connection_reads_the_files_again() {
        let fixture = Fixture::new();
        let tls = fixture.tls();
        let (first, _) = fixture
            .connect(tls.clone(), "postgres.localhost")
            .await
            .unwrap();
        fixture.rotate("orders");
        let (second, _) = fixture
            .connect(tls.clone(), "postgres.localhost")
            .await
            .unwrap();
        assert_ne!(first, second);
        assert!(tls.not_after().unwrap() > now());
    }

    #[tokio::test]
    async fn r23_server_under_another_name_or_root_is_refused() {
        let fixture = Fixture::new();
        let verdict = fixture
            .connect(fixture.tls(), "other.localhost")
            .await
            .unwrap_err();
        assert!(verdict.contains("NotValidForName"), "{verdict}");
        let stranger = authority("ringwall.local");
        let bundle = fixture.dir.path().join("bundle.pem");
        private_file::write(&bundle, stranger.cert_pem().as_bytes()).unwrap();
        let verdict = fixture
            .connect(fixture.tls(), "postgres.localhost")
            .await
            .unwrap_err();
        assert!(verdict.contains("UnknownIssuer"), "{verdict}");
    }

    #[test]
    fn files_that_cannot_serve_stop_the_start() {
        let fixture = Fixture::new();
        fixture.tls().check().unwrap();
        let other = fixture
            .authority
            .issue_client("orders", HOUR, now())
            .unwrap();
        let key = fixture.dir.path().join("client.key");
        private_file::write(&key, other.key_pem.as_bytes()).unwrap();
        let error = fixture.tls().check().unwrap_err().to_string();
        assert!(
            error.contains("is not the key of the certificate"),
            "{error}"
        );
        assert!(
            PostgresTls::new(fixture.dir.path().join("none"))
                .check()
                .is_err()
        );
    }
}
