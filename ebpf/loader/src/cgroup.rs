//! Control groups as the programs know them: by number and by depth.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::error::{Error, Result};

/// The inode of the hierarchy's root, on every machine.
const ROOT: u64 = 1;

/// The number by which `bpf_get_current_cgroup_id` and its kind know the group.
pub(crate) fn number(path: &Path) -> Result<u64> {
    inode(path).map_err(|source| Error::ControlGroup {
        path: path.to_path_buf(),
        source,
    })
}

fn inode(path: &Path) -> io::Result<u64> {
    if statfs(path)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(io::Error::other("another file system is there"));
    }
    Ok(path.metadata()?.ino())
}

/// How far below the root it is; the root itself has depth 0.
pub(crate) fn depth(path: &Path) -> Result<u32> {
    number(path)?;
    let mut depth = 0;
    for place in path.ancestors() {
        match inode(place) {
            Ok(ROOT) => return Ok(depth),
            Ok(_) => depth += 1,
            Err(_) => break,
        }
    }
    Err(Error::NotTheRoot {
        path: path.to_path_buf(),
    })
}

/// The group of the calling process, in the hierarchy that `path` is in.
pub(crate) fn own(path: &Path) -> io::Result<std::path::PathBuf> {
    let mut places = path.ancestors();
    let root = places
        .find(|place| matches!(inode(place), Ok(ROOT)))
        .ok_or_else(|| io::Error::other("the root of control groups is not seen"))?;
    let text = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    own.map(|own| root.join(own))
        .ok_or_else(|| io::Error::other("/proc/self/cgroup names no group of version 2"))
}

/// Moves the calling process.
pub(crate) fn join(group: &Path) -> io::Result<()> {
    std::fs::write(group.join("cgroup.procs"), "0")
}
