//! The file system that keeps programs, maps and links alive without a process.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::{Error, Result};

/// Makes the folder of pins, and mounts bpffs above it where there is none.
pub(crate) fn prepare(pins: &Path) -> Result<()> {
    let place = pins.parent().unwrap_or(Path::new("/")).to_path_buf();
    if !is_bpffs(&place) {
        mount_once(&place)?;
    }
    fs::create_dir_all(pins).map_err(|source| Error::Pins {
        path: pins.to_path_buf(),
        source,
    })
}

/// Makes a folder among the pins, where it is not.
pub(crate) fn folder(pins: &Path, name: &str) -> Result<PathBuf> {
    let path = pins.join(name);
    match fs::create_dir(&path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::Pins { path, source })
        }
        _ => Ok(path),
    }
}

/// Removes folders that begin like this one, and are another one.
pub(crate) fn remove_others(pins: &Path, start: &str, own: &str) {
    for entry in fs::read_dir(pins).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(start) && name != own {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_bpffs(place: &Path) -> bool {
    statfs(place).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Two platforms may start at once, and a second mount would hide the pins of the first.
fn mount_once(place: &PathBuf) -> Result<()> {
    let failed = |source: io::Error| Error::Mount {
        path: place.clone(),
        source,
    };
    let folder = File::open(place).map_err(failed)?;
    let _lock =
        Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))?;
    if is_bpffs(place) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), place, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|error| failed(error.into()))
}
