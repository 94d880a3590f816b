//! The secret that proxy and application share, since loopback belongs to everybody on the machine.
//!
//! Owns: its shape and its comparison in constant time. Must not: log it, or let it leave loopback.

use std::fmt;

use http::{HeaderMap, HeaderValue};
use ringwall_proto::headers::LOOPBACK;
use ringwall_secret::{SecretProvider, SecretString};
use ringwall_service::StartError;

use crate::error::ProxyError;

/// A shorter secret could be guessed; 32 random bytes are 43 letters of base64url.
const SHORTEST: usize = 32;

/// The secret, ready to be sent and compared.
pub(crate) struct LoopbackToken {
    secret: SecretString,
    value: HeaderValue,
}

impl fmt::Debug for LoopbackToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoopbackToken")
    }
}

impl LoopbackToken {
    /// Reads the secret called `name`.
    ///
    /// # Errors
    /// When it is not there, too short, or no text that a header may hold.
    pub(crate) fn read(secrets: &SecretProvider, name: &str) -> Result<Self, StartError> {
        let secret = secrets.get_string(name)?;
        let refuse = |why| {
            StartError::config(ProxyError::LoopbackToken {
                name: name.to_owned(),
                why,
            })
        };
        if secret.expose().len() < SHORTEST {
            return Err(refuse("it is shorter than 32 letters and could be guessed"));
        }
        let mut value = HeaderValue::from_str(secret.expose())
            .map_err(|_| refuse("it holds other letters than visible ASCII"))?;
        value.set_sensitive(true);
        Ok(Self { secret, value })
    }

    /// What proves to the application that it is we who call.
    pub(crate) fn value(&self) -> HeaderValue {
        self.value.clone()
    }

    /// Whether a request of the application proves the same to us; the field is to be stripped in any case.
    pub(crate) fn is_shown_in(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(LOOPBACK).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => self.secret.ct_eq(value.as_bytes()),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<LoopbackToken, StartError> {
        let directory = tempfile::tempdir().expect("directory");
        ringwall_secret::private_file::write(
            &directory.path().join("loopback-token"),
            content.as_bytes(),
        )
        .expect("secret");
        let config = serde_json::json!({ "provider": "file", "directory": directory.path() });
        let config = serde_json::from_value(config).expect("config");
        let secrets = SecretProvider::open(&config).expect("provider");
        LoopbackToken::read(&secrets, "loopback-token")
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789a";

    #[test]
    fn r60_exactly_the_secret_opens() {
        let token = read(SECRET).expect("token");
        let shown = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(LOOPBACK, HeaderValue::from_static(value));
            }
            token.is_shown_in(&headers)
        };
        assert!(shown(&[SECRET]));
        assert!(!shown(&[]));
        assert!(!shown(&["0123456789abcdef0123456789abcdef0123456789b"]));
        assert!(!shown(&[SECRET, SECRET]), "two are as bad as none");
    }

    #[test]
    fn a_secret_that_could_be_guessed_stops_the_start() {
        assert!(read("short").is_err());
    }

    #[test]
    fn r69_it_is_never_shown() {
        let token = read(SECRET).expect("token");
        assert!(token.value().is_sensitive());
        assert!(!format!("{token:?} {:?}", token.value()).contains(SECRET));
    }
}
