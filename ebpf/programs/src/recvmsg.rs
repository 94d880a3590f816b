//! `cgroup/recvmsg4` and `recvmsg6`: an answer of the proxy's name server looks like one of the server that was asked.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ringwall_ebpf_common::{Endpoint, Kind};

use crate::context::{self, PASS};
use crate::maps::{self, CONNECTIONS};

#[cgroup_sock_addr(recvmsg4)]
pub fn rw_recvmsg4(context: SockAddrContext) -> i32 {
    let from = context::target_4(&context);
    recvmsg(&context, false, from)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn rw_recvmsg6(context: SockAddrContext) -> i32 {
    let from = context::target_6(&context);
    recvmsg(&context, true, from)
}

#[inline(always)]
fn recvmsg(context: &SockAddrContext, six: bool, from: Endpoint) -> i32 {
    let (_, Some(workload)) = maps::current() else {
        return PASS;
    };
    // SAFETY: the hook's own socket, which is a full one.
    let Some(connection) = (unsafe { CONNECTIONS.get(context::socket(context)) }) else {
        return PASS;
    };
    let answer = workload.dns_4.same(from) || workload.dns_6.same(from);
    if answer && connection.kind == Kind::Names as u8 {
        context::redirect(context, six, connection.original);
    }
    PASS
}
