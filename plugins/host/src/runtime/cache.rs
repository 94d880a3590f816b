//! Compiled modules on disk.
//!
//! Owns: the file of each, named by the module's digest and by the engine that compiled it. Such a file is code: it is read
//! from a directory only that belongs to this user and that nobody else may write to, and only if it is whole. Anything
//! else is compiled anew. Must not: fail a load because of a bad file.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest;
use wasmtime::{Engine, Module};

use crate::error::Error;

const MAGIC: &[u8; 8] = b"rwaot\0\0\x01";
/// Compiled code is larger than its module, but not without bound.
const MAX_FILE: u64 = 256 << 20;

/// A directory that is safe to load code from.
pub(crate) struct Cache {
    directory: PathBuf,
    engine: u64,
    writes: AtomicU64,
}

impl Cache {
    /// Creates the directory with mode 0700, or checks the one that is there.
    pub(crate) fn open(directory: PathBuf, engine: &Engine) -> Result<Self, Error> {
        let refuse = |problem: String| Error::CacheDirectory {
            path: directory.clone(),
            problem,
        };
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&directory);
        made.map_err(|error| refuse(format!("cannot be made: {error}")))?;
        let found = fs::symlink_metadata(&directory);
        let found = found.map_err(|error| refuse(format!("cannot be read: {error}")))?;
        if !found.is_dir() {
            return Err(refuse("is no directory".to_owned()));
        }
        if let Some(problem) = unsafe_to_read(&found) {
            return Err(refuse(problem));
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            directory,
            engine: hasher.finish(),
            writes: AtomicU64::new(0),
        })
    }

    fn path(&self, module: &str) -> PathBuf {
        let name = format!("{module}-{:016x}.aot", self.engine);
        self.directory.join(name)
    }

    /// The compiled module, if there is a whole one of this engine.
    pub(crate) fn load(&self, engine: &Engine, module: &str) -> Option<Module> {
        let path = self.path(module);
        let code = match read(&path) {
            Ok(code) => code?,
            Err(problem) => {
                tracing::warn!(path = %path.display(), problem, "a compiled plugin is not used");
                return None;
            }
        };
        match deserialize(engine, &code) {
            Ok(module) => Some(module),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a compiled plugin is not used");
                None
            }
        }
    }

    /// Keeps the compiled module. That this fails is logged, and costs the next start its time only.
    pub(crate) fn store(&self, module: &str, compiled: &Module) {
        let path = self.path(module);
        let written = compiled.serialize().map_err(|error| error.to_string());
        let written = written.and_then(|code| self.write(&path, &code).map_err(|e| e.to_string()));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), error, "a compiled plugin is not kept");
        }
    }

    fn write(&self, path: &Path, code: &[u8]) -> std::io::Result<()> {
        let count = self.writes.fetch_add(1, Ordering::Relaxed);
        let beside = path.with_extension(format!("{}-{count}.tmp", std::process::id()));
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        let written = file
            .write_all(MAGIC)
            .and_then(|()| file.write_all(digest::digest(&digest::SHA256, code).as_ref()))
            .and_then(|()| file.write_all(code))
            .and_then(|()| fs::rename(&beside, path));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

/// Why code in it may be somebody else's, if so.
fn unsafe_to_read(found: &fs::Metadata) -> Option<String> {
    let user = nix::unistd::geteuid().as_raw();
    if found.uid() != user {
        return Some(format!("belongs to user {}, not to {user}", found.uid()));
    }
    let mode = found.mode() & 0o777;
    (mode & 0o022 != 0).then(|| format!("has mode {mode:o}: others may write to it"))
}

/// The code in a file. `None` where there is no file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits());
    let mut file: File = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let found = file.metadata().map_err(|error| error.to_string())?;
    if let Some(problem) = unsafe_to_read(&found) {
        return Err(problem);
    }
    if !found.is_file() || found.len() > MAX_FILE {
        return Err(format!("has {} bytes", found.len()));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    let whole = bytes
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.split_at_checked(digest::SHA256_OUTPUT_LEN))
        .filter(|(sum, code)| digest::digest(&digest::SHA256, code).as_ref() == *sum);
    let (_, code) = whole.ok_or("is not whole")?;
    Ok(Some(code.to_vec()))
}

#[expect(
    unsafe_code,
    reason = "wasmtime cannot check that code is what it once compiled"
)]
fn deserialize(engine: &Engine, code: &[u8]) -> Result<Module, String> {
    // SAFETY: the bytes are what `Module::serialize` gave to this user: they lay in a file and a directory of this user's
    // that nobody else may write to, their digest is whole, and wasmtime itself refuses those of another version,
    // configuration or processor.
    let module = unsafe { Module::deserialize(engine, code) };
    module.map_err(|error| format!("{error:#}"))
}
