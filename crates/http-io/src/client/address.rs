//! Where an upstream listens: an IP address with a port, or a name that is resolved at each connect.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc};

use http::uri::Authority;
use serde::{Deserialize, Serialize};

/// The one place that a client dials. A name is resolved by the system each time a connection is
/// made; who answers is decided by TLS, never by the name service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    Ip(SocketAddr),
    Name { host: Arc<str>, port: u16 },
}

/// Text that is neither `ip:port` nor `name:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an address must be `ip:port` or `name:port`, such as 127.0.0.1:7103 or inventory:7103")]
pub struct InvalidAddress;

impl Address {
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }

    /// Whether the address can only be this machine.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().is_loopback(),
            Self::Name { host, .. } => &**host == "localhost",
        }
    }

    pub(super) fn authority(&self) -> Authority {
        self.to_string()
            .parse()
            .expect("an address is a valid authority by construction")
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress)?;
        let port = port.parse().map_err(|_| InvalidAddress)?;
        // Letters, digits, '-' and '.' (RFC 952, RFC 1123 §2.1), and '_' as compose files use it.
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let digits_only = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if host.len() > 253 || digits_only || !host.bytes().all(allowed) {
            return Err(InvalidAddress);
        }
        Ok(Self::Name {
            host: host.into(),
            port,
        })
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;
    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_round_trip() {
        for text in [
            "127.0.0.1:7103",
            "[::1]:7103",
            "inventory:7103",
            "a.b-c.example:1",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bad in [
            "",
            ":1",
            "inventory",
            "inventory:",
            "inventory:x",
            "a b:1",
            "u@h:1",
            "h/x:1",
            "1.2.3:4",
            "h:70000",
        ] {
            assert_eq!(bad.parse::<Address>(), Err(InvalidAddress), "{bad}");
        }
    }

    #[test]
    fn loopback_is_recognised() {
        for (text, expected) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("10.0.0.1:1", false),
            ("jaeger:1", false),
        ] {
            assert_eq!(
                text.parse::<Address>().unwrap().is_loopback(),
                expected,
                "{text}"
            );
        }
    }
}
