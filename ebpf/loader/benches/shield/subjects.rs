//! Who drops: the shield in its modes, and nftables with a set of the same addresses at the places that people use.

use std::io::Write;
use std::process::{Command, Stdio};

use ringwall_ebpf_loader::{Cause, Guard, Kernel, Mode, Prefix, Shield, Want};

use crate::ENTRIES;
use crate::network::{Network, RECEIVER, run};
use crate::traffic::{PORT, source};

/// One way of dropping.
pub(crate) enum Subject {
    Shield(&'static str, Mode),
    /// Name, and where its chain is.
    Nft(&'static str, Chain),
}

pub(crate) enum Chain {
    /// Before routing and connection tracking.
    Prerouting,
    /// As early as nftables can.
    Ingress,
}

pub(crate) const SUBJECTS: &[Subject] = &[
    Subject::Shield("shield, driver", Mode::Driver),
    Subject::Nft("nftables, hash set, prerouting", Chain::Prerouting),
    Subject::Shield("shield, ingress", Mode::Ingress),
    Subject::Nft("nftables, hash set, ingress", Chain::Ingress),
];

/// A subject at work.
pub(crate) struct Dropping<'a> {
    network: &'a Network,
    shield: Option<Shield>,
}

impl Subject {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Shield(name, _) | Self::Nft(name, ..) => name,
        }
    }

    pub(crate) fn start<'a>(&self, network: &'a Network, object: &[u8]) -> Dropping<'a> {
        let shield = match self {
            Self::Shield(_, mode) => Some(shield(network, object, *mode)),
            Self::Nft(_, chain) => {
                nft(network, &rules(chain));
                None
            }
        };
        Dropping { network, shield }
    }
}

fn shield(network: &Network, object: &[u8], mode: Mode) -> Shield {
    let guard = Guard {
        ports: vec![PORT],
        ..Guard::default()
    };
    let mut shield = Shield::open(object, &network.pins, &guard).unwrap();
    let denied: Vec<Prefix> = (0..ENTRIES)
        .map(|number| Prefix::host(source(number).into()))
        .collect();
    shield.deny_all(&denied, Cause::Operator, None).unwrap();
    let attached = network.receiving(|| shield.attach(RECEIVER, Want::Only(mode)));
    assert_eq!(attached.unwrap().mode, mode);
    shield
}

fn rules(chain: &Chain) -> String {
    let (family, hook) = match chain {
        Chain::Prerouting => ("inet", "hook prerouting priority raw;".to_owned()),
        Chain::Ingress => (
            "netdev",
            format!("hook ingress device {RECEIVER} priority 0;"),
        ),
    };
    let listed: Vec<String> = (0..ENTRIES)
        .map(|number| source(number).to_string())
        .collect();
    format!(
        "table {family} bench {{\n counter dropped {{ }}\n set denied {{ type ipv4_addr; elements = {{ {} }} }}\n \
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
        self.shield.is_some()
    }

    /// What the agent does every few seconds.
    pub(crate) fn settle(&mut self) {
        if let Some(shield) = &mut self.shield {
            shield.sweep().unwrap();
        }
    }

    /// Packets that were dropped so far.
    pub(crate) fn drops(&self) -> u64 {
        if let Some(shield) = &self.shield {
            let counts = shield.counts().unwrap();
            return counts
                .iter()
                .filter(|(count, _)| count.is_drop())
                .map(|(_, packets)| packets)
                .sum();
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
        if self.shield.take().is_some() {
            Kernel::remove(&self.network.pins).unwrap();
            // The kernel lets go of a link a little later.
            std::thread::sleep(std::time::Duration::from_millis(300));
            return;
        }
        self.network.receiving(|| run(&["nft", "flush", "ruleset"]));
    }
}
