//! Which workload is calling? The kernel's answer, never the caller's.
//!
//! Owns: the decision. A caller is the process that the kernel names for the connection, recognised
//! by its cgroup; or, the weaker tier, by the supervisor's word about a process that it has started.
//! A user id, an argument, a header or a name that the caller gives counts for nothing.
//!
//! The tiers differ in what a compromised workload can do. A cgroup that root has made cannot be
//! entered by anybody else, and every process below it belongs to it. The supervisor's word names one
//! process: its children get nothing, and on a machine where all run as one user, a workload that
//! takes over the supervisor itself, or debugs another workload, is that workload.
//! Must not: look at what was asked for. Read next: `attest/process.rs`, then `attest/cgroup.rs`.

mod cgroup;
mod control_socket;
mod process;
mod spawned;

use std::sync::Arc;

use nix::unistd::Uid;

pub(crate) use cgroup::Selectors;
pub(crate) use control_socket::ControlSocket;
pub(crate) use process::Peer;
pub(crate) use spawned::Registry;

/// Why a caller is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unknown {
    /// The process that has connected does not run any more; whoever holds the connection, or has
    /// its process id, is another one.
    #[error("the process that has connected is gone")]
    Gone,
    /// Nothing says what it is.
    #[error("neither its cgroup nor the supervisor names a workload")]
    Unattested,
    /// Its cgroups, or cgroup and supervisor, name different workloads.
    #[error("more than one workload is named for it")]
    Ambiguous,
    /// The cgroup was made by somebody who may not say who is who.
    #[error("its cgroup does not belong to root or to the agent's user")]
    ForeignCgroup,
}

impl Unknown {
    /// For metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Unattested => "unattested",
            Self::Ambiguous => "ambiguous",
            Self::ForeignCgroup => "foreign_cgroup",
        }
    }
}

/// Tells workloads apart.
pub(crate) struct Attestor {
    selectors: Selectors,
    require_owned_cgroups: bool,
    own: Uid,
    spawned: Option<Arc<Registry>>,
}

impl Attestor {
    pub(crate) fn new(
        selectors: Selectors,
        require_owned_cgroups: bool,
        spawned: Option<Arc<Registry>>,
    ) -> Self {
        Self {
            selectors,
            require_owned_cgroups,
            own: Uid::effective(),
            spawned,
        }
    }

    /// The workload that `peer` is, at this moment. Ask again before anything else is given to it.
    pub(crate) fn workload(&self, peer: &Peer) -> Result<String, Unknown> {
        if !peer.is_still_there() {
            return Err(Unknown::Gone);
        }
        let by_cgroup = self.by_cgroup(peer)?;
        let by_word = self
            .spawned
            .as_ref()
            .and_then(|spawned| spawned.workload(peer.pid(), peer.started()));
        // The process may have ended, and its id been given away, while its files were read.
        if !peer.is_still_there() {
            return Err(Unknown::Gone);
        }
        match (by_cgroup, by_word) {
            (Some(one), Some(other)) if one != other => Err(Unknown::Ambiguous),
            (Some(workload), _) | (None, Some(workload)) => Ok(workload),
            (None, None) => Err(Unknown::Unattested),
        }
    }

    fn by_cgroup(&self, peer: &Peer) -> Result<Option<String>, Unknown> {
        let text = process::read(peer.pid(), "cgroup").map_err(|_| Unknown::Gone)?;
        let Some(found) = cgroup::workload_of(&text, &self.selectors)? else {
            return Ok(None);
        };
        if self.require_owned_cgroups && !found.is_owned_by_us_or_root(self.own) {
            return Err(Unknown::ForeignCgroup);
        }
        Ok(Some(found.workload))
    }
}
