//! What a component's process gives up before it becomes the component, where the kernel enforces its connections.
//!
//! Owns: the ways around the hooks of a control group that are no connections. Without capabilities nobody leaves the group
//! by mounting it, opens raw or packet sockets, or loads programs; with the groups' file system hidden, a process of the same
//! user cannot write itself into another one; a filter of system calls (`crates/confine`) refuses what the hooks do not see. Nothing
//! of it can be taken back, and children inherit it.
//! Must not: be needed by the component: whoever uses one of these gets EPERM.

use std::path::Path;

use caps::{CapSet, CapsHashSet};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::error::CliError;

/// What a component has no business with: control groups, and pinned programs and maps.
const HIDDEN: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/bpf"];

/// Gives everything up, in the order in which it can be.
pub(crate) fn confine() -> Result<(), CliError> {
    hide()?;
    drop_capabilities()?;
    ringwall_confine::refuse_ways_out()
        .map_err(|failed| CliError::internal(failed.what, failed.why))?;
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

fn failed(what: &'static str, error: impl std::fmt::Display) -> CliError {
    CliError::internal(what, error.to_string())
}
