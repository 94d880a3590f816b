//! `sk_msg`: bytes between an application and its own proxy go from socket to socket, past the packets of loopback.
//!
//! Packets are what the second wall judges (`packet.rs`), so nothing is decided here: whatever the policy takes away ends
//! the epoch, and a connection of an ended epoch goes by packets for the rest of its life. So does one whose first byte went
//! that way (`packet.rs` sees it leave), because a byte in the queue of packets is overtaken by one that comes past it. The ends find each other by
//! the four-tuple of their one connection; there is no other socket under it.

use aya_ebpf::bindings::{bpf_sock, sk_action};
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_msg_redirect_hash};
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::{SkMsgContext, SockOpsContext};
use core::ptr::{from_mut, from_ref};
use ringwall_ebpf_common::{FlowKey, Splice};

use crate::maps::{ACCELERATION, SOCKETS, SPLICES};

/// `BPF_F_INGRESS`: into the queue of what the other end reads.
const INGRESS: u64 = 1;

/// What a socket sends.
#[sk_msg]
pub fn rw_msg(context: SkMsgContext) -> u32 {
    let raw = context.msg;
    // SAFETY: the context is valid while the program runs; the kernel fills the union with the socket, or with null.
    let socket = unsafe { (*raw).__bindgen_anon_3.sk };
    if socket.is_null() {
        return sk_action::SK_PASS;
    }
    // SAFETY: looked at for null before; the kernel holds the socket while the program runs.
    let Some(splice) = (unsafe { SPLICES.get(socket) }) else {
        return sk_action::SK_PASS;
    };
    if splice.packets == 0 && splice.epoch == epoch() {
        // SAFETY: as above; the key is a value of the map's type.
        let (size, found) = unsafe {
            let map = from_ref(&SOCKETS).cast_mut().cast();
            let key = from_mut(&mut splice.peer).cast();
            ((*raw).size, bpf_msg_redirect_hash(raw, map, key, INGRESS))
        };
        if found == sk_action::SK_PASS as i64 {
            splice.sent += size as u64;
            return sk_action::SK_PASS;
        }
    }
    splice.packets = 1;
    // Not redirected: by packets, which are judged.
    sk_action::SK_PASS
}

/// The epoch that holds now; 0 where nothing goes from socket to socket.
#[inline(always)]
pub fn epoch() -> u64 {
    let Some(switch) = ACCELERATION.get(0) else {
        return 0;
    };
    if switch.epoch == 0 {
        return 0;
    }
    // SAFETY: takes no pointer.
    switch.at(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Lets the other end find this one.
#[inline(always)]
pub fn join(context: &SockOpsContext, socket: *mut bpf_sock, own: FlowKey, epoch: u64) {
    let splice = Splice {
        epoch,
        sent: 0,
        peer: own.other_end(),
        packets: 0,
        padding: 0,
    };
    // SAFETY: the hook's own socket, looked at for null before.
    if !unsafe { SPLICES.put(socket, splice) } {
        return;
    }
    // SAFETY: the context is valid while the program runs, and nothing else refers to it.
    let operations = unsafe { &mut *context.ops };
    // Where the table is full, the connection goes by packets.
    let _ = SOCKETS.update(own, operations, 0);
}

/// Bytes that a socket has sent past TCP.
///
/// # Safety
/// As for `SkStorage::get`.
#[inline(always)]
pub unsafe fn sent(socket: *mut bpf_sock) -> u64 {
    // SAFETY: as the caller has promised.
    unsafe { SPLICES.get(socket) }.map_or(0, |splice| splice.sent)
}
