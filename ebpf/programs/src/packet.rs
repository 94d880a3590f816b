//! `cgroup_skb/egress` and `ingress`: the second wall. It asks of every packet whether a hook has let its socket
//! through, and whether the policy still holds. It works without capture and without the agent.

use aya_ebpf::helpers::{bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use core::ptr::from_mut;
use ringwall_ebpf_common::{
    Address, Connection, Endpoint, FlowKey, Hook, Reason, TCP, UDP, Verdict, decide,
};

use crate::maps::{self, CONNECTIONS, INBOUND, Maps, SPLICES};
use crate::report::{self, Seen};
use crate::splice;

const PASS: i32 = 1;
const DROP: i32 = 0;

/// The ends of a packet.
struct Packet {
    protocol: u8,
    source: Endpoint,
    destination: Endpoint,
}

#[cgroup_skb(egress)]
pub fn rw_egress(context: SkBuffContext) -> i32 {
    judge(&context, true)
}

#[cgroup_skb(ingress)]
pub fn rw_ingress(context: SkBuffContext) -> i32 {
    judge(&context, false)
}

#[inline(always)]
fn judge(context: &SkBuffContext, out: bool) -> i32 {
    if out && splice::epoch() != 0 {
        leaves(context);
    }
    let skb = context.skb.skb;
    // SAFETY: the context is valid while the program runs.
    let cgroup = unsafe { bpf_skb_ancestor_cgroup_id(skb, maps::level()) };
    let workload = maps::enrolled(cgroup);
    // Most packets of a proxy: nothing of them is looked at.
    if let Some(workload) = workload
        && !workload.is_app()
    {
        return PASS;
    }
    let Some(packet) = read(context) else {
        report::count(Reason::Malformed);
        return DROP;
    };
    let peer = if out {
        packet.destination
    } else {
        packet.source
    };
    let verdict = decide::packet(
        &Maps,
        workload,
        packet.protocol,
        peer,
        connection(context),
        || dialled(context, &packet, out),
    );
    if !verdict.denies() {
        return PASS;
    }
    refuse(cgroup, &verdict, &packet, peer, out);
    DROP
}

#[inline(always)]
fn refuse(cgroup: u64, verdict: &Verdict, packet: &Packet, peer: Endpoint, out: bool) {
    let seen = Seen {
        hook: if out { Hook::Egress } else { Hook::Ingress },
        cgroup,
        protocol: packet.protocol,
        destination: peer,
        in_process: false,
    };
    report::refused(maps::enrolled(cgroup), verdict, &seen);
}

/// What the packet's socket was let through as.
#[inline(always)]
fn connection(context: &SkBuffContext) -> Option<&Connection> {
    // SAFETY: the context is valid while the program runs; the kernel fills the union with the socket, or with null.
    unsafe {
        let socket = (*context.skb.skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return None;
        }
        let socket = bpf_sk_fullsock(socket);
        if socket.is_null() {
            return None;
        }
        CONNECTIONS.get(socket).map(|connection| &*connection)
    }
}

/// Of a socket whose bytes go past the packets: the first byte that does not takes all that follow along. Data that is
/// sent with the SYN, or while somebody waits for the handshake, goes so.
#[inline(always)]
fn leaves(context: &SkBuffContext) {
    // SAFETY: as in `connection`.
    let splice = unsafe {
        let socket = (*context.skb.skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return;
        }
        let socket = bpf_sk_fullsock(socket);
        if socket.is_null() {
            return;
        }
        SPLICES.get(socket)
    };
    if let Some(splice) = splice
        && splice.packets == 0
        && has_payload(context).unwrap_or(true)
    {
        splice.packets = 1;
    }
}

#[inline(always)]
fn has_payload(context: &SkBuffContext) -> Option<bool> {
    let first: u8 = load(context, 0)?;
    let header = if first >> 4 == 4 {
        ((first & 0x0f) as u32) * 4
    } else {
        40
    };
    let offset: u8 = load(context, header + 12)?;
    Some(context.len() > header + ((offset >> 4) as u32) * 4)
}

/// The workload whose proxy has dialled this connection.
#[inline(always)]
fn dialled(context: &SkBuffContext, packet: &Packet, out: bool) -> Option<u32> {
    let (client, server) = if out {
        (packet.destination, packet.source)
    } else {
        (packet.source, packet.destination)
    };
    let key = FlowKey {
        network: maps::network(context.skb.skb.cast()),
        client: client.address,
        server: server.address,
        client_port: client.port,
        server_port: server.port,
        end: 0,
    };
    // SAFETY: a word is copied.
    unsafe { INBOUND.get(&key) }.copied()
}

/// Reads the ends of a packet of TCP or UDP. Extension headers are not followed: no socket that an application may
/// have sends them.
#[inline(always)]
fn read(context: &SkBuffContext) -> Option<Packet> {
    let first: u8 = load(context, 0)?;
    let (protocol, source, destination, length) = match first >> 4 {
        4 => {
            let header: [u32; 5] = load(context, 0)?;
            let protocol = (u32::from_be(header[2]) >> 16) as u8;
            let length = ((first & 0x0f) as u32) * 4;
            (
                protocol,
                Address::v4(header[3]),
                Address::v4(header[4]),
                length,
            )
        }
        6 => {
            let header: [u32; 10] = load(context, 0)?;
            let protocol = (u32::from_be(header[1]) >> 8) as u8;
            let source = Address([header[2], header[3], header[4], header[5]]);
            let destination = Address([header[6], header[7], header[8], header[9]]);
            (protocol, source, destination, 40)
        }
        _ => return None,
    };
    if protocol != TCP && protocol != UDP {
        return Some(Packet {
            protocol,
            source: Endpoint::new(source, 0),
            destination: Endpoint::new(destination, 0),
        });
    }
    let ports: [u16; 2] = load(context, length)?;
    Some(Packet {
        protocol,
        source: Endpoint::new(source, u16::from_be(ports[0])),
        destination: Endpoint::new(destination, u16::from_be(ports[1])),
    })
}

/// Bytes of the packet, from its IP header on.
#[inline(always)]
fn load<T: Copy + Default>(context: &SkBuffContext, offset: u32) -> Option<T> {
    let mut value = T::default();
    // SAFETY: as many bytes as the value has are written to it, and every pattern of them is one of its values.
    let read = unsafe {
        bpf_skb_load_bytes(
            context.skb.skb.cast(),
            offset,
            from_mut(&mut value).cast(),
            size_of::<T>() as u32,
        )
    };
    (read == 0).then_some(value)
}
