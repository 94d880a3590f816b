//! Who drops: the shield in its modes, and nftables with a set of the same addresses at the places that people use.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use ringwall_ebpf_loader::{Cause, Guard, Kernel, Mode, Prefix, Shield, Want};

use crate::ENTRIES;
use crate::network::{Network, RECEIVER, run};
use crate::traffic::{Drops, PORT, source};

/// One way of dropping.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    by: By,
    list: List,
}

enum By {
    Shield(Mode),
    Nft(Chain),
    /// XDP in the driver that drops whatever comes: what receiving a frame costs whoever drops it.
    Nobody,
}

/// What is on the list; every source that sends is in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// Single addresses. nftables keeps such a set in a hash table, and can then have no networks in it.
    Addresses,
    /// Single addresses in a set that may have networks too (`flags interval`), as the shield's may.
    Mixed,
    /// Networks: a /30 around each source.
    Networks,
}

pub(crate) enum Chain {
    /// Before routing and connection tracking.
    Prerouting,
    /// As early as nftables can.
    Ingress,
}

pub(crate) const SUBJECTS: &[Subject] = &[
    subject("nothing but a drop, driver", By::Nobody, List::Addresses),
    subject("shield, driver", By::Shield(Mode::Driver), List::Addresses),
    subject(
        "nftables, hash set, prerouting",
        By::Nft(Chain::Prerouting),
        List::Addresses,
    ),
    subject(
        "nftables, hash set, ingress",
        By::Nft(Chain::Ingress),
        List::Addresses,
    ),
    subject(
        "nftables, interval set, prerouting",
        By::Nft(Chain::Prerouting),
        List::Mixed,
    ),
    subject(
        "shield, ingress",
        By::Shield(Mode::Ingress),
        List::Addresses,
    ),
    subject(
        "shield, networks, driver",
        By::Shield(Mode::Driver),
        List::Networks,
    ),
    subject(
        "nftables, networks, prerouting",
        By::Nft(Chain::Prerouting),
        List::Networks,
    ),
];

const fn subject(name: &'static str, by: By, list: List) -> Subject {
    Subject { name, by, list }
}

/// A subject at work.
pub(crate) struct Dropping<'a> {
    network: &'a Network,
    at_work: AtWork,
}

enum AtWork {
    Shield(Box<Shield>),
    Nft,
    Nobody(Drops),
}

impl Subject {
    pub(crate) const fn is_of_addresses(&self) -> bool {
        matches!(self.list, List::Addresses)
    }

    pub(crate) fn start<'a>(&self, network: &'a Network, object: &[u8]) -> Dropping<'a> {
        let at_work = match &self.by {
            By::Shield(mode) => AtWork::Shield(Box::new(shield(network, object, *mode, self.list))),
            By::Nft(chain) => {
                nft(network, &rules(chain, self.list));
                AtWork::Nft
            }
            By::Nobody => AtWork::Nobody(network.receiving(Drops::attach)),
        };
        Dropping { network, at_work }
    }
}

fn listed(list: List) -> impl Iterator<Item = Prefix> {
    (0..ENTRIES).map(move |number| {
        let source = source(number);
        if list == List::Networks {
            let base = Ipv4Addr::from_bits(source.to_bits() & !3);
            return Prefix::new(base.into(), 30).unwrap();
        }
        Prefix::host(source.into())
    })
}

fn shield(network: &Network, object: &[u8], mode: Mode, list: List) -> Shield {
    let guard = Guard {
        ports: vec![PORT],
        ..Guard::default()
    };
    let mut shield = Shield::open(object, &network.pins, &guard).unwrap();
    let denied: Vec<Prefix> = listed(list).collect();
    shield.deny_all(&denied, Cause::Operator, None).unwrap();
    let attached = network.receiving(|| shield.attach(RECEIVER, Want::Only(mode)));
    assert_eq!(attached.unwrap().mode, mode);
    shield
}

fn rules(chain: &Chain, list: List) -> String {
    let (family, hook) = match chain {
        Chain::Prerouting => ("inet", "hook prerouting priority raw;".to_owned()),
        Chain::Ingress => (
            "netdev",
            format!("hook ingress device {RECEIVER} priority 0;"),
        ),
    };
    let listed: Vec<String> = listed(list).map(|prefix| prefix.to_string()).collect();
    let flags = match list {
        List::Addresses => "",
        List::Mixed | List::Networks => "flags interval; ",
    };
    format!(
        "table {family} bench {{\n counter dropped {{ }}\n set denied {{ type ipv4_addr; {flags}elements = {{ {} }} }}\n \
         chain first {{ type filter {hook} policy accept;\n ip saddr @denied counter name dropped drop\n }}\n}}\n",
        listed.join(", ")
    )
}

fn nft(network: &Network, rules: &str) {
    network.receiving(|| {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("nft: {error}; apt-get install nftables"));
        child
            .stdin
            .take()
            .unwrap()
            .write_all(rules.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success(), "nft");
    });
}

impl Dropping<'_> {
    pub(crate) const fn learns(&self) -> bool {
        matches!(self.at_work, AtWork::Shield(_))
    }

    /// What the agent does every few seconds.
    pub(crate) fn settle(&mut self) {
        if let AtWork::Shield(shield) = &mut self.at_work {
            shield.sweep().unwrap();
        }
    }

    /// Packets that were dropped so far.
    pub(crate) fn drops(&self) -> u64 {
        match &self.at_work {
            AtWork::Shield(shield) => {
                let counts = shield.counts().unwrap();
                return counts
                    .iter()
                    .filter(|(count, _)| count.is_drop())
                    .map(|(_, packets)| packets)
                    .sum();
            }
            AtWork::Nobody(_) => return self.network.received(),
            AtWork::Nft => {}
        }
        let listed = self.network.receiving(|| {
            let output = Command::new("nft").args(["list", "counters"]).output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        });
        let packets = listed.split("packets ").nth(1);
        let packets = packets.and_then(|text| text.split(' ').next());
        packets.unwrap().parse().unwrap()
    }
}

impl Drop for Dropping<'_> {
    fn drop(&mut self) {
        match &mut self.at_work {
            AtWork::Shield(_) => Kernel::remove(&self.network.pins).unwrap(),
            AtWork::Nobody(drops) => drops.detach(),
            AtWork::Nft => {
                self.network.receiving(|| run(&["nft", "flush", "ruleset"]));
                return;
            }
        }
        // The kernel lets go of a link a little later.
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
}
