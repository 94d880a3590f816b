//! `cgroup/sendmsg4` and `sendmsg6`: datagrams without a connection. Queries for names go to the proxy.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ringwall_ebpf_common::{Action, Connection, Endpoint, Hook, Kind, UDP, decide};

use crate::context::{self, DENY, PASS};
use crate::maps::{self, CONNECTIONS, Maps};
use crate::report::{self, Seen};

#[cgroup_sock_addr(sendmsg4)]
pub fn rw_sendmsg4(context: SockAddrContext) -> i32 {
    let to = context::target_4(&context);
    sendmsg(&context, false, to)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn rw_sendmsg6(context: SockAddrContext) -> i32 {
    let to = context::target_6(&context);
    sendmsg(&context, true, to)
}

#[inline(always)]
fn sendmsg(context: &SockAddrContext, six: bool, to: Endpoint) -> i32 {
    let (cgroup, workload) = maps::current();
    let verdict = decide::connect(&Maps, workload, UDP, six, to);
    match (verdict.action, workload) {
        (Action::Pass, _) => return PASS,
        (Action::Names, Some(workload)) => {
            let connection = Connection {
                workload: workload.id,
                service: 0,
                kind: Kind::Names as u8,
                mapped: 0,
                padding: 0,
                original: to,
            };
            // SAFETY: the hook's own socket, which is a full one.
            let stored = unsafe { CONNECTIONS.put(context::socket(context), connection) };
            if stored {
                context::redirect(context, six, context::name_server(workload, six, to));
                return PASS;
            }
        }
        _ => {}
    }
    let seen = Seen {
        hook: Hook::SendMsg,
        cgroup,
        protocol: UDP,
        destination: to,
        in_process: true,
    };
    report::refused(workload, &verdict, &seen);
    DENY
}
