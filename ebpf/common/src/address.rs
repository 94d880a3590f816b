//! Addresses in one form: IPv4 is carried as its v4-mapped IPv6 form, so that an address has one key in every map.

/// An IP address as four words in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub [u32; 4]);

/// An address and a port (in host byte order). Port 0 stands for "none".
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: Address,
    pub port: u16,
    pub padding: u16,
}

const _: () = assert!(size_of::<Address>() == 16 && size_of::<Endpoint>() == 20);

/// `::ffff:0:0/96` in its third word.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();
const LOOPBACK_4: u32 = 0x7f00_0001_u32.to_be();
const LAST_BIT: u32 = 1_u32.to_be();

impl Address {
    pub const UNSPECIFIED_6: Self = Self([0; 4]);
    pub const LOOPBACK_6: Self = Self([0, 0, 0, LAST_BIT]);
    pub const LOOPBACK_4: Self = Self([0, 0, MAPPED, LOOPBACK_4]);

    /// From an IPv4 address in network byte order, as the kernel holds it.
    #[inline(always)]
    #[must_use]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        let Self([first, second, third, _]) = self;
        first == 0 && second == 0 && third == MAPPED
    }

    /// The last word: of an IPv4 address, the whole of it.
    #[inline(always)]
    #[must_use]
    pub const fn last(self) -> u32 {
        let Self([.., last]) = self;
        last
    }

    /// Word by word: the compiler would turn `==` on arrays into a call that the verifier has no name for.
    #[inline(always)]
    #[must_use]
    pub const fn same(self, other: Self) -> bool {
        let Self([a, b, c, d]) = self;
        let Self([e, f, g, h]) = other;
        a == e && b == f && c == g && d == h
    }

    /// `0.0.0.0` and `::`.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.last() == 0 && (self.is_v4() || self.same(Self::UNSPECIFIED_6))
    }

    /// `127.0.0.0/8` and `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() {
            return u32::from_be(self.last()) >> 24 == 127;
        }
        self.same(Self::LOOPBACK_6)
    }

    /// Where a connection to this address goes: to the unspecified address, Linux means its own loopback.
    #[inline(always)]
    #[must_use]
    pub const fn canonical(self) -> Self {
        if !self.is_unspecified() {
            return self;
        }
        if self.is_v4() {
            Self::LOOPBACK_4
        } else {
            Self::LOOPBACK_6
        }
    }

    /// The form under which services are known: both loopbacks are one.
    #[inline(always)]
    #[must_use]
    pub const fn folded(self) -> Self {
        let canonical = self.canonical();
        if canonical.same(Self::LOOPBACK_6) {
            Self::LOOPBACK_4
        } else {
            canonical
        }
    }
}

impl Endpoint {
    pub const NONE: Self = Self::new(Address::UNSPECIFIED_6, 0);

    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, port: u16) -> Self {
        Self {
            address,
            port,
            padding: 0,
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.port != 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn same(self, other: Self) -> bool {
        self.port == other.port && self.address.same(other.address)
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        let bytes = match address {
            core::net::IpAddr::V4(four) => four.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(six) => six.octets(),
        };
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        let [a, b, c, d] = address.0.map(u32::from_be);
        let bits =
            (u128::from(a) << 96) | (u128::from(b) << 64) | (u128::from(c) << 32) | u128::from(d);
        core::net::Ipv6Addr::from_bits(bits).to_canonical()
    }
}

impl From<core::net::SocketAddr> for Endpoint {
    fn from(address: core::net::SocketAddr) -> Self {
        Self::new(address.ip().into(), address.port())
    }
}

impl From<Endpoint> for core::net::SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.address.into(), endpoint.port)
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;
    use std::string::ToString;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_address_has_one_form() {
        assert_eq!(address("10.1.2.3"), address("::ffff:10.1.2.3"));
        assert_eq!(
            IpAddr::from(address("::ffff:10.1.2.3")).to_string(),
            "10.1.2.3"
        );
        assert_eq!(IpAddr::from(address("fd00::2")).to_string(), "fd00::2");
    }

    #[test]
    fn nothing_given_means_loopback() {
        assert_eq!(address("0.0.0.0").canonical(), Address::LOOPBACK_4);
        assert_eq!(address("::ffff:0.0.0.0").canonical(), Address::LOOPBACK_4);
        assert_eq!(address("::").canonical(), Address::LOOPBACK_6);
        assert_eq!(address("::").folded(), Address::LOOPBACK_4);
        assert_eq!(address("0.0.0.1").canonical(), address("0.0.0.1"));
    }

    #[test]
    fn loopback_is_a_network_in_ipv4() {
        for inside in ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"] {
            assert!(address(inside).is_loopback(), "{inside}");
        }
        for outside in ["128.0.0.1", "::2", "0.0.0.0", "::", "fe80::1"] {
            assert!(!address(outside).is_loopback(), "{outside}");
        }
    }
}
