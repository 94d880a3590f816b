//! Modules by their content: `sha256/DIGEST.wasm`, with `.sig` appended for the signature.
//!
//! A reader sees a whole file or none, and a module not before its signature. What is there under a digest has that digest.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::project::ModuleFile;
use super::sign::signature_of;
use crate::error::CliError;

pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(super) fn at(folder: &Path) -> Self {
        Self {
            folder: folder.join("sha256"),
        }
    }

    /// Where a module of this digest is or would be.
    pub(super) fn path(&self, sha256: &str) -> PathBuf {
        self.folder.join(format!("{sha256}.wasm"))
    }

    /// The signature that is kept of it.
    pub(super) fn signature(&self, sha256: &str) -> Result<Option<Vec<u8>>, CliError> {
        let path = signature_of(&self.path(sha256));
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CliError::io("reading", &path, error)),
        }
    }

    /// Puts a module there, with its signature if there is one. False: it was there already.
    pub(super) fn put(
        &self,
        module: &ModuleFile,
        signature: Option<&[u8]>,
    ) -> Result<bool, CliError> {
        fs::create_dir_all(&self.folder)
            .map_err(|error| CliError::io("making", &self.folder, error))?;
        let path = self.path(&module.sha256());
        if let Some(signature) = signature {
            replace(&signature_of(&path), signature)?;
        }
        if fs::read(&path).is_ok_and(|there| there == module.bytes) {
            return Ok(false);
        }
        replace(&path, &module.bytes)?;
        Ok(true)
    }
}

/// Written beside it under a name of this process's own, synced, renamed.
fn replace(path: &Path, content: &[u8]) -> Result<(), CliError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let write = || -> io::Result<()> {
        // A leftover of an earlier process with this number.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&beside);
        CliError::io("writing", path, error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r93_a_module_is_kept_once_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        let module = ModuleFile {
            path: "a.wasm".into(),
            bytes: b"abc".to_vec(),
        };
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(store.put(&module, None).unwrap());
        assert_eq!(store.signature(sha256).unwrap(), None);
        assert!(!store.put(&module, Some(b"sig")).unwrap());
        assert_eq!(store.signature(sha256).unwrap().unwrap(), b"sig");
        let mut names: Vec<String> = fs::read_dir(folder.path().join("sha256"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [format!("{sha256}.wasm"), format!("{sha256}.wasm.sig")]
        );
        // What does not have its digest is put right.
        fs::write(store.path(sha256), b"ab").unwrap();
        assert!(store.put(&module, None).unwrap());
        assert_eq!(fs::read(store.path(sha256)).unwrap(), b"abc");
    }
}
