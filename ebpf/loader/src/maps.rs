//! The maps with their types.

use std::hash::Hash;
use std::path::Path;

use aya::maps::{
    Array, HashMap, IterableMap, MapData, PerCpuArray, PerCpuHashMap, RingBuf, SockHash,
};
use aya::{Ebpf, Pod};
use ringwall_ebpf_common::shield::{Bucket, Denial, Settings};
use ringwall_ebpf_common::{
    Address, DirectKey, EdgeKey, Flow, FlowKey, PortKey, ServiceKey, SteerKey, Switch, Traffic,
    TrafficKey, Workload,
};

use crate::error::{Error, Result};

/// Every map that is pinned. What is not named here (constants) belongs to one loading of the programs.
pub(crate) const PINNED: [&str; 17] = [
    "WORKLOADS",
    "SERVICES",
    "EDGES",
    "DIRECT",
    "PORTS",
    "FLOWS",
    "INBOUND",
    "CONNECTIONS",
    "EVENTS",
    "RATES",
    "COUNTERS",
    "TRAFFIC",
    "ACCELERATION",
    "SOCKETS",
    "SPLICES",
    "STEERED",
    "STEERS",
];

/// Maps whose memory the kernel takes at once: who loads the programs for the shield alone wants little of it.
pub(crate) const PREALLOCATED: [&str; 10] = [
    "WORKLOADS",
    "SERVICES",
    "EDGES",
    "DIRECT",
    "PORTS",
    "FLOWS",
    "INBOUND",
    "RATES",
    "TRAFFIC",
    "STEERED",
];
/// Entries of a map that is made because it stands in the object, and that nobody uses.
pub(crate) const SMALL: u32 = 64;

/// A type of `ringwall_ebpf_common`, for aya.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Raw<T>(pub(crate) T);

/// The types that may be in a `Raw`.
pub(crate) trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($name:ty),+ $(,)?) => { $(impl Plain for $name {})+ };
}

plain!(
    Address, Bucket, Denial, DirectKey, EdgeKey, Flow, FlowKey, PortKey, ServiceKey, Settings,
    SteerKey, Switch, Traffic, TrafficKey, Workload,
);

// SAFETY: every `Plain` type is `repr(C)`, made of integers, without implicit padding (its size is asserted beside its
// definition), so that any bytes are one of its values and all of its bytes are written.
unsafe impl<T: Plain> Pod for Raw<T> {}

/// A hash map with its name, for errors.
pub(crate) struct Table<K: Pod, V: Pod> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
}

impl<K: Pod + Eq + Hash, V: Pod> Table<K, V> {
    fn take(object: &mut Ebpf, name: &'static str) -> Result<Self> {
        let map = take(object, name)?;
        let map = HashMap::try_from(map).map_err(|error| Error::map(name, error))?;
        Ok(Self { name, map })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn insert(&mut self, key: &K, value: &V) -> Result<()> {
        let inserted = self.map.insert(key, value, 0);
        inserted.map_err(|error| Error::map(self.name, error))
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.map.get(key, 0).ok()
    }

    /// Removes it; that it was not there is fine.
    pub(crate) fn remove(&mut self, key: &K) -> Result<()> {
        match self.map.remove(key) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            Err(aya::maps::MapError::SyscallError(call))
                if call.io_error.raw_os_error() == Some(nix::libc::ENOENT) =>
            {
                Ok(())
            }
            Err(error) => Err(Error::map(self.name, error)),
        }
    }

    pub(crate) fn keys(&self) -> Result<Vec<K>> {
        let keys: std::result::Result<Vec<K>, _> = self.map.keys().collect();
        keys.map_err(|error| Error::map(self.name, error))
    }

    /// Makes the table hold exactly these: new and changed ones first, then what is too much goes. An entry that
    /// stays is never away.
    pub(crate) fn become_exactly(&mut self, wanted: &std::collections::HashMap<K, V>) -> Result<()>
    where
        V: PartialEq,
    {
        for (key, value) in wanted {
            if self.get(key).as_ref() != Some(value) {
                self.insert(key, value)?;
            }
        }
        for key in self.keys()? {
            if !wanted.contains_key(&key) {
                self.remove(&key)?;
            }
        }
        Ok(())
    }

    /// How many entries there can be.
    pub(crate) fn capacity(&self) -> Result<u32> {
        let info = self.map.map().info();
        info.map(|info| info.max_entries())
            .map_err(|error| Error::map(self.name, error))
    }
}

/// All maps that this side reads or writes.
pub(crate) struct Maps {
    pub(crate) workloads: Table<u64, Raw<Workload>>,
    pub(crate) services: Table<Raw<ServiceKey>, u32>,
    pub(crate) edges: Table<Raw<EdgeKey>, u32>,
    pub(crate) direct: Table<Raw<DirectKey>, u32>,
    pub(crate) ports: Table<Raw<PortKey>, u32>,
    pub(crate) flows: Table<Raw<FlowKey>, Raw<Flow>>,
    pub(crate) inbound: Table<Raw<FlowKey>, u32>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
    pub(crate) traffic: PerCpuHashMap<MapData, Raw<TrafficKey>, Raw<Traffic>>,
    pub(crate) events: Option<RingBuf<MapData>>,
    /// One entry.
    pub(crate) acceleration: Array<MapData, Raw<Switch>>,
    pub(crate) sockets: SockHash<MapData, Raw<FlowKey>>,
    pub(crate) steered: Table<Raw<SteerKey>, u32>,
    pub(crate) steers: SockHash<MapData, Raw<SteerKey>>,
}

impl Maps {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self> {
        let counters = take(object, "COUNTERS")?;
        let traffic = take(object, "TRAFFIC")?;
        let events = take(object, "EVENTS")?;
        let acceleration = take(object, "ACCELERATION")?;
        let sockets = take(object, "SOCKETS")?;
        let steers = take(object, "STEERS")?;
        Ok(Self {
            workloads: Table::take(object, "WORKLOADS")?,
            services: Table::take(object, "SERVICES")?,
            edges: Table::take(object, "EDGES")?,
            direct: Table::take(object, "DIRECT")?,
            ports: Table::take(object, "PORTS")?,
            flows: Table::take(object, "FLOWS")?,
            inbound: Table::take(object, "INBOUND")?,
            counters: PerCpuArray::try_from(counters)
                .map_err(|error| Error::map("COUNTERS", error))?,
            traffic: PerCpuHashMap::try_from(traffic)
                .map_err(|error| Error::map("TRAFFIC", error))?,
            events: Some(RingBuf::try_from(events).map_err(|error| Error::map("EVENTS", error))?),
            acceleration: Array::try_from(acceleration)
                .map_err(|error| Error::map("ACCELERATION", error))?,
            sockets: SockHash::try_from(sockets).map_err(|error| Error::map("SOCKETS", error))?,
            steered: Table::take(object, "STEERED")?,
            steers: SockHash::try_from(steers).map_err(|error| Error::map("STEERS", error))?,
        })
    }
}

pub(crate) fn take(object: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map> {
    object
        .take_map(name)
        .ok_or(Error::Missing { kind: "map", name })
}

/// Where a map is pinned.
pub(crate) fn pin(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join(name)
}
