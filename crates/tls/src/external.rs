//! TLS to servers outside of the platform, and what a client outside of our hands asks for in its first message.
//!
//! Owns: the configuration of the egress gateway (verified by name against configured roots, TLS 1.2 and 1.3), and the
//! reading of a ClientHello that is passed through ([`sni`]).
//! Must not: present a client certificate; workloads have no identity outside.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::server::Acceptor;
use rustls::version::{TLS12, TLS13};

use crate::provider::provider;
use crate::{TlsError, pem};

/// For dialling a server outside: its name is verified against the roots in `roots_pem`. ALPN offers `h2`, then
/// `http/1.1`.
///
/// # Errors
/// [`TlsError`] when the roots cannot be read.
pub fn external_client_config(roots_pem: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(pem::roots(roots_pem)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // RFC 7627: without it, a TLS 1.2 session can be synchronised with another one.
    config.require_ems = true;
    Ok(Arc::new(config))
}

/// What the first bytes of a connection say about the server that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// The ClientHello is not whole yet.
    Incomplete,
    /// Server Name Indication (RFC 6066 §3), in lower case.
    Name(String),
    /// A ClientHello without a name.
    Absent,
    /// Something else than TLS, or broken.
    NotTls,
}

/// Reads the server's name from the first bytes of a connection, of which the caller keeps no more than it must.
#[must_use]
pub fn sni(mut bytes: &[u8]) -> Sni {
    let mut acceptor = Acceptor::default();
    // A byte of another protocol than a TLS handshake (RFC 8446 §5.1) needs no second one to be told apart.
    if bytes.first().is_some_and(|first| *first != 22) {
        return Sni::NotTls;
    }
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).is_err() {
            return Sni::NotTls;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return match hello.server_name() {
                    Some(name) => Sni::Name(name.to_ascii_lowercase()),
                    None => Sni::Absent,
                };
            }
            Ok(None) => {}
            Err(_) => return Sni::NotTls,
        }
    }
    Sni::Incomplete
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::RootCertStore;
    use rustls::client::ClientConnection;
    use rustls_pki_types::ServerName;

    use super::*;

    /// The first message of a client that dials `name`.
    fn hello(name: &str, sni: bool) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.enable_sni = sni;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_name_is_read_once_the_message_is_whole() {
        let bytes = hello("Api.Example.com", true);
        assert_eq!(sni(&bytes), Sni::Name("api.example.com".to_owned()));
        for length in 0..bytes.len() {
            assert_eq!(sni(&bytes[..length]), Sni::Incomplete, "{length}");
        }
        assert_eq!(sni(&hello("api.example.com", false)), Sni::Absent);
        assert_eq!(
            sni(&hello("192.0.2.7", true)),
            Sni::Absent,
            "an address is not sent as SNI"
        );
        assert_eq!(sni(b"GET / HTTP/1.1\r\n\r\n"), Sni::NotTls);
        assert_eq!(sni(b"SSH-2.0-x"), Sni::NotTls);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8),
            tail in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = hello("api.example.com", true);
            for (at, value) in flips {
                let at = usize::from(at) % bytes.len();
                bytes[at] = value;
            }
            bytes.extend(&tail);
            let _ = sni(&bytes);
            let _ = sni(&tail);
        }
    }
}
