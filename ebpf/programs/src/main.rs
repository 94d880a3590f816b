//! The kernel side: one file for each attach point, all of them for control groups.
//!
//! Owns: looking things up, rewriting addresses, remembering connections. Must not: decide; the decisions stand in
//! `ringwall_ebpf_common::decide`, where user space has them too. Programs are named `rw_…`.
//! Read next: `connect.rs`, then `packet.rs`.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod bind;
mod connect;
mod context;
mod create;
mod getsockopt;
mod maps;
mod packet;
mod peername;
mod recvmsg;
mod report;
mod sendmsg;
mod shield;
mod sockops;
mod splice;
mod steer;
mod storage;

/// The kernel lends some helpers (`bpf_ktime_get_ns` is free, the storage of sockets is not) to GPL programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // No path leads here: the verifier would refuse an endless loop.
    loop {}
}
