//! `cgroup/connect4` and `connect6`: capture, edges, and everything else denied.
//!
//! What is let through leaves its mark in the socket's storage; without that mark no packet passes (`packet.rs`).

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ringwall_ebpf_common::{
    Action, Connection, Endpoint, Hook, Kind, TCP, Verdict, Workload, decide,
};

use crate::context::{self, DENY, PASS};
use crate::maps::{self, CONNECTIONS, Maps};
use crate::report::{self, Seen};

#[cgroup_sock_addr(connect4)]
pub fn rw_connect4(context: SockAddrContext) -> i32 {
    let to = context::target_4(&context);
    connect(&context, false, to)
}

#[cgroup_sock_addr(connect6)]
pub fn rw_connect6(context: SockAddrContext) -> i32 {
    let to = context::target_6(&context);
    connect(&context, true, to)
}

#[inline(always)]
fn connect(context: &SockAddrContext, six: bool, to: Endpoint) -> i32 {
    let (cgroup, workload) = maps::current();
    let protocol = context::protocol(context);
    let verdict = decide::connect(&Maps, workload, protocol, six, to);
    if let Some(workload) = workload
        && follow(context, workload, six, to, &verdict)
    {
        return PASS;
    }
    let seen = Seen {
        hook: Hook::Connect,
        cgroup,
        protocol,
        destination: to,
        in_process: true,
    };
    report::refused(workload, &verdict, &seen);
    DENY
}

/// Does as decided; false where the call is to fail.
#[inline(always)]
fn follow(
    context: &SockAddrContext,
    workload: &Workload,
    six: bool,
    to: Endpoint,
    verdict: &Verdict,
) -> bool {
    let kind = match verdict.action {
        Action::Capture => Kind::Captured,
        Action::Names => Kind::Names,
        Action::Dial => Kind::Dialled,
        // Of a proxy: nothing has to be remembered.
        Action::Pass if !workload.is_app() => return true,
        // Datagrams are judged one by one.
        Action::Pass if context::protocol(context) != TCP => return true,
        Action::Pass => Kind::Direct,
        Action::Deny | Action::Narrow => return false,
    };
    let connection = Connection {
        workload: workload.id,
        service: verdict.service,
        kind: kind as u8,
        mapped: 0,
        padding: 0,
        original: to,
    };
    let socket = context::socket(context);
    // SAFETY: the hook's own socket, which is a full one.
    if !unsafe { CONNECTIONS.put(socket, connection) } {
        return false;
    }
    match kind {
        Kind::Captured => context::redirect(context, six, context::listener(workload, six, to)),
        Kind::Names => context::redirect(context, six, context::name_server(workload, six, to)),
        _ => {}
    }
    true
}
