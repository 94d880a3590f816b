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
