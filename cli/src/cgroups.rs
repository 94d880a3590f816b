//! Control groups (version 2) of the platform's processes: by them the agent tells workloads apart.
//!
//! Owns: one slice for this state directory, and below it one group for each component and each proxy,
//! made before the process and removed after it. Where none can be made, the agent believes the
//! supervisor's word instead, which names single processes. Must not: limit anything.
//! Read next: `commands/launch.rs`, which joins the group.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::digest::{SHA256, digest};

use crate::error::CliError;
use crate::output::say;
use crate::state::StateDir;

/// Where version 2 is mounted: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// How the agent recognises processes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tier {
    /// By control group: a whole workload, whatever it starts.
    Cgroup,
    /// By the supervisor's word: the one process that it has started.
    Spawned,
}

impl Tier {
    /// The word for people.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Spawned => "spawned",
        }
    }
}

/// The slice of one platform. Dropping it removes what is empty.
#[derive(Debug)]
pub(crate) struct Slice {
    path: PathBuf,
}

/// Whose group it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    App,
    Proxy,
}

impl Slice {
    /// Makes the slice where this user may, and tries it with a process; none where that fails.
    pub(crate) fn make(state: &StateDir, launcher: &Path) -> Option<Self> {
        let name = format!("ringwall-{}.slice", short_id(state.root()));
        let places = MOUNTS
            .iter()
            .map(PathBuf::from)
            .filter(|mount| is_version_2(mount));
        let places: Vec<PathBuf> = places.collect();
        // A user's own group may be delegated to it (systemd's user@.service).
        let own = places
            .iter()
            .filter_map(|mount| Some(mount.join(own_group()?)));
        let candidates: Vec<PathBuf> = places.iter().cloned().chain(own).collect();
        candidates
            .into_iter()
            .map(|place| Self {
                path: place.join(&name),
            })
            .find(|slice| slice.works(launcher))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The group of a workload's process, made if it is not there.
    pub(crate) fn group(&self, workload: &str, side: Side) -> Option<PathBuf> {
        let path = group_below(&self.path, workload, side);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                say(&format!("warning: making {}: {error}", path.display()));
                None
            }
            _ => Some(path),
        }
    }

    fn works(&self, launcher: &Path) -> bool {
        let made = match fs::create_dir(&self.path) {
            Err(error) => error.kind() == std::io::ErrorKind::AlreadyExists,
            Ok(()) => true,
        };
        let joined = made && {
            let tried = Command::new(launcher)
                .args(["launch", "--cgroup"])
                .arg(&self.path)
                .args(["--", "/proc/self/exe", "--version"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            tried.is_ok_and(|status| status.success())
        };
        if made && !joined {
            let _ = fs::remove_dir(&self.path);
        }
        joined
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        // A group that still has a process stays, and is used again by the next start.
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// Does `work` with ourselves in `group`: the sockets that it makes are that group's for good, whoever has them later.
pub(crate) fn within<T>(group: &Path, work: impl FnOnce() -> T) -> Result<T, CliError> {
    let mount = MOUNTS
        .iter()
        .map(Path::new)
        .filter(|mount| is_version_2(mount));
    let mount = mount
        .max_by_key(|mount| group.starts_with(mount))
        .unwrap_or(Path::new("/sys/fs/cgroup"));
    let home = own_group().map_or_else(|| mount.to_path_buf(), |own| mount.join(own));
    join(group)?;
    let done = work();
    join(&home)?;
    Ok(done)
}

/// Moves this process into a group.
pub(crate) fn join(group: &Path) -> Result<(), CliError> {
    let procs = group.join("cgroup.procs");
    fs::write(&procs, "0").map_err(|error| CliError::io("joining", &procs, error))
}

/// Where the group of a workload's process stands.
pub(crate) fn group_below(slice: &Path, workload: &str, side: Side) -> PathBuf {
    let side = match side {
        Side::App => "app",
        Side::Proxy => "proxy",
    };
    slice.join(format!("ringwall-{side}-{workload}.slice"))
}

/// Same state directory, same slice; another one, another slice.
fn short_id(root: &Path) -> String {
    let hash = digest(&SHA256, root.as_os_str().as_bytes());
    let first = hash.as_ref().iter().take(4);
    first.map(|byte| format!("{byte:02x}")).collect()
}

fn is_version_2(mount: &Path) -> bool {
    mount.join("cgroup.procs").exists() && mount.join("cgroup.controllers").exists()
}

/// Our own group in version 2, without its slash; none at the top.
fn own_group() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    (!path.is_empty()).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_directory_has_a_slice_of_its_own() {
        let id = |path: &str| short_id(Path::new(path));
        assert_eq!(id("/var/lib/ringwall"), id("/var/lib/ringwall"));
        assert_ne!(id("/var/lib/ringwall"), id("/tmp/x"));
        assert_eq!(id("/tmp/x").len(), 8);
    }

    #[test]
    fn without_a_launcher_that_joins_there_is_no_slice() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().into());
        assert!(Slice::make(&state, Path::new("/bin/false")).is_none());
    }
}
