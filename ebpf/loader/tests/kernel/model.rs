//! The policy in the words of its documentation, with the standard library's types and none of the product's code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) const WORKLOAD: &str = "orders";

/// xorshift64*: the same flows in every run.
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(mixed).unwrap() % bound
    }

    /// One time of `of`.
    pub(super) fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Denied,
    Passed,
    Captured,
    Named,
    Narrowed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
    /// ICMP, of either family.
    Other,
}

impl Transport {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Other => 1,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Connect,
    Bind,
    /// Of a socket that nothing is known about.
    Packet,
}

/// Something that an application does.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) what: What,
    pub(super) transport: Transport,
    /// By a socket of IPv6.
    pub(super) six: bool,
    pub(super) at: SocketAddr,
}

/// What is declared.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) services: Vec<(String, SocketAddr)>,
    pub(super) edges: Vec<String>,
    pub(super) direct: Vec<SocketAddr>,
    pub(super) udp: Vec<SocketAddr>,
    pub(super) ports: Vec<u16>,
    pub(super) capture_4: Option<SocketAddr>,
    pub(super) capture_6: Option<SocketAddr>,
    pub(super) dns_4: Option<SocketAddr>,
    pub(super) dns_6: Option<SocketAddr>,
    pub(super) narrow: bool,
    pub(super) egress: bool,
}

/// Few enough that they meet.
const PORTS: [u16; 5] = [53, 80, 443, 8080, 17990];

fn address(draw: &mut Draw) -> IpAddr {
    let choices = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9)),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)),
        IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2)),
        IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 2)),
    ];
    draw.of(&choices)
}

fn anywhere(draw: &mut Draw) -> SocketAddr {
    SocketAddr::new(address(draw), draw.of(&PORTS))
}

/// What is declared names its addresses plainly: no unspecified ones.
fn somewhere(draw: &mut Draw) -> SocketAddr {
    loop {
        let at = anywhere(draw);
        if !at.ip().is_unspecified() {
            return at;
        }
    }
}

impl Model {
    pub(super) fn draw(draw: &mut Draw) -> Self {
        let mut services: Vec<(String, SocketAddr)> = Vec::new();
        for number in 0..draw.below(6) {
            let at = somewhere(draw);
            // One service at an address; both loopbacks are one.
            if !services.iter().any(|(_, other)| same_service(*other, at)) {
                services.push((format!("service-{number}"), at));
            }
        }
        let names = services.iter().map(|(name, _)| name.clone());
        let edges = names.filter(|_| draw.chance(2)).collect();
        let some = |draw: &mut Draw, at: &str| {
            let at: SocketAddr = at.parse().unwrap();
            (!draw.chance(3)).then_some(at)
        };
        Self {
            edges,
            direct: (0..draw.below(3)).map(|_| somewhere(draw)).collect(),
            udp: (0..draw.below(3)).map(|_| somewhere(draw)).collect(),
            ports: (0..draw.below(3)).map(|_| draw.of(&PORTS)).collect(),
            capture_4: some(draw, "127.0.0.1:15001"),
            capture_6: some(draw, "[::1]:15001"),
            dns_4: some(draw, "127.0.0.1:15053"),
            dns_6: some(draw, "[::1]:15053"),
            narrow: draw.chance(2),
            egress: draw.chance(3),
            services,
        }
    }

    pub(super) fn judge(&self, call: &Call) -> Outcome {
        match call.what {
            What::Connect => self.connect(call),
            What::Bind => self.bind(call),
            What::Packet => self.packet(call),
        }
    }

    fn connect(&self, call: &Call) -> Outcome {
        // To connect to the unspecified address is to connect to loopback.
        let to = meant(call.at);
        match call.transport {
            Transport::Other => Outcome::Denied,
            Transport::Udp if listed(&self.udp, to) => Outcome::Passed,
            Transport::Udp => {
                let by_six = call.six && !is_four(call.at);
                let server = if by_six { self.dns_6 } else { self.dns_4 };
                if to.port() == 53 && server.is_some() {
                    Outcome::Named
                } else {
                    Outcome::Denied
                }
            }
            Transport::Tcp if listed(&self.direct, to) => Outcome::Passed,
            Transport::Tcp => {
                let service = self.services.iter().find(|(_, at)| same_service(*at, to));
                let allowed = match service {
                    Some((name, _)) => self.edges.contains(name),
                    None => self.egress,
                };
                let reachable = self.capture_4.is_some() || (call.six && self.capture_6.is_some());
                if allowed && reachable {
                    Outcome::Captured
                } else {
                    Outcome::Denied
                }
            }
        }
    }

    fn bind(&self, call: &Call) -> Outcome {
        let declared = call.transport == Transport::Tcp && self.ports.contains(&call.at.port());
        if call.at.port() != 0 && !declared {
            return Outcome::Denied;
        }
        if call.at.ip().to_canonical().is_loopback() {
            return Outcome::Passed;
        }
        if self.narrow {
            Outcome::Narrowed
        } else {
            Outcome::Denied
        }
    }

    fn packet(&self, call: &Call) -> Outcome {
        let server = self.dns_4 == Some(plain(call.at)) || self.dns_6 == Some(plain(call.at));
        match call.transport {
            Transport::Udp if server || listed(&self.udp, call.at) => Outcome::Passed,
            _ => Outcome::Denied,
        }
    }
}

impl Call {
    pub(super) fn draw(draw: &mut Draw, model: &Model) -> Self {
        let what = draw.of(&[What::Connect, What::Connect, What::Bind, What::Packet]);
        let call = Self {
            what,
            ..Self::somehow(draw, model)
        };
        match what {
            What::Bind if draw.chance(4) => Self {
                at: SocketAddr::new(call.at.ip(), 0),
                ..call
            },
            _ => call,
        }
    }

    pub(super) fn packet(draw: &mut Draw, model: &Model) -> Self {
        let mut call = Self::somehow(draw, model);
        call.what = What::Packet;
        if draw.chance(4) {
            let servers = [model.dns_4, model.dns_6, model.capture_4, model.capture_6];
            call.at = draw.of(&servers).unwrap_or(call.at);
        }
        call
    }

    /// A connect whose socket an application may have.
    pub(super) fn real(draw: &mut Draw, model: &Model) -> Self {
        let mut call = Self::somehow(draw, model);
        if call.transport == Transport::Other {
            call.transport = Transport::Tcp;
        }
        call
    }

    fn somehow(draw: &mut Draw, model: &Model) -> Self {
        let declared: Vec<SocketAddr> = model
            .services
            .iter()
            .map(|(_, at)| *at)
            .chain(model.direct.iter().copied())
            .chain(model.udp.iter().copied())
            .collect();
        let mut at = if declared.is_empty() || draw.chance(3) {
            anywhere(draw)
        } else {
            draw.of(&declared)
        };
        // IPv4 by a socket of IPv6.
        if let IpAddr::V4(four) = at.ip()
            && draw.chance(3)
        {
            at.set_ip(IpAddr::V6(four.to_ipv6_mapped()));
        }
        Self {
            what: What::Connect,
            transport: draw.of(&[
                Transport::Tcp,
                Transport::Tcp,
                Transport::Udp,
                Transport::Udp,
                Transport::Other,
            ]),
            six: at.is_ipv6(),
            at,
        }
    }
}

fn is_four(at: SocketAddr) -> bool {
    at.ip().to_canonical().is_ipv4()
}

/// A mapped address is one of IPv4.
fn plain(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

fn meant(at: SocketAddr) -> SocketAddr {
    let at = plain(at);
    match at.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), at.port()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), at.port()),
        _ => at,
    }
}

fn listed(list: &[SocketAddr], at: SocketAddr) -> bool {
    list.iter().any(|other| plain(*other) == plain(at))
}

/// Both loopbacks name one service.
fn same_service(one: SocketAddr, other: SocketAddr) -> bool {
    let fold = |at: SocketAddr| match meant(at).ip() {
        IpAddr::V6(Ipv6Addr::LOCALHOST) => (IpAddr::V4(Ipv4Addr::LOCALHOST), at.port()),
        address => (address, at.port()),
    };
    fold(one) == fold(other)
}
