//! What a component's process refuses itself beside what hooks of a control group see.
//!
//! Owns: a filter of system calls for families of sockets that the hooks do not see, other namespaces, programs, and rings that
//! submit without a system call. It cannot be taken back, and children inherit it.
//! Must not: be needed by the component: whoever uses one of these gets EPERM.

use std::collections::BTreeMap;
use std::fmt;

use nix::libc;
use nix::sys::prctl;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Calls that are refused whatever their arguments.
const REFUSED: [libc::c_long; 22] = [
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
];

/// Families of sockets that are known: those that hooks see, and those that do not leave the machine's kernel.
const FAMILIES: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// What did not succeed, and why.
#[derive(Debug)]
pub struct Failed {
    pub what: &'static str,
    pub why: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for Failed {}

/// Installs the filter for this thread and all that it starts, so before any other is there; privileges cannot be gained
/// from here on.
///
/// # Errors
/// The kernel has no filters, or does not know this machine's architecture. The process must then not go on.
pub fn refuse_ways_out() -> Result<(), Failed> {
    prctl::set_no_new_privs().map_err(|error| failed("setting no_new_privs", error))?;
    for filter in [refusals(), unknown()] {
        let filter = filter.map_err(|error| failed("making a filter of system calls", error))?;
        seccompiler::apply_filter(&filter)
            .map_err(|error| failed("installing a filter of system calls", error))?;
    }
    Ok(())
}

fn refusals() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in REFUSED {
        rules.insert(call, Vec::new());
    }
    // Every family but the known ones.
    let family = FAMILIES
        .iter()
        .map(|family| condition(0, Len::Dword, Op::Ne, u64::from(family.unsigned_abs())))
        .collect::<Result<Vec<_>, _>>()?;
    // Of netlink, routes alone: the resolver asks for addresses.
    let netlink = vec![
        condition(
            0,
            Len::Dword,
            Op::Eq,
            u64::from(libc::AF_NETLINK.unsigned_abs()),
        )?,
        condition(
            2,
            Len::Dword,
            Op::Ne,
            u64::from(libc::NETLINK_ROUTE.unsigned_abs()),
        )?,
    ];
    rules.insert(
        libc::SYS_socket,
        vec![SeccompRule::new(family)?, SeccompRule::new(netlink)?],
    );
    // A namespace of users would give capabilities back, in it.
    let user = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let new_user = condition(0, Len::Qword, Op::MaskedEq(user), user)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![new_user])?]);
    program(rules, libc::EPERM)
}

/// `clone3` has its flags in memory, where a filter does not look: it is as if this kernel did not know it, and whoever
/// calls it (glibc) calls `clone` then.
fn unknown() -> Result<BpfProgram, seccompiler::BackendError> {
    program(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        libc::ENOSYS,
    )
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    error: libc::c_int,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(error.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
}

fn condition(
    argument: u8,
    length: Len,
    operator: Op,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, length, operator, value)
}

fn failed(what: &'static str, error: impl fmt::Display) -> Failed {
    Failed {
        what,
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

    use super::*;

    fn made(
        family: AddressFamily,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> nix::Result<()> {
        socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).map(drop)
    }

    #[test]
    fn attack_what_hooks_do_not_see_is_refused_to_the_thread_and_its_children() {
        let ways = || {
            let ways = [
                made(AddressFamily::Vsock, SockType::Stream, None),
                made(AddressFamily::Alg, SockType::SeqPacket, None),
                made(AddressFamily::Packet, SockType::Raw, None),
                made(
                    AddressFamily::Netlink,
                    SockType::Raw,
                    Some(SockProtocol::NetlinkAudit),
                ),
            ];
            let needed = made(AddressFamily::Inet, SockType::Stream, None);
            (ways, needed)
        };
        // A filter stays with its thread.
        let confined = std::thread::spawn(move || {
            refuse_ways_out().unwrap();
            let below = std::thread::spawn(ways).join().unwrap();
            [ways(), below]
        });
        for (ways, needed) in confined.join().unwrap() {
            assert_eq!(ways, [Err(nix::errno::Errno::EPERM); 4]);
            assert_eq!(needed, Ok(()));
        }
    }
}
