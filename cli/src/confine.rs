//! What a component's process gives up before it becomes the component, where the kernel enforces its connections.
//!
//! Owns: the ways around the hooks of a control group that are no connections. Without capabilities nobody leaves the group
//! by mounting it, opens raw or packet sockets, or loads programs; with the groups' file system hidden, a process of the same
//! user cannot write itself into another one; the filter refuses families of sockets that the hooks do not see, other
//! namespaces, and rings that submit without a system call. Nothing of it can be taken back, and children inherit it.
//! Must not: be needed by the component: whoever uses one of these gets EPERM.

use std::collections::BTreeMap;
use std::path::Path;

use caps::{CapSet, CapsHashSet};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::error::CliError;

/// What a component has no business with: control groups, and pinned programs and maps.
const HIDDEN: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/bpf"];

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

/// Gives everything up, in the order in which it can be.
pub(crate) fn confine() -> Result<(), CliError> {
    hide()?;
    drop_capabilities()?;
    prctl::set_no_new_privs().map_err(|error| failed("setting no_new_privs", error))?;
    for filter in [refusals(), unknown()] {
        let filter = filter.map_err(|error| failed("making a filter of system calls", error))?;
        seccompiler::apply_filter(&filter)
            .map_err(|error| failed("installing a filter of system calls", error))?;
    }
    Ok(())
}

/// An empty folder stands before what is hidden, for this process and its children alone.
fn hide() -> Result<(), CliError> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed("making a mount namespace", error))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE)
        .map_err(|error| failed("making mounts private", error))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for place in HIDDEN.iter().filter(|place| Path::new(place).is_dir()) {
        mount(
            Some("none"),
            *place,
            Some("tmpfs"),
            flags,
            Some("size=0,mode=0555"),
        )
        .map_err(|error| failed("hiding control groups and pinned programs", error))?;
    }
    Ok(())
}

fn drop_capabilities() -> Result<(), CliError> {
    let dropping = |error| failed("dropping capabilities", error);
    caps::clear(None, CapSet::Ambient).map_err(dropping)?;
    // The bounding set goes first: it takes a capability to do so.
    caps::clear(None, CapSet::Bounding).map_err(dropping)?;
    let none = CapsHashSet::new();
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &none).map_err(dropping)?;
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

fn failed(what: &'static str, error: impl std::fmt::Display) -> CliError {
    CliError::internal(what, error.to_string())
}
