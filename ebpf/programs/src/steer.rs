//! `sk_lookup`: what comes to a workload's port from outside its network namespace goes to its proxy's listener.
//!
//! The program is attached to namespaces that belong to one workload and its proxy, and is loaded for each with its number.
//! Loopback is the proxy's own way to its application and is left alone. A steered port without a listener is nobody's:
//! the application does not answer in its proxy's place.

use aya_ebpf::EbpfContext;
use aya_ebpf::Global;
use aya_ebpf::bindings::{bpf_sk_lookup, sk_action};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use core::mem::offset_of;
use ringwall_ebpf_common::{Address, SteerKey, TCP};

use crate::context::read;
use crate::maps::{STEERED, STEERS};

const AF_INET: u32 = 2;

/// The namespace's number; the loader writes it.
#[unsafe(no_mangle)]
static NETWORK: Global<u32> = Global::new(0);

#[sk_lookup]
pub fn rw_lookup(context: SkLookupContext) -> u32 {
    const LOCAL_6: usize = offset_of!(bpf_sk_lookup, local_ip6);
    let raw = context.as_ptr().cast_const();
    // SAFETY: the context is valid while the program runs, and has these fields.
    let (protocol, four, port) = unsafe {
        (
            read::<{ offset_of!(bpf_sk_lookup, protocol) }>(raw),
            read::<{ offset_of!(bpf_sk_lookup, family) }>(raw) == AF_INET,
            read::<{ offset_of!(bpf_sk_lookup, local_port) }>(raw) as u16,
        )
    };
    // SAFETY: as above.
    let local = unsafe {
        if four {
            Address::v4(read::<{ offset_of!(bpf_sk_lookup, local_ip4) }>(raw))
        } else {
            Address([
                read::<LOCAL_6>(raw),
                read::<{ LOCAL_6 + 4 }>(raw),
                read::<{ LOCAL_6 + 8 }>(raw),
                read::<{ LOCAL_6 + 12 }>(raw),
            ])
        }
    };
    if protocol != TCP as u32 || local.is_loopback() {
        return sk_action::SK_PASS;
    }
    let key = SteerKey {
        network: NETWORK.load(),
        port,
        family: 0,
    };
    // SAFETY: only whether it is there counts.
    if unsafe { STEERED.get(&key) }.is_none() {
        return sk_action::SK_PASS;
    }
    let family = if four { 4 } else { 6 };
    match STEERS.redirect_sk_lookup(context, SteerKey { family, ..key }, 0) {
        Ok(()) => sk_action::SK_PASS,
        Err(_) => sk_action::SK_DROP,
    }
}
