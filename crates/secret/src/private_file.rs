//! Files that only their owner can read.
//!
//! Owns: refusing a secret file that others can read, and replacing one atomically and durably.
//! Must not: interpret content.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroize;

use crate::{Secret, SecretBytes, SecretError};

/// Longest secret file that is read, in bytes.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// What tells one version of a file from the next without reading it. Replacing a file by rename
/// changes the inode, so that a second write within one clock tick is noticed too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    modified_s: i64,
    modified_ns: i64,
    length_bytes: u64,
}

impl Stamp {
    /// The present version of `path`.
    ///
    /// # Errors
    /// [`SecretError::Read`] when the file cannot be reached.
    pub fn of(path: &Path) -> Result<Self, SecretError> {
        let meta = fs::metadata(path).map_err(|source| read_error(path, source))?;
        Ok(Self {
            inode: meta.ino(),
            modified_s: meta.mtime(),
            modified_ns: meta.mtime_nsec(),
            length_bytes: meta.size(),
        })
    }
}

/// Reads a file that nobody but its owner may read.
///
/// The permissions are those of the opened file, so that no exchange between check and read helps.
///
/// # Errors
/// [`SecretError::Permissions`] when group or others have any access, [`SecretError::NotAFile`] when
/// it is no ordinary file or longer than [`MAX_BYTES`], [`SecretError::Read`] otherwise.
pub fn read(path: &Path) -> Result<SecretBytes, SecretError> {
    read_at_most(path, MAX_BYTES)
}

/// [`read`] with another limit than [`MAX_BYTES`], for private files that are no secrets.
///
/// # Errors
/// As [`read`].
pub fn read_at_most(path: &Path, max_bytes: u64) -> Result<SecretBytes, SecretError> {
    // O_NONBLOCK: opening a pipe must not wait for a writer; it is refused below.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .map_err(|source| read_error(path, source))?;
    let meta = file.metadata().map_err(|source| read_error(path, source))?;
    let refuse = |why| SecretError::NotAFile {
        path: path.to_owned(),
        why,
    };
    if !meta.is_file() {
        return Err(refuse("not an ordinary file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(SecretError::Permissions {
            path: path.to_owned(),
            mode: meta.mode() & 0o777,
        });
    }
    let capacity = usize::try_from(meta.size().min(max_bytes)).unwrap_or(0);
    // One byte to spare, so that reading to the end never moves the buffer and leaves a copy.
    let mut bytes = Vec::with_capacity(capacity + 1);
    let read = file
        .take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes);
    let bytes = Secret::new(bytes);
    read.map_err(|source| read_error(path, source))?;
    if bytes.expose().len() as u64 > max_bytes {
        return Err(refuse("longer than it may be"));
    }
    Ok(bytes)
}

/// Replaces `path` by `content`, mode 0600: written beside it, synced, renamed, directory synced.
/// A crash leaves the old or the new file, never a part.
///
/// # Errors
/// [`SecretError::Write`]; the old file then stands unchanged.
pub fn write(path: &Path, content: &[u8]) -> Result<(), SecretError> {
    let temporary = temporary_beside(path)?;
    let result = write_new(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_directory(path));
    result.map_err(|source| {
        // Best effort: after a successful rename there is nothing left to remove.
        let _ = fs::remove_file(&temporary);
        SecretError::Write {
            path: path.to_owned(),
            source,
        }
    })
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

/// A name in the same directory that no concurrent writer picks.
fn temporary_beside(path: &Path) -> Result<PathBuf, SecretError> {
    let mut random = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| SecretError::Crypto("naming a file"))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", hex::encode(random)));
    random.zeroize();
    Ok(path.with_file_name(name))
}

fn read_error(path: &Path, source: io::Error) -> SecretError {
    SecretError::Read {
        path: path.to_owned(),
        source,
    }
}

/// `O_NONBLOCK` of Linux, from `asm-generic/fcntl.h`: the one constant that would need libc here.
const O_NONBLOCK: i32 = 0o4000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pepper");
        write(&path, b"one").unwrap();
        let before = Stamp::of(&path).unwrap();
        write(&path, b"two").unwrap();
        assert_ne!(before, Stamp::of(&path).unwrap());
        assert!(read(&path).unwrap().ct_eq(b"two"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file remains"
        );
    }

    #[test]
    fn others_access_is_refused_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pepper");
        write(&path, b"value").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path).err().unwrap().to_string();
            assert!(
                error.contains("chmod 600") && !error.contains("value"),
                "{error}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(read(&path).is_ok());
    }

    #[test]
    fn what_is_no_ordinary_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            read(dir.path()),
            Err(SecretError::NotAFile { .. })
        ));
        assert!(matches!(
            read(&dir.path().join("none")),
            Err(SecretError::Read { .. })
        ));
        let long = dir.path().join("long");
        write(&long, &vec![0; MAX_BYTES as usize + 1]).unwrap();
        assert!(matches!(read(&long), Err(SecretError::NotAFile { .. })));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(&dir.path().join("no/such/dir"), b"x").is_err());
        let directory = dir.path().join("taken");
        fs::create_dir(&directory).unwrap();
        assert!(
            write(&directory, b"x").is_err(),
            "a directory cannot be replaced"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
