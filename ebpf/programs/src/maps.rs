//! The maps, and the policy as the decisions ask for it.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{
    Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SockHash,
};
use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie};
use aya_ebpf::macros::btf_map;
use core::ffi::c_void;
use ringwall_ebpf_common::{
    Connection, DirectKey, EdgeKey, Event, Flow, FlowKey, Policy, PortKey, Rate, Reason,
    ServiceKey, Splice, SteerKey, Switch, Traffic, TrafficKey, Workload,
};

use crate::storage::SkStorage;

/// How deep below the root the control groups of workloads are; the loader writes it.
#[unsafe(no_mangle)]
static LEVEL: Global<i32> = Global::new(1);

#[btf_map]
pub static WORKLOADS: HashMap<u64, Workload, 4096> = HashMap::new();
#[btf_map]
pub static SERVICES: HashMap<ServiceKey, u32, 65536> = HashMap::new();
#[btf_map]
pub static EDGES: HashMap<EdgeKey, u32, 65536> = HashMap::new();
#[btf_map]
pub static DIRECT: HashMap<DirectKey, u32, 16384> = HashMap::new();
#[btf_map]
pub static PORTS: HashMap<PortKey, u32, 16384> = HashMap::new();
/// Captured connections whose proxy has not accepted them yet.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, Flow, 65536> = HashMap::new();
/// Connections from a proxy to its application that the latter has not accepted yet.
#[btf_map]
pub static INBOUND: HashMap<FlowKey, u32, 65536> = HashMap::new();
#[btf_map]
pub static CONNECTIONS: SkStorage<Connection> = SkStorage::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, { 256 * 1024 }> = RingBuf::new();
#[btf_map]
pub static RATES: LruHashMap<u32, Rate, 4096> = LruHashMap::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Reason::COUNT as usize }> = PerCpuArray::new();
#[btf_map]
pub static TRAFFIC: PerCpuHashMap<TrafficKey, Traffic, 16384> = PerCpuHashMap::new();

/// One entry: whether bytes may go from socket to socket.
#[btf_map]
pub static ACCELERATION: Array<Switch, 1> = Array::new();
/// Both ends of connections within a workload. The kernel takes a socket out when it closes.
#[btf_map]
pub static SOCKETS: SockHash<FlowKey, 16384> = SockHash::new();
#[btf_map]
pub static SPLICES: SkStorage<Splice> = SkStorage::new();

/// Ports that are steered, and where to.
#[btf_map]
pub static STEERED: HashMap<SteerKey, u32, 4096> = HashMap::new();
#[btf_map]
pub static STEERS: SockHash<SteerKey, 4096> = SockHash::new();

/// The policy in the maps.
pub struct Maps;

impl Policy for Maps {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<u32> {
        // SAFETY: a word is read at once; entries are replaced, never changed in place.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn edge(&self, key: &EdgeKey) -> bool {
        // SAFETY: only whether it is there counts.
        unsafe { EDGES.get(key) }.is_some()
    }

    #[inline(always)]
    fn direct(&self, key: &DirectKey) -> bool {
        // SAFETY: only whether it is there counts.
        unsafe { DIRECT.get(key) }.is_some()
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> bool {
        // SAFETY: only whether it is there counts.
        unsafe { PORTS.get(key) }.is_some()
    }
}

/// The depth at which workloads are told apart.
#[inline(always)]
pub fn level() -> i32 {
    LEVEL.load()
}

/// Which workload's control group, or one below it, the calling process is in.
#[inline(always)]
pub fn current() -> (u64, Option<&'static Workload>) {
    // SAFETY: takes no pointer.
    let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level()) };
    (cgroup, enrolled(cgroup))
}

/// The workload of a control group.
#[inline(always)]
pub fn enrolled(cgroup: u64) -> Option<&'static Workload> {
    // SAFETY: entries are freed after a grace period that this program's run is part of.
    unsafe { WORKLOADS.get(&cgroup) }
}

/// The network namespace of the context's socket.
#[inline(always)]
pub fn network(context: *mut c_void) -> u64 {
    // SAFETY: the context is the one that the program was started with.
    unsafe { bpf_get_netns_cookie(context) }
}
