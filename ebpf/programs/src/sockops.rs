//! `sockops`: what TCP does, so that both ends of a connection on this machine know each other.
//!
//! A connecting socket enters its four-tuple in a table before its SYN leaves; the accepted socket takes it out and
//! keeps it in its own storage. At the end of a connection its bytes and round-trip time are added up.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock, bpf_sock_ops,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::addr_of_mut;
use ringwall_ebpf_common::{
    Address, Connection, Endpoint, Flow, FlowKey, Kind, Reason, Traffic, TrafficKey,
};

use crate::context::read;
use crate::maps::{self, CONNECTIONS, FLOWS, INBOUND, TRAFFIC};
use crate::report;
use crate::splice;

const AF_INET: u32 = 2;
const TCP_CLOSE: u32 = 7;

#[sock_ops]
pub fn rw_sockops(context: SockOpsContext) -> u32 {
    let raw = context.ops;
    // SAFETY: the context is valid while the program runs; the kernel fills the union with the socket, or with null.
    let socket = unsafe { (*raw).__bindgen_anon_2.sk };
    if socket.is_null() {
        return 1;
    }
    match context.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&context, socket),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established(&context, socket),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&context, socket),
        BPF_SOCK_OPS_STATE_CB => {
            // SAFETY: as above; this operation has two arguments, the old state and the new one.
            let state = unsafe { addr_of_mut!((*raw).__bindgen_anon_1.args[1]).read_volatile() };
            if state == TCP_CLOSE {
                ended(&context, socket);
            }
        }
        _ => {}
    }
    1
}

/// The SYN is about to leave.
#[inline(always)]
fn connecting(context: &SockOpsContext, socket: *mut bpf_sock) {
    // SAFETY: the hook's own socket, looked at for null before.
    let Some(connection) = (unsafe { CONNECTIONS.get(socket) }) else {
        return;
    };
    let key = key_of_client(context);
    let entered = if connection.kind == Kind::Captured as u8 {
        let flow = Flow {
            workload: connection.workload,
            service: connection.service,
            original: connection.original,
        };
        FLOWS.insert(key, flow, 0).is_ok()
    } else if connection.kind == Kind::Dialled as u8 {
        INBOUND.insert(key, connection.workload, 0).is_ok()
    } else {
        true
    };
    if entered {
        connection.mapped = 1;
    } else {
        report::count(Reason::TableFull);
    }
    watch_the_end(context);
}

/// The handshake is over at the connecting end.
#[inline(always)]
fn established(context: &SockOpsContext, socket: *mut bpf_sock) {
    let epoch = splice::epoch();
    if epoch == 0 || has_sent(context) {
        return;
    }
    // SAFETY: the hook's own socket, looked at for null before.
    let Some(connection) = (unsafe { CONNECTIONS.get(socket) }) else {
        return;
    };
    let within = connection.kind == Kind::Captured as u8 || connection.kind == Kind::Dialled as u8;
    if within && connection.mapped != 0 {
        let own = FlowKey {
            end: FlowKey::CLIENT,
            ..key_of_client(context)
        };
        splice::join(context, socket, own, epoch);
    }
}

/// Whether a byte has left, or waits to leave, with the SYN: it goes by packets.
#[inline(always)]
fn has_sent(context: &SockOpsContext) -> bool {
    let raw = context.ops;
    // SAFETY: the context is valid while the program runs. The SYN counts as a byte.
    unsafe {
        let next = addr_of_mut!((*raw).snd_nxt).read_volatile();
        let acknowledged = addr_of_mut!((*raw).snd_una).read_volatile();
        let bytes = addr_of_mut!((*raw).bytes_acked).read_volatile();
        next != acknowledged || bytes > 1
    }
}

/// The handshake is over at the listening end.
#[inline(always)]
fn accepted(context: &SockOpsContext, socket: *mut bpf_sock) {
    let key = key_of_server(context);
    // SAFETY: the value is copied before the entry is removed.
    let known = if let Some(flow) = unsafe { FLOWS.get(&key) }.copied() {
        let _ = FLOWS.remove(key);
        Connection {
            workload: flow.workload,
            service: flow.service,
            kind: Kind::Accepted as u8,
            mapped: 1,
            padding: 0,
            original: flow.original,
        }
    // SAFETY: as above.
    } else if let Some(workload) = unsafe { INBOUND.get(&key) }.copied() {
        let _ = INBOUND.remove(key);
        Connection {
            workload,
            service: 0,
            kind: Kind::Inbound as u8,
            mapped: 1,
            padding: 0,
            original: Endpoint::NONE,
        }
    } else {
        return;
    };
    // SAFETY: the hook's own socket, looked at for null before.
    unsafe { CONNECTIONS.put(socket, known) };
    watch_the_end(context);
    let epoch = splice::epoch();
    if epoch != 0 {
        let own = FlowKey {
            end: FlowKey::SERVER,
            ..key
        };
        splice::join(context, socket, own, epoch);
    }
}

/// The socket is closed.
#[inline(always)]
fn ended(context: &SockOpsContext, socket: *mut bpf_sock) {
    // SAFETY: the hook's own socket, looked at for null before.
    let Some(connection) = (unsafe { CONNECTIONS.get(socket) }) else {
        return;
    };
    // SAFETY: as above.
    let past_tcp = unsafe { splice::sent(socket) };
    // What nobody has accepted.
    if connection.kind == Kind::Captured as u8 {
        let _ = FLOWS.remove(key_of_client(context));
    } else if connection.kind == Kind::Dialled as u8 {
        let _ = INBOUND.remove(key_of_client(context));
        // The application's end cannot know what it was sent past TCP.
        receive(connection, Kind::Inbound, past_tcp);
        return;
    } else if connection.kind == Kind::Accepted as u8 {
        receive(connection, Kind::Captured, past_tcp);
        return;
    }
    let raw = context.ops;
    // SAFETY: the context is valid while the program runs.
    let (sent, received, rtt) = unsafe {
        (
            addr_of_mut!((*raw).bytes_acked).read_volatile(),
            addr_of_mut!((*raw).bytes_received).read_volatile(),
            addr_of_mut!((*raw).srtt_us).read_volatile() >> 3,
        )
    };
    let key = TrafficKey {
        workload: connection.workload,
        service: connection.service,
        kind: connection.kind as u32,
    };
    add(
        key,
        &Traffic {
            connections: 1,
            sent_bytes: sent + past_tcp,
            received_bytes: received,
            rtt_sum_us: rtt as u64,
            rtt_max_us: rtt as u64,
        },
    );
}

/// Bytes that the application's end has got from its proxy's.
#[inline(always)]
fn receive(proxy_s: &Connection, kind: Kind, bytes: u64) {
    if bytes == 0 {
        return;
    }
    let key = TrafficKey {
        workload: proxy_s.workload,
        service: proxy_s.service,
        kind: kind as u32,
    };
    add(
        key,
        &Traffic {
            received_bytes: bytes,
            ..Traffic::default()
        },
    );
}

#[inline(always)]
fn add(key: TrafficKey, more: &Traffic) {
    if let Some(sums) = TRAFFIC.get_ptr_mut(key) {
        // SAFETY: the entry is this CPU's and stays allocated while this program runs.
        let sums = unsafe { &mut *sums };
        sums.connections += more.connections;
        sums.sent_bytes += more.sent_bytes;
        sums.received_bytes += more.received_bytes;
        sums.rtt_sum_us += more.rtt_sum_us;
        if more.rtt_max_us > sums.rtt_max_us {
            sums.rtt_max_us = more.rtt_max_us;
        }
        return;
    }
    let _ = TRAFFIC.insert(key, *more, 0);
}

#[inline(always)]
fn watch_the_end(context: &SockOpsContext) {
    let flags = context.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    let _ = context.set_cb_flags(flags as i32);
}

#[inline(always)]
fn key_of_client(context: &SockOpsContext) -> FlowKey {
    let (local, remote) = ends(context.ops);
    key(context, local, remote)
}

#[inline(always)]
fn key_of_server(context: &SockOpsContext) -> FlowKey {
    let (local, remote) = ends(context.ops);
    key(context, remote, local)
}

#[inline(always)]
fn key(context: &SockOpsContext, client: Endpoint, server: Endpoint) -> FlowKey {
    FlowKey {
        network: maps::network(context.ops.cast()),
        client: client.address,
        server: server.address,
        client_port: client.port,
        server_port: server.port,
        end: 0,
    }
}

/// Local and remote end; a mapped address is one of IPv4.
#[inline(always)]
fn ends(raw: *mut bpf_sock_ops) -> (Endpoint, Endpoint) {
    const LOCAL_6: usize = offset_of!(bpf_sock_ops, local_ip6);
    const REMOTE_6: usize = offset_of!(bpf_sock_ops, remote_ip6);
    let raw = raw.cast::<c_void>().cast_const();
    // SAFETY: the context is valid while the program runs. The kernel gives the local port in host order, the remote
    // one in network order.
    unsafe {
        let local_port = read::<{ offset_of!(bpf_sock_ops, local_port) }>(raw) as u16;
        let remote_port = read::<{ offset_of!(bpf_sock_ops, remote_port) }>(raw);
        let remote_port = u32::from_be(remote_port) as u16;
        let (local, remote) = if read::<{ offset_of!(bpf_sock_ops, family) }>(raw) == AF_INET {
            (
                Address::v4(read::<{ offset_of!(bpf_sock_ops, local_ip4) }>(raw)),
                Address::v4(read::<{ offset_of!(bpf_sock_ops, remote_ip4) }>(raw)),
            )
        } else {
            let local = Address([
                read::<LOCAL_6>(raw),
                read::<{ LOCAL_6 + 4 }>(raw),
                read::<{ LOCAL_6 + 8 }>(raw),
                read::<{ LOCAL_6 + 12 }>(raw),
            ]);
            let remote = Address([
                read::<REMOTE_6>(raw),
                read::<{ REMOTE_6 + 4 }>(raw),
                read::<{ REMOTE_6 + 8 }>(raw),
                read::<{ REMOTE_6 + 12 }>(raw),
            ]);
            (local, remote)
        };
        (
            Endpoint::new(local, local_port),
            Endpoint::new(remote, remote_port),
        )
    }
}
