//! What the kernel has counted.

use aya::maps::IterableMap;
use ringwall_ebpf_common::{Kind, Reason, Traffic};

use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::maps::{Raw, Table};

/// Everything that is counted. Counts only grow, and outlive the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Refusals by reason, and events that were lost or suppressed.
    pub refused: Vec<(Reason, u64)>,
    pub traffic: Vec<TrafficRow>,
    pub pressure: Vec<Pressure>,
}

/// Sums of a workload's ended connections to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficRow {
    pub workload: Option<String>,
    /// None for connections from its proxy, and to what is no known service.
    pub service: Option<String>,
    /// `captured`, `direct` or `inbound`.
    pub kind: &'static str,
    pub sums: Traffic,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    pub map: &'static str,
    pub used: u32,
    pub capacity: u32,
}

impl Counters {
    /// How often it was refused for this reason.
    #[must_use]
    pub fn of(&self, reason: Reason) -> u64 {
        let found = self.refused.iter().find(|(other, _)| *other == reason);
        found.map_or(0, |(_, count)| *count)
    }
}

impl Kernel {
    /// Reads all counters.
    pub fn counters(&self) -> Result<Counters> {
        Ok(Counters {
            refused: self.refusals()?,
            traffic: self.traffic()?,
            pressure: vec![
                pressure(&self.maps.workloads)?,
                pressure(&self.maps.services)?,
                pressure(&self.maps.edges)?,
                pressure(&self.maps.direct)?,
                pressure(&self.maps.ports)?,
                pressure(&self.maps.flows)?,
                pressure(&self.maps.inbound)?,
                self.traffic_pressure()?,
            ],
        })
    }

    fn refusals(&self) -> Result<Vec<(Reason, u64)>> {
        let read = |reason: Reason| {
            let cpus = self.maps.counters.get(&(reason as u32), 0);
            let cpus = cpus.map_err(|error| Error::map("COUNTERS", error))?;
            Ok((reason, cpus.iter().sum()))
        };
        let reasons = Reason::ALL.into_iter();
        reasons
            .filter(|reason| *reason != Reason::Allowed)
            .map(read)
            .collect()
    }

    fn traffic_pressure(&self) -> Result<Pressure> {
        let failed = |error| Error::map("TRAFFIC", error);
        let info = self.maps.traffic.map().info().map_err(failed)?;
        Ok(Pressure {
            map: "TRAFFIC",
            used: u32::try_from(self.maps.traffic.keys().count()).unwrap_or(u32::MAX),
            capacity: info.max_entries(),
        })
    }

    fn traffic(&self) -> Result<Vec<TrafficRow>> {
        let mut rows = Vec::new();
        for entry in self.maps.traffic.iter() {
            let (Raw(key), cpus) = entry.map_err(|error| Error::map("TRAFFIC", error))?;
            let sums = cpus
                .iter()
                .fold(Traffic::default(), |sum, Raw(cpu)| Traffic {
                    connections: sum.connections + cpu.connections,
                    sent_bytes: sum.sent_bytes + cpu.sent_bytes,
                    received_bytes: sum.received_bytes + cpu.received_bytes,
                    rtt_sum_us: sum.rtt_sum_us + cpu.rtt_sum_us,
                    rtt_max_us: sum.rtt_max_us.max(cpu.rtt_max_us),
                });
            rows.push(TrafficRow {
                workload: self.names.name(key.workload),
                service: self.names.name(key.service),
                kind: kind(key.kind),
                sums,
            });
        }
        Ok(rows)
    }
}

fn kind(number: u32) -> &'static str {
    const CAPTURED: u32 = Kind::Captured as u32;
    const DIRECT: u32 = Kind::Direct as u32;
    match number {
        CAPTURED => "captured",
        DIRECT => "direct",
        _ => "inbound",
    }
}

fn pressure<K: aya::Pod + Eq + std::hash::Hash, V: aya::Pod>(
    table: &Table<K, V>,
) -> Result<Pressure> {
    Ok(Pressure {
        map: table.name(),
        used: u32::try_from(table.keys()?.len()).unwrap_or(u32::MAX),
        capacity: table.capacity()?,
    })
}
