//! `cgroup/getsockopt`: the proxy asks where a captured connection was going, as it would ask netfilter.

use aya_ebpf::bindings::bpf_sockopt;
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use core::ptr::addr_of_mut;
use ringwall_ebpf_common::{Address, Endpoint, Kind};

use crate::maps::CONNECTIONS;

const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
/// `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST`.
const ORIGINAL_DST: i32 = 80;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// The kernel's answer, whatever it is, stands.
const AS_IT_IS: i32 = 1;
/// EPERM.
const REFUSED: i32 = 0;

#[cgroup_sockopt(getsockopt)]
pub fn rw_getsockopt(context: SockoptContext) -> i32 {
    let raw = context.sockopt;
    // SAFETY: the context is valid while the program runs.
    let (level, name) = unsafe {
        (
            addr_of_mut!((*raw).level).read_volatile(),
            addr_of_mut!((*raw).optname).read_volatile(),
        )
    };
    if name != ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6) {
        return AS_IT_IS;
    }
    // SAFETY: as above; the kernel fills the union with a full socket.
    let socket = unsafe { (*raw).__bindgen_anon_1.sk };
    // SAFETY: the hook's own socket.
    let Some(connection) = (unsafe { CONNECTIONS.get(socket) }) else {
        return AS_IT_IS;
    };
    if connection.kind != Kind::Accepted as u8 {
        return AS_IT_IS;
    }
    let original = connection.original;
    if level == SOL_IP && !original.address.is_v4() {
        // It has no form there. Where connections are tracked, the kernel would answer with the listener's own address.
        return REFUSED;
    }
    let answered = if level == SOL_IP {
        answer_4(raw, original)
    } else {
        answer_6(raw, original)
    };
    if answered {
        // SAFETY: as above. netfilter has no answer; this is one.
        unsafe { addr_of_mut!((*raw).retval).write_volatile(0) };
    }
    AS_IT_IS
}

/// `struct sockaddr_in`.
#[inline(always)]
fn answer_4(raw: *mut bpf_sockopt, original: Endpoint) -> bool {
    // SAFETY: nothing is written before the length of the buffer has been looked at.
    unsafe {
        let value = (*raw).__bindgen_anon_2.optval.cast::<u8>();
        let end = (*raw).__bindgen_anon_3.optval_end.cast::<u8>();
        if value.wrapping_add(16) > end {
            return false;
        }
        value.cast::<u16>().write(AF_INET);
        value.add(2).cast::<u16>().write(original.port.to_be());
        value.add(4).cast::<u32>().write(original.address.last());
        value.add(8).cast::<u32>().write(0);
        value.add(12).cast::<u32>().write(0);
        addr_of_mut!((*raw).optlen).write_volatile(16);
    }
    true
}

/// `struct sockaddr_in6`; an IPv4 destination in its mapped form.
#[inline(always)]
fn answer_6(raw: *mut bpf_sockopt, original: Endpoint) -> bool {
    let Address([first, second, third, fourth]) = original.address;
    // SAFETY: nothing is written before the length of the buffer has been looked at.
    unsafe {
        let value = (*raw).__bindgen_anon_2.optval.cast::<u8>();
        let end = (*raw).__bindgen_anon_3.optval_end.cast::<u8>();
        if value.wrapping_add(28) > end {
            return false;
        }
        value.cast::<u16>().write(AF_INET6);
        value.add(2).cast::<u16>().write(original.port.to_be());
        value.add(4).cast::<u32>().write(0);
        value.add(8).cast::<u32>().write(first);
        value.add(12).cast::<u32>().write(second);
        value.add(16).cast::<u32>().write(third);
        value.add(20).cast::<u32>().write(fourth);
        value.add(24).cast::<u32>().write(0);
        addr_of_mut!((*raw).optlen).write_volatile(28);
    }
    true
}
