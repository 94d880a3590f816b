//! `cgroup/getpeername4` and `getpeername6`: the application sees whom it has called, not its proxy.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use ringwall_ebpf_common::Kind;

use crate::context::{self, PASS};
use crate::maps::CONNECTIONS;

#[cgroup_sock_addr(getpeername4)]
pub fn rw_getpeername4(context: SockAddrContext) -> i32 {
    show(&context, false)
}

#[cgroup_sock_addr(getpeername6)]
pub fn rw_getpeername6(context: SockAddrContext) -> i32 {
    show(&context, true)
}

#[inline(always)]
fn show(context: &SockAddrContext, six: bool) -> i32 {
    // SAFETY: the hook's own socket, which is a full one.
    let Some(connection) = (unsafe { CONNECTIONS.get(context::socket(context)) }) else {
        return PASS;
    };
    let ours = connection.kind == Kind::Captured as u8 || connection.kind == Kind::Names as u8;
    if ours {
        context::redirect(context, six, connection.original);
    }
    PASS
}
