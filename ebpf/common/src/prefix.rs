//! Networks: an address, and how many of its bits count.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// A network of IPv4 or IPv6. Bits beyond its length are zero; a v4-mapped one of IPv6 is the one of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    Address,
    Length { most: u8 },
    Bits { meant: Prefix },
}

impl Prefix {
    /// The network of this length that the address is in; none where the length is too long.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        if let IpAddr::V6(six) = address
            && let Some(four) = six.to_ipv4_mapped()
            && length >= 96
        {
            return Self::new(IpAddr::V4(four), length - 96);
        }
        let address = match address {
            IpAddr::V4(four) => {
                let free = 32_u8.checked_sub(length)?;
                let mask = u32::MAX.checked_shl(u32::from(free)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(four.to_bits() & mask))
            }
            IpAddr::V6(six) => {
                let free = 128_u8.checked_sub(length)?;
                let mask = u128::MAX.checked_shl(u32::from(free)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & mask))
            }
        };
        Some(Self { address, length })
    }

    /// One address alone.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let length = most(address);
        Self { address, length }
    }

    /// What one party has for itself: an address of IPv4, a /64 of IPv6.
    #[must_use]
    pub fn party(address: IpAddr) -> Self {
        let host = Self::host(address);
        let length = if host.address.is_ipv6() { 64 } else { 32 };
        Self::new(host.address, length).unwrap_or(host)
    }

    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Is this address in it?
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Self::new(address.to_canonical(), self.length).is_some_and(|other| other == self)
    }

    /// Is all of the other network in it?
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

const fn most(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let Some((address, length)) = text.split_once('/') else {
            let address = text.parse().map_err(|_| PrefixError::Address)?;
            return Ok(Self::host(address));
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address)?;
        let most = most(address);
        let wrong = PrefixError::Length { most };
        // `u8` takes a sign; a length has none.
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = match length.parse() {
            Ok(length) if digits && length <= most => length,
            _ => return Err(wrong),
        };
        let prefix = Self::new(address, length).ok_or(wrong)?;
        let same = match (prefix.address, address) {
            (IpAddr::V4(four), IpAddr::V6(six)) => six.to_ipv4_mapped() == Some(four),
            (one, other) => one == other,
        };
        if same {
            Ok(prefix)
        } else {
            Err(PrefixError::Bits { meant: prefix })
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == most(self.address) {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("no IP address, nor a network such as 192.0.2.0/24"),
            Self::Length { most } => write!(f, "the length of a prefix is a number up to {most}"),
            Self::Bits { meant } => write!(f, "it has bits beyond its length; write {meant}"),
        }
    }
}

impl core::error::Error for PrefixError {}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn networks_are_read_and_shown() {
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let error = |text: &str| text.parse::<Prefix>().unwrap_err().to_string();
        for text in ["", "x", "1.2.3", "1.2.3.4.5", "01.2.3.4", " 1.2.3.4"] {
            assert!(error(text).starts_with("no IP address"), "{text}");
        }
        for text in [
            "1.2.3.4/33",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "1.2.3.4/-1",
            "::/129",
            "::/256",
        ] {
            assert!(error(text).starts_with("the length"), "{text}");
        }
        assert!(error("10.1.0.0/8").ends_with("write 10.0.0.0/8"));
    }

    #[test]
    fn one_is_in_another() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let wide = prefix("10.0.0.0/8");
        assert!(wide.contains("10.255.0.1".parse().unwrap()));
        assert!(wide.contains("::ffff:10.1.1.1".parse().unwrap()));
        assert!(!wide.contains("11.0.0.1".parse().unwrap()));
        assert!(!wide.contains("a00::".parse().unwrap()));
        assert!(wide.covers(prefix("10.1.0.0/16")) && !prefix("10.1.0.0/16").covers(wide));
        assert!(prefix("::/0").contains("2001:db8::1".parse().unwrap()));
        assert_eq!(
            Prefix::party("2001:db8::1".parse().unwrap()),
            prefix("2001:db8::/64")
        );
        assert_eq!(
            Prefix::party("::ffff:10.1.1.1".parse().unwrap()),
            prefix("10.1.1.1")
        );
    }
}
