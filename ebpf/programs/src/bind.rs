//! `cgroup/bind4` and `bind6`: an application listens on loopback, where only its proxy reaches it.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ringwall_ebpf_common::{Action, Address, Endpoint, Hook, decide};

use crate::context::{self, DENY, PASS};
use crate::maps::{self, Maps};
use crate::report::{self, Seen};

#[cgroup_sock_addr(bind4)]
pub fn rw_bind4(context: SockAddrContext) -> i32 {
    let to = context::target_4(&context);
    bind(&context, false, to)
}

#[cgroup_sock_addr(bind6)]
pub fn rw_bind6(context: SockAddrContext) -> i32 {
    let to = context::target_6(&context);
    bind(&context, true, to)
}

#[inline(always)]
fn bind(context: &SockAddrContext, six: bool, to: Endpoint) -> i32 {
    let (cgroup, workload) = maps::current();
    let protocol = context::protocol(context);
    let verdict = decide::bind(&Maps, workload, protocol, to);
    match verdict.action {
        Action::Pass => return PASS,
        Action::Narrow => {
            // `[::]` means IPv4 too, and a proxy dials 127.0.0.1: the mapped form is where it is expected.
            let loopback = Endpoint::new(Address::LOOPBACK_4, to.port);
            context::redirect(context, six, loopback);
            return PASS;
        }
        _ => {}
    }
    let seen = Seen {
        hook: Hook::Bind,
        cgroup,
        protocol,
        destination: to,
        in_process: true,
    };
    report::refused(workload, &verdict, &seen);
    DENY
}
