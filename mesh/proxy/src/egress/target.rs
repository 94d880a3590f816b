//! Where a request wants to go: one host with one reading, and a port.
//!
//! Owns: the normal form of a host name (RFC 3986 §3.2.2, RFC 1123 §2.1), and the refusal of everything that another
//! parser could read as another host: userinfo, obfuscated addresses, odd letters. Names are taken as they are on the
//! wire: an internationalised one comes in its ASCII form (RFC 5890 §2.3.2.1) or not at all.
//! Must not: resolve anything.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest host name and label (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A host in its normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// Lower case, without the dot at the end.
    Name(Box<str>),
    Ip(IpAddr),
}

/// A host with the port that was said, if one was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: Host,
    pub(crate) port: Option<u16>,
}

/// Why an authority has no single reading. The text is the word of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetFault {
    Missing,
    Userinfo,
    Port,
    /// Letters that host names do not have, also an internationalised name that is not in its ASCII form.
    Letters,
    Label,
    TooLong,
    /// A number where a name should be: `2130706433`, `0x7f.1`, `0177.0.0.1`, `127.1`.
    ObfuscatedAddress,
    Address,
}

impl TargetFault {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "host-missing",
            Self::Userinfo => "host-userinfo",
            Self::Port => "host-port",
            Self::Letters => "host-letters",
            Self::Label => "host-label",
            Self::TooLong => "host-too-long",
            Self::ObfuscatedAddress => "host-obfuscated-address",
            Self::Address => "host-address",
        }
    }
}

impl Target {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    pub(crate) fn parse(authority: &str) -> Result<Self, TargetFault> {
        if authority.contains('@') {
            return Err(TargetFault::Userinfo);
        }
        if let Some(rest) = authority.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or(TargetFault::Address)?;
            let address: Ipv6Addr = address.parse().map_err(|_| TargetFault::Address)?;
            return Ok(Self {
                host: Host::Ip(IpAddr::V6(address)),
                port: match rest {
                    "" => None,
                    rest => Some(port(rest.strip_prefix(':').ok_or(TargetFault::Port)?)?),
                },
            });
        }
        let (host, port) = match authority.split_once(':') {
            Some((host, digits)) => (host, Some(port(digits)?)),
            None => (authority, None),
        };
        Ok(Self {
            host: Host::parse(host)?,
            port,
        })
    }
}

impl Host {
    /// Reads a name or a dotted IPv4 address.
    pub(crate) fn parse(text: &str) -> Result<Self, TargetFault> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(TargetFault::Missing);
        }
        if name.len() > MAX_NAME {
            return Err(TargetFault::TooLong);
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !name.bytes().all(fits) {
            return Err(TargetFault::Letters);
        }
        for label in name.split('.') {
            let edge = label.starts_with('-') || label.ends_with('-');
            if label.is_empty() || label.len() > MAX_LABEL || edge {
                return Err(TargetFault::Label);
            }
        }
        if ends_in_a_number(name) {
            // The strict form is four decimal numbers without leading zeros; inet_aton(3) takes many others.
            let address: Ipv4Addr = name.parse().map_err(|_| TargetFault::ObfuscatedAddress)?;
            return Ok(Self::Ip(IpAddr::V4(address)));
        }
        Ok(Self::Name(name.to_ascii_lowercase().into()))
    }

    /// As an authority without a port.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Ip(IpAddr::V6(address)) => format!("[{address}]"),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// No top-level domain is a number: what ends in one is an address to somebody (WHATWG URL, "ends in a number").
fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn port(digits: &str) -> Result<u16, TargetFault> {
    let plain = !digits.is_empty()
        && !digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(port) if plain => Ok(port),
        _ => Err(TargetFault::Port),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Host {
        Host::Name(text.into())
    }

    #[test]
    fn a_host_has_one_form() {
        for (text, host, port) in [
            ("api.example.com", name("api.example.com"), None),
            ("API.Example.COM.:8443", name("api.example.com"), Some(8443)),
            ("xn--bcher-kva.example", name("xn--bcher-kva.example"), None),
            ("_dmarc.example.com", name("_dmarc.example.com"), None),
            (
                "192.0.2.7:1",
                Host::Ip("192.0.2.7".parse().unwrap()),
                Some(1),
            ),
            (
                "[2001:DB8::1]:443",
                Host::Ip("2001:db8::1".parse().unwrap()),
                Some(443),
            ),
            (
                "[::ffff:127.0.0.1]",
                Host::Ip("::ffff:7f00:1".parse().unwrap()),
                None,
            ),
        ] {
            assert_eq!(Target::parse(text), Ok(Target { host, port }), "{text}");
        }
    }

    #[test]
    fn attack_userinfo_and_odd_authorities_are_refused() {
        for (text, fault) in [
            ("api.example.com@169.254.169.254", TargetFault::Userinfo),
            ("user:pass@api.example.com", TargetFault::Userinfo),
            ("", TargetFault::Missing),
            (".", TargetFault::Missing),
            (":443", TargetFault::Missing),
            ("api.example.com:", TargetFault::Port),
            ("api.example.com:0", TargetFault::Port),
            ("api.example.com:0443", TargetFault::Port),
            ("api.example.com:+443", TargetFault::Port),
            ("api.example.com:70000", TargetFault::Port),
            ("api.example.com:443:80", TargetFault::Port),
            ("api..example.com", TargetFault::Label),
            ("api.example.com..", TargetFault::Label),
            ("-api.example.com", TargetFault::Label),
            ("api.example.com#x", TargetFault::Letters),
            ("api.example.com%2eevil.example", TargetFault::Letters),
            ("api.example.com\\evil", TargetFault::Letters),
            ("api.example.com/x", TargetFault::Letters),
            ("b\u{fc}cher.example", TargetFault::Letters),
            ("api\u{3002}example.com", TargetFault::Letters),
            ("\u{2460}.example", TargetFault::Letters),
            ("[::1", TargetFault::Address),
            ("[fe80::1%25eth0]", TargetFault::Address),
            ("[127.0.0.1]", TargetFault::Address),
            ("[::1]443", TargetFault::Port),
        ] {
            assert_eq!(Target::parse(text), Err(fault), "{text}");
        }
        assert_eq!(Target::parse(&"a.".repeat(130)), Err(TargetFault::TooLong));
        assert_eq!(Target::parse(&"a".repeat(64)), Err(TargetFault::Label));
    }

    #[test]
    fn attack_obfuscated_addresses_are_refused() {
        for text in [
            "2130706433",
            "017700000001",
            "0x7f000001",
            "0X7F000001",
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "127.0.0.01",
            "127.0.0.0x1",
            "127.0.0.256",
            "1.2.3.4.5",
            "0x",
            "api.example.123",
            "169.254.43518",
        ] {
            assert_eq!(
                Target::parse(text),
                Err(TargetFault::ObfuscatedAddress),
                "{text}"
            );
        }
        let literal = Target::parse("127.0.0.1.").unwrap();
        assert_eq!(literal.host, Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_its_own_normal_form(text in "[a-zA-Z0-9.:\\[\\]@%_-]{0,40}") {
            if let Ok(target) = Target::parse(&text) {
                let again = match target.port {
                    Some(port) => format!("{}:{port}", target.host.authority()),
                    None => target.host.authority(),
                };
                prop_assert_eq!(Target::parse(&again), Ok(target.clone()));
                if let Host::Name(name) = &target.host {
                    prop_assert!(name.parse::<IpAddr>().is_err());
                    prop_assert!(!name.ends_with('.') && !name.bytes().any(|b| b.is_ascii_uppercase()));
                }
            }
        }

        /// Whatever inet_aton(3) would take for an address is none of our names.
        #[test]
        fn attack_no_spelling_of_an_address_is_a_name(address in any::<u32>(), form in 0..8) {
            let [a, b, c, d] = address.to_be_bytes();
            let text = match form {
                0 => address.to_string(),
                1 => format!("{address:#x}"),
                2 => format!("0{address:o}"),
                3 => format!("{a}.{}", address & 0xff_ffff),
                4 => format!("{a}.{b}.{}", address & 0xffff),
                5 => format!("{a:#x}.{b}.{c:#x}.{d:#x}"),
                6 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
                _ => format!("{a}.{b}.{c}.{d}."),
            };
            let named = matches!(Target::parse(&text), Ok(Target { host: Host::Name(_), .. }));
            prop_assert!(!named, "{}", text);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = Target::parse(&text);
        }
    }
}
