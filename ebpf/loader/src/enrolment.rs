//! Which control group is which workload.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use ringwall_ebpf_common::{DirectKey, Endpoint, PortKey, Role, TCP, UDP, Workload};

use crate::cgroup;
use crate::error::Result;
use crate::kernel::Kernel;
use crate::maps::Raw;

/// A listener of a proxy, on loopback: by IPv4, by IPv6 or by both. Without any, what needs it is denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    pub v4: Option<SocketAddr>,
    pub v6: Option<SocketAddr>,
}

/// What becomes of a bind to an address that others reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// It binds to 127.0.0.1 instead, also where `::` was asked for.
    Narrow,
    /// EPERM.
    Refuse,
}

/// A control group that becomes a workload's.
#[derive(Clone, Debug)]
pub struct Enrolment<'a> {
    /// Its name: in edges, events and counters. Replicas with one name share ports and edges.
    pub workload: &'a str,
    pub role: Role,
    /// Directly below the slice.
    pub cgroup: &'a Path,
    /// Where the application's connections go. Of a proxy: unused, as all that follows.
    pub capture: Listener,
    /// Where its queries for names go (UDP, port 53).
    pub dns: Listener,
    /// TCP past the capture.
    pub direct: &'a [SocketAddr],
    /// UDP that is allowed.
    pub udp: &'a [SocketAddr],
    /// Where it listens (TCP), and where its proxy dials it.
    pub ports: &'a [u16],
    pub bind: Bind,
    /// Connections to what is no known service go to the proxy too, which decides; else they are denied.
    pub egress: bool,
}

impl<'a> Enrolment<'a> {
    /// A proxy: it goes where it likes, and its calls of the application's ports are let in.
    #[must_use]
    pub fn proxy(workload: &'a str, cgroup: &'a Path) -> Self {
        Self {
            role: Role::Proxy,
            ..Self::app(workload, cgroup)
        }
    }

    /// An application that may do nothing yet.
    #[must_use]
    pub fn app(workload: &'a str, cgroup: &'a Path) -> Self {
        Self {
            workload,
            role: Role::App,
            cgroup,
            capture: Listener::default(),
            dns: Listener::default(),
            direct: &[],
            udp: &[],
            ports: &[],
            bind: Bind::Refuse,
            egress: false,
        }
    }

    fn flags(&self) -> u8 {
        let narrow = if self.bind == Bind::Narrow {
            Workload::NARROW
        } else {
            0
        };
        let egress = if self.egress { Workload::EGRESS } else { 0 };
        narrow | egress
    }
}

impl Kernel {
    /// Enrols a control group, or changes what it was enrolled as. Do so before a process is in it: until then, it is
    /// denied everything.
    pub fn enrol(&mut self, enrolment: &Enrolment<'_>) -> Result<()> {
        let id = self.names.number(enrolment.workload)?;
        let number = cgroup::number(enrolment.cgroup)?;
        if enrolment.role == Role::App {
            self.set_addresses(id, enrolment)?;
        }
        let endpoint = |address: Option<SocketAddr>| address.map_or(Endpoint::NONE, Endpoint::from);
        let workload = Workload {
            id,
            role: enrolment.role as u8,
            flags: enrolment.flags(),
            padding: 0,
            capture_4: endpoint(enrolment.capture.v4),
            capture_6: endpoint(enrolment.capture.v6),
            dns_4: endpoint(enrolment.dns.v4),
            dns_6: endpoint(enrolment.dns.v6),
        };
        let before = self.maps.workloads.get(&number);
        if before.is_some_and(|before| before != Raw(workload)) {
            self.revoking(|kernel| kernel.maps.workloads.insert(&number, &Raw(workload)))?;
        } else {
            self.maps.workloads.insert(&number, &Raw(workload))?;
        }
        self.attach_to(enrolment.cgroup)
    }

    /// Takes the enrolment back: whatever runs in the group is denied everything from now on.
    pub fn withdraw(&mut self, cgroup: &Path) -> Result<()> {
        self.withdraw_number(cgroup::number(cgroup)?)
    }

    /// Withdraws every group but these: what a predecessor has left.
    pub fn retain(&mut self, cgroups: &[&Path]) -> Result<()> {
        let numbers: Vec<u64> = cgroups
            .iter()
            .filter_map(|cgroup| cgroup::number(cgroup).ok())
            .collect();
        for number in self.maps.workloads.keys()? {
            if !numbers.contains(&number) {
                self.withdraw_number(number)?;
            }
        }
        Ok(())
    }

    fn withdraw_number(&mut self, number: u64) -> Result<()> {
        let Some(Raw(gone)) = self.maps.workloads.get(&number) else {
            return Ok(());
        };
        self.revoking(|kernel| kernel.maps.workloads.remove(&number))?;
        // A replica, or the other half of the pair, may still be there.
        let mut others = self.maps.workloads.keys()?.into_iter();
        let shared = others.any(|other| {
            self.maps
                .workloads
                .get(&other)
                .is_some_and(|Raw(other)| other.id == gone.id && other.is_app())
        });
        if gone.is_app() && !shared {
            for key in self.maps.direct.keys()? {
                if key.0.workload == gone.id {
                    self.maps.direct.remove(&key)?;
                }
            }
            for key in self.maps.ports.keys()? {
                if key.0.workload == gone.id {
                    self.maps.ports.remove(&key)?;
                }
            }
        }
        self.detach_from(number)
    }

    /// What is declared of a workload's addresses: this, and nothing else.
    fn set_addresses(&mut self, id: u32, enrolment: &Enrolment<'_>) -> Result<()> {
        let key = |address: &SocketAddr, protocol: u8| {
            let Endpoint { address, port, .. } = Endpoint::from(*address);
            let key = DirectKey {
                workload: id,
                address,
                port,
                protocol: u16::from(protocol),
            };
            (Raw(key), 1)
        };
        let tcp = enrolment.direct.iter().map(|address| key(address, TCP));
        let udp = enrolment.udp.iter().map(|address| key(address, UDP));
        let mut direct: HashMap<Raw<DirectKey>, u32> = tcp.chain(udp).collect();
        for other in self.maps.direct.keys()? {
            if other.0.workload != id {
                direct.insert(other, 1);
            }
        }
        self.maps.direct.become_exactly(&direct)?;
        let ports = enrolment.ports.iter().map(|port| {
            let key = PortKey {
                workload: id,
                port: *port,
                protocol: u16::from(TCP),
            };
            (Raw(key), 1)
        });
        let mut ports: HashMap<Raw<PortKey>, u32> = ports.collect();
        for other in self.maps.ports.keys()? {
            if other.0.workload != id {
                ports.insert(other, 1);
            }
        }
        self.maps.ports.become_exactly(&ports)
    }
}
