//! Files for somebody else: replaced whole, 0600, given to their owner before they have their name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown, fchown};
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringwall_identity::svid::validity_of;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use crate::config::Owner;
use crate::error::AgentError;

/// Makes the directory, 0700 and its owner's, where it is missing.
pub(super) fn directory(path: &Path, owner: Option<Owner>) -> Result<(), AgentError> {
    if path.is_dir() {
        return Ok(());
    }
    let make = || -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        match owner {
            Some(Owner { uid, gid }) => chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    };
    make().map_err(|error| AgentError::file(path, error))
}

/// Replaces a file by rename.
pub(super) fn replace(path: &Path, content: &[u8], owner: Option<Owner>) -> Result<(), AgentError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let replace = || -> io::Result<()> {
        // A leftover of a crash may have another owner or mode.
        remove_if_there(&beside)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        if let Some(Owner { uid, gid }) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        let parent = path.parent().unwrap_or_else(|| Path::new("/"));
        File::open(parent)?.sync_all()
    };
    replace().map_err(|error| AgentError::file(path, error))
}

/// Removes a file that may be there.
pub(super) fn remove(path: &Path) -> Result<(), AgentError> {
    remove_if_there(path).map_err(|error| AgentError::file(path, error))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Start and end of the certificate in `chain`, where its key's file is there too.
pub(super) fn times(chain: &Path, key: &Path) -> Option<(OffsetDateTime, OffsetDateTime)> {
    if !key.is_file() {
        return None;
    }
    let leaf = CertificateDer::from_pem_file(chain).ok()?;
    validity_of(&leaf).ok()
}

/// Sends SIGHUP to the process whose id stands in the first line of `pid_file`; its id.
pub(super) fn hang_up(pid_file: &Path) -> Result<i32, AgentError> {
    let wrong = |why: &str| AgentError::file(pid_file, io::Error::other(why.to_owned()));
    let text = fs::read_to_string(pid_file).map_err(|error| AgentError::file(pid_file, error))?;
    let pid: i32 = text
        .lines()
        .next()
        .and_then(|line| line.trim().parse().ok())
        .filter(|pid| *pid > 1)
        .ok_or_else(|| wrong("there is no process id in it"))?;
    kill(Pid::from_raw(pid), Signal::SIGHUP).map_err(|errno| wrong(errno.desc()))?;
    Ok(pid)
}
