//! `cgroup/sock_create`: TCP and UDP, and no other socket of the internet families.
//!
//! The kernel asks here for AF_INET and AF_INET6 alone. AF_PACKET, AF_NETLINK, AF_VSOCK and their kind are the
//! launcher's to deny (no capabilities, a seccomp filter).

use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use core::ptr::addr_of_mut;
use ringwall_ebpf_common::{Endpoint, Hook, decide};

use crate::context::{DENY, PASS};
use crate::maps;
use crate::report::{self, Seen};

#[cgroup_sock(sock_create)]
pub fn rw_create(context: SockContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let (kind, protocol) = unsafe {
        (
            addr_of_mut!((*context.sock).type_).read_volatile(),
            addr_of_mut!((*context.sock).protocol).read_volatile(),
        )
    };
    let (cgroup, workload) = maps::current();
    let verdict = decide::create(workload, kind, protocol);
    if !verdict.denies() {
        return PASS;
    }
    let seen = Seen {
        hook: Hook::Create,
        cgroup,
        protocol: protocol as u8,
        destination: Endpoint::NONE,
        in_process: true,
    };
    report::refused(workload, &verdict, &seen);
    DENY
}
