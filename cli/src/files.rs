//! Writing files so that a reader sees the old or the new one, never a part.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::Path;

use crate::error::CliError;

/// A user and group that a file is to belong to.
pub(crate) type Owner = (u32, u32);

/// Makes a directory with exactly this mode; one that exists gets the mode.
pub(crate) fn directory(path: &Path, mode: u32) -> Result<(), CliError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path);
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(|error| CliError::io("making", path, error))
}

/// As [`directory`], for another user.
pub(crate) fn directory_of(path: &Path, mode: u32, owner: Option<Owner>) -> Result<(), CliError> {
    directory(path, mode)?;
    let Some((uid, gid)) = owner else {
        return Ok(());
    };
    chown(path, Some(uid), Some(gid)).map_err(|error| CliError::io("giving away", path, error))
}

/// Replaces a file: written beside it with its mode and owner, synced, renamed.
pub(crate) fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<Owner>,
) -> Result<(), CliError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let replace = || -> io::Result<()> {
        // A leftover of a crash may have another owner or mode.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    replace().map_err(|error| CliError::io("writing", path, error))
}

/// Reads a small text file; a missing one is `None`.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>, CliError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::io("reading", path, error)),
    }
}

/// The last lines of a file that may be large; a missing file has none.
pub(crate) fn last_lines(path: &Path, count: usize) -> Vec<String> {
    last_lines_after(path, 0, count)
}

/// As [`last_lines`], of what stands after `offset`.
pub(crate) fn last_lines_after(path: &Path, offset: u64, count: usize) -> Vec<String> {
    /// Bytes from the end that are looked at.
    const WINDOW: u64 = 256 * 1024;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(WINDOW).max(offset)))?;
        let mut bytes = Vec::new();
        file.take(WINDOW).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(count))
        .map(|&line| line.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write(&path, b"one", 0o644, None).unwrap();
        write(&path, b"two", 0o600, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn the_end_of_a_log_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let text: String = (0..100_000).map(|line| format!("line {line}\n")).collect();
        fs::write(&path, text).unwrap();
        assert_eq!(last_lines(&path, 2), ["line 99998", "line 99999"]);
        assert_eq!(
            last_lines(&folder.path().join("missing"), 2),
            Vec::<String>::new()
        );
    }
}
