//! Networks in CIDR notation, and addresses as hosts and headers write them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A network. An IPv4 address in an IPv6 one (`::ffff:192.0.2.1`) is that IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    bits: u128,
    mask: u128,
    v6: bool,
}

impl Network {
    /// `192.0.2.0/24`, `2001:db8::/32`, or one address.
    ///
    /// # Errors
    /// What is wrong: also bits behind the prefix, which most often are a mistake.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let wrong = || format!("{text:?} is no network");
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let full: u32 = if address.is_ipv6() { 128 } else { 32 };
        let length = match length {
            None => full,
            Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
        };
        if length > full {
            return Err(wrong());
        }
        let mask = prefix_mask(full, length);
        let bits = bits(address);
        if bits & !mask & prefix_mask(full, full) != 0 {
            return Err(format!("{text:?} has bits behind its prefix"));
        }
        Ok(Self {
            bits,
            mask,
            v6: address.is_ipv6(),
        })
    }

    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv6() == self.v6 && bits(address) & self.mask == self.bits
    }
}

/// The first `length` of `full` bits.
fn prefix_mask(full: u32, length: u32) -> u128 {
    let ones = |count: u32| match count {
        0 => 0,
        _ => u128::MAX >> (128 - count),
    };
    ones(full) & !ones(full - length)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// An address with or without a port: `192.0.2.1:40000`, `[2001:db8::1]:443`, `2001:db8::1`. A zone is left out.
#[must_use]
pub fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let address = inner.parse::<Ipv6Addr>().ok()?;
    Some(IpAddr::V6(address).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_in(network: &str, address: &str) -> bool {
        let network = Network::parse(network).unwrap();
        network.contains(address.parse().unwrap())
    }

    #[test]
    fn networks_hold_their_addresses() {
        for (network, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "::1", "127.0.0.1"),
            ("::1", "::1", "::2"),
            ("128.0.0.0/1", "200.0.0.1", "127.0.0.1"),
        ] {
            assert!(is_in(network, inside), "{network} {inside}");
            assert!(!is_in(network, outside), "{network} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "192.0.2.0/33",
            "192.0.2.1/24",
            "2001:db8::1/32",
            "::/129",
            "192.0.2.0/",
            "192.0.2.0/+8",
            "host",
            "192.0.2",
        ] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_come_with_and_without_ports() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            (" 192.0.2.1:40000 ", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(address(text), expected.parse().ok(), "{text}");
        }
        for text in [
            "",
            "unknown",
            "_hidden",
            "192.0.2.1:",
            "192.0.2.256",
            "[::1",
        ] {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
