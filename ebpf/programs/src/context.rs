//! The context of address hooks: reading and rewriting where a call goes.
//!
//! Every access is a volatile one of four bytes: the kernel rewrites accesses to its contexts, and knows these.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::programs::SockAddrContext;
use core::ffi::c_void;
use core::ptr::addr_of_mut;
use ringwall_ebpf_common::{Address, Endpoint, Workload};

/// Reads four bytes of a context at a constant distance.
///
/// In assembly, because the compiler likes to join two such reads into one at a computed address, which the verifier
/// does not follow ("dereference of modified ctx ptr").
///
/// # Safety
/// `context` is what the program was started with, and has a field of four bytes at `OFFSET`.
#[inline(always)]
pub unsafe fn read<const OFFSET: usize>(context: *const c_void) -> u32 {
    let value: u64;
    // SAFETY: as the caller has promised.
    unsafe {
        core::arch::asm!(
            "{value} = *(u32 *)({context} + {offset})",
            value = out(reg) value,
            context = in(reg) context,
            offset = const OFFSET,
            options(nostack, readonly, preserves_flags),
        );
    }
    value as u32
}

/// The call goes on.
pub const PASS: i32 = 1;
/// The call fails with EPERM.
pub const DENY: i32 = 0;

/// Where the call goes, by IPv4.
#[inline(always)]
pub fn target_4(context: &SockAddrContext) -> Endpoint {
    let raw = context.sock_addr;
    // SAFETY: the context is valid while the program runs.
    let (word, port) = unsafe {
        (
            addr_of_mut!((*raw).user_ip4).read_volatile(),
            addr_of_mut!((*raw).user_port).read_volatile(),
        )
    };
    Endpoint::new(Address::v4(word), u16::from_be(port as u16))
}

/// Where the call goes, by IPv6.
#[inline(always)]
pub fn target_6(context: &SockAddrContext) -> Endpoint {
    let raw = context.sock_addr;
    // SAFETY: the context is valid while the program runs.
    unsafe {
        let word = |index: usize| addr_of_mut!((*raw).user_ip6[index]).read_volatile();
        let address = Address([word(0), word(1), word(2), word(3)]);
        let port = addr_of_mut!((*raw).user_port).read_volatile();
        Endpoint::new(address, u16::from_be(port as u16))
    }
}

/// Sends the call elsewhere.
#[inline(always)]
pub fn redirect(context: &SockAddrContext, six: bool, to: Endpoint) {
    let raw: *mut bpf_sock_addr = context.sock_addr;
    // SAFETY: these fields may be written in every hook that this is called from.
    unsafe {
        if six {
            let Address([first, second, third, fourth]) = to.address;
            addr_of_mut!((*raw).user_ip6[0]).write_volatile(first);
            addr_of_mut!((*raw).user_ip6[1]).write_volatile(second);
            addr_of_mut!((*raw).user_ip6[2]).write_volatile(third);
            addr_of_mut!((*raw).user_ip6[3]).write_volatile(fourth);
        } else {
            addr_of_mut!((*raw).user_ip4).write_volatile(to.address.last());
        }
        addr_of_mut!((*raw).user_port).write_volatile(to.port.to_be() as u32);
    }
}

/// `IPPROTO_TCP`, `IPPROTO_UDP` or what else the socket speaks.
#[inline(always)]
pub fn protocol(context: &SockAddrContext) -> u8 {
    // SAFETY: the context is valid while the program runs.
    unsafe { addr_of_mut!((*context.sock_addr).protocol).read_volatile() as u8 }
}

/// The socket of the call.
#[inline(always)]
pub fn socket(context: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the context is valid while the program runs; the kernel fills the union with the socket.
    unsafe { (*context.sock_addr).__bindgen_anon_1.sk }
}

/// The proxy's listener for what goes `to`. A socket of IPv6 reaches one of IPv4 by its mapped address.
#[inline(always)]
pub fn listener(workload: &Workload, six: bool, to: Endpoint) -> Endpoint {
    let prefers_6 = six && !to.address.is_v4();
    if (prefers_6 || !workload.capture_4.is_some()) && six && workload.capture_6.is_some() {
        workload.capture_6
    } else {
        workload.capture_4
    }
}

/// The proxy's name server for what goes `to`.
#[inline(always)]
pub fn name_server(workload: &Workload, six: bool, to: Endpoint) -> Endpoint {
    if six && !to.address.is_v4() {
        workload.dns_6
    } else {
        workload.dns_4
    }
}
