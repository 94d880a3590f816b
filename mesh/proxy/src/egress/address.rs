//! Which addresses an answer of the name service may hold.
//!
//! Owns: the classes of addresses that are not the public internet (the special-purpose registries of RFC 6890 and what
//! clouds put behind them), also where an IPv4 address is wrapped in an IPv6 one, and the networks that an operator
//! declares all the same. What is not known to be public is refused.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why an address is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Instance metadata of a cloud: credentials for whoever asks.
    Metadata,
    Unspecified,
    Loopback,
    LinkLocal,
    /// RFC 1918, RFC 4193.
    Private,
    /// RFC 6598.
    SharedAddressSpace,
    Multicast,
    /// Documentation, benchmarks, protocols, the future.
    Reserved,
    /// An IPv6 form that hides another end: Teredo, local NAT64.
    Tunnel,
}

impl Class {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Private => "private",
            Self::SharedAddressSpace => "shared-address-space",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::Tunnel => "tunnel",
        }
    }

    /// Whether a declared network may hold such addresses: corporate networks and test machines do, metadata never.
    const fn can_be_declared(self) -> bool {
        matches!(
            self,
            Self::Loopback | Self::Private | Self::SharedAddressSpace
        )
    }
}

/// The class of an address that is not public; `None` for the public internet.
pub(crate) fn class(address: IpAddr) -> Option<Class> {
    match address {
        IpAddr::V4(address) => class_v4(address),
        IpAddr::V6(address) => class_v6(address),
    }
}

/// The address as it is dialled: IPv4 wrapped in IPv6 is unwrapped.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn class_v4(address: Ipv4Addr) -> Option<Class> {
    let class = match address.octets() {
        // AWS, Azure, Google, DigitalOcean and others; Azure's wire server; Alibaba; Oracle.
        [169, 254, 169, 254] | [168, 63, 129, 16] | [100, 100, 100, 200] | [192, 0, 0, 192] => {
            Class::Metadata
        }
        // AWS ECS task credentials and EKS pod identity.
        [169, 254, 170, 2 | 23] => Class::Metadata,
        [0, ..] => Class::Unspecified,
        [127, ..] => Class::Loopback,
        [169, 254, ..] => Class::LinkLocal,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Class::Private,
        [100, 64..=127, ..] => Class::SharedAddressSpace,
        [224..=239, ..] => Class::Multicast,
        // IETF protocols, documentation, 6to4 relays, benchmarks, the former class E with broadcast.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Class::Reserved
        }
        [198, 18..=19, ..] | [240..=255, ..] => Class::Reserved,
        _ => return None,
    };
    Some(class)
}

fn class_v6(address: Ipv6Addr) -> Option<Class> {
    let class = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Class::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        // IPv4-mapped (RFC 4291 §2.5.5.2), IPv4-compatible (deprecated), IPv4-translated (RFC 7915), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => return class_v4(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] => return class_v4(v4(high, low)).or(Some(Class::Reserved)),
        // 6to4 (RFC 3056): the IPv4 address stands in the prefix.
        [0x2002, high, low, ..] => return class_v4(v4(high, low)).or(Some(Class::Tunnel)),
        [0x64, 0xff9b, ..] | [0x2001, 0, ..] => Class::Tunnel,
        // AWS: instance metadata, name service, time.
        [0xfd00, 0x0ec2, ..] => Class::Metadata,
        // Google.
        [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => Class::Metadata,
        [0xfc00..=0xfdff, ..] => Class::Private,
        // Link-local and the former site-local.
        [0xfe80..=0xfebf, ..] => Class::LinkLocal,
        [0xfec0..=0xfeff, ..] => Class::Private,
        [0xff00..=0xffff, ..] => Class::Multicast,
        // IETF protocols (with ORCHID and benchmarks), documentation.
        [0x2001, 1..=0x1ff, ..] | [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => {
            Class::Reserved
        }
        // ISATAP (RFC 5214 §6.1): the IPv4 address stands in the interface identifier.
        [0x2000..=0x3fff, _, _, _, 0 | 0x200, 0x5efe, high, low] => {
            return class_v4(v4(high, low)).or(Some(Class::Tunnel));
        }
        [0x2000..=0x3fff, ..] => return None,
        // Global unicast is 2000::/3 (IANA); nothing else is given to anybody.
        _ => Class::Reserved,
    };
    Some(class)
}

const fn v4(high: u16, low: u16) -> Ipv4Addr {
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

/// A network in CIDR notation (RFC 4632), such as `10.1.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub(crate) struct Network {
    base: IpAddr,
    bits: u8,
}

impl Network {
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// Whether `address` may be dialled. `declared` are the networks that the rule may use beside the public internet.
pub(crate) fn check(address: IpAddr, declared: &[Network]) -> Result<(), Class> {
    let Some(class) = class(address) else {
        return Ok(());
    };
    let address = canonical(address);
    // Of the wrapped forms only the mapped one is a plain address: a tunnel into a declared network is not one of it.
    let is_declared = declared.iter().any(|network| network.contains(address));
    if class.can_be_declared() && is_declared {
        return Ok(());
    }
    Err(class)
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a network such as 10.1.0.0/16");
        let (base, bits) = text.split_once('/').ok_or_else(wrong)?;
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        let network = Self { base, bits };
        let longest = if base.is_ipv4() { 32 } else { 128 };
        // A base with bits beyond the prefix is a slip: nobody can say which network was meant.
        let (host_bits, value) = match base {
            IpAddr::V4(base) => (32 - u32::from(bits.min(32)), u128::from(base.to_bits())),
            IpAddr::V6(base) => (128 - u32::from(bits.min(128)), base.to_bits()),
        };
        let beyond = 1_u128
            .checked_shl(host_bits)
            .map_or(u128::MAX, |one| one - 1);
        if bits == 0 || bits > longest || value & beyond != 0 {
            return Err(wrong());
        }
        Ok(network)
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn attack_ssrf_no_special_address_is_public() {
        for (address, expected) in [
            ("169.254.169.254", Class::Metadata),
            ("169.254.170.2", Class::Metadata),
            ("168.63.129.16", Class::Metadata),
            ("100.100.100.200", Class::Metadata),
            ("fd00:ec2::254", Class::Metadata),
            ("::ffff:169.254.169.254", Class::Metadata),
            ("64:ff9b::169.254.169.254", Class::Metadata),
            ("::ffff:0:169.254.169.254", Class::Metadata),
            ("2002:a9fe:a9fe::1", Class::Metadata),
            ("2001:db9::5efe:169.254.169.254", Class::Metadata),
            ("0.0.0.0", Class::Unspecified),
            ("0.1.2.3", Class::Unspecified),
            ("::", Class::Unspecified),
            ("127.0.0.1", Class::Loopback),
            ("127.255.255.254", Class::Loopback),
            ("::1", Class::Loopback),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::127.0.0.1", Class::Loopback),
            ("64:ff9b::127.0.0.1", Class::Loopback),
            ("2002:7f00:1::", Class::Loopback),
            ("169.254.0.1", Class::LinkLocal),
            ("fe80::1", Class::LinkLocal),
            ("febf::1", Class::LinkLocal),
            ("10.0.0.1", Class::Private),
            ("172.16.0.1", Class::Private),
            ("172.31.255.255", Class::Private),
            ("192.168.1.1", Class::Private),
            ("fc00::1", Class::Private),
            ("fdff::1", Class::Private),
            ("fec0::1", Class::Private),
            ("64:ff9b::10.0.0.1", Class::Private),
            ("100.64.0.1", Class::SharedAddressSpace),
            ("100.127.255.255", Class::SharedAddressSpace),
            ("224.0.0.1", Class::Multicast),
            ("ff02::1", Class::Multicast),
            ("192.0.0.1", Class::Reserved),
            ("192.0.2.1", Class::Reserved),
            ("198.18.0.1", Class::Reserved),
            ("203.0.113.9", Class::Reserved),
            ("240.0.0.1", Class::Reserved),
            ("255.255.255.255", Class::Reserved),
            ("2001:db8::1", Class::Reserved),
            ("3fff::1", Class::Reserved),
            ("2001:20::1", Class::Reserved),
            ("100::1", Class::Reserved),
            ("4000::1", Class::Reserved),
            ("::8.8.8.8", Class::Reserved),
            ("64:ff9b:1::10.0.0.1", Class::Tunnel),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Class::Tunnel),
            ("2002:808:808::1", Class::Tunnel),
        ] {
            assert_eq!(class(ip(address)), Some(expected), "{address}");
        }
        for address in [
            "8.8.8.8",
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "169.253.1.1",
            "2606:4700::1111",
            "2a00::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert_eq!(class(ip(address)), None, "{address}");
        }
    }

    #[test]
    fn a_declared_network_opens_itself_alone_and_never_metadata() {
        let declared: Vec<Network> = [
            "10.1.0.0/16",
            "127.0.0.0/8",
            "fd12::/16",
            "169.254.0.0/16",
            "fd00::/8",
            "224.0.0.0/4",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec();
        for address in [
            "10.1.2.3",
            "127.0.0.1",
            "::ffff:10.1.2.3",
            "fd12::9",
            "8.8.8.8",
        ] {
            assert_eq!(check(ip(address), &declared), Ok(()), "{address}");
        }
        for address in [
            "10.2.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "169.254.1.1",
            "fd00:ec2::254",
            "224.0.0.1",
            "64:ff9b::10.1.2.3",
            "2002:a01:203::",
            "::10.1.2.3",
        ] {
            assert!(check(ip(address), &declared).is_err(), "{address}");
        }
    }

    #[test]
    fn networks_are_strict() {
        for text in [
            "10.1.0.0",
            "10.1.0.0/33",
            "10.1.2.0/16",
            "10.1.0.0/0",
            "x/8",
            "fd00::/129",
            "10.1.0.0/-1",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        assert_eq!(
            "10.1.0.0/16".parse::<Network>().unwrap().to_string(),
            "10.1.0.0/16"
        );
        assert!(
            "10.0.0.1/32"
                .parse::<Network>()
                .unwrap()
                .contains(ip("10.0.0.1"))
        );
        assert!("::/1".parse::<Network>().is_ok());
    }

    proptest! {
        /// However an address is wrapped, it is in the class that it has bare, or refused for its form.
        #[test]
        fn attack_wrapping_never_makes_an_address_public(
            prefix in proptest::sample::select(vec![
                0x0000_0000_u32, 0x0a00_0000, 0x7f00_0000, 0xa9fe_0000, 0xa9fe_a9fe, 0xac10_0000, 0xc0a8_0000, 0x6440_0000,
                0xe000_0000, 0xf000_0000,
            ]),
            host in 0..=0xffff_u32,
            tail in any::<u64>(),
        ) {
            let bits = if prefix & 0xffff == 0 { prefix | host } else { prefix };
            let bare = Ipv4Addr::from_bits(bits);
            let [high, low] = [(bits >> 16) as u16, bits as u16];
            prop_assert!(class_v4(bare).is_some());
            let [a, b, c, d] = [(tail >> 48) as u16, (tail >> 32) as u16, (tail >> 16) as u16, tail as u16];
            for wrapped in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, a, b, c, d, 1),
                Ipv6Addr::new(0x2a00, a, b, c, 0x200, 0x5efe, high, low),
            ] {
                prop_assert!(class_v6(wrapped).is_some(), "{}", wrapped);
            }
        }

        /// The special-purpose registries of IANA (RFC 6890), read as networks instead of octets.
        #[test]
        fn attack_ssrf_no_address_of_a_special_network_is_public(
            network in proptest::sample::select(vec![
                "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
                "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
                "224.0.0.0/4", "240.0.0.0/4", "::/96", "100::/64", "64:ff9b:1::/48", "2001::/23", "2001:db8::/32",
                "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
            ]),
            host in any::<u128>(),
        ) {
            let network: Network = network.parse().unwrap();
            let address = match network.base {
                IpAddr::V4(base) => {
                    let host = (host as u32).checked_shr(network.bits.into()).unwrap_or(0);
                    IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() | host))
                }
                IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() | host >> network.bits)),
            };
            prop_assert!(network.contains(address));
            prop_assert!(class(address).is_some(), "{}", address);
        }

        #[test]
        fn a_network_contains_exactly_its_prefix(base in any::<u32>(), bits in 1..=32_u8, other in any::<u32>()) {
            let mask = u32::MAX << (32 - u32::from(bits));
            let network = Network { base: IpAddr::V4(Ipv4Addr::from_bits(base & mask)), bits };
            let inside = other & mask == base & mask;
            prop_assert_eq!(network.contains(IpAddr::V4(Ipv4Addr::from_bits(other))), inside);
        }
    }
}
