//! The layout of the state directory, and the lock that makes one supervisor its master.
//!
//! Everything that `up` makes stands below one directory and nothing stands in the checkout.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

use crate::composition::{Composition, Profile};
use crate::error::CliError;
use crate::files;

/// Longest path of a unix socket that the kernel takes (`sun_path` less its end).
const LONGEST_SOCKET_PATH: usize = 107;

/// A state directory. Making one of these touches nothing.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
}

/// Held by the running supervisor; the kernel lets go of it however the process ends.
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl StateDir {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Root certificate and sealed root key.
    pub(crate) fn authority(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// The sealed key of the root; absent where the root is somebody else's.
    pub(crate) fn root_key(&self) -> PathBuf {
        self.authority().join("root.key")
    }

    /// The trust bundle that browsers and clients are pointed at.
    pub(crate) fn ca_bundle(&self) -> PathBuf {
        self.authority().join("root.pem")
    }

    /// SVID, key and bundle of one workload.
    pub(crate) fn identity(&self, name: &str) -> PathBuf {
        self.root.join("identity").join(name)
    }

    /// Certificate of the public hosts.
    pub(crate) fn edge(&self) -> PathBuf {
        self.root.join("edge")
    }

    /// A PostgreSQL server's own folder: data, certificate.
    pub(crate) fn postgres(&self) -> PathBuf {
        self.root.join("postgres")
    }

    /// A component's durable files.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.root.join("data").join(name)
    }

    /// A component's sealed secrets and the key of the seal.
    pub(crate) fn secrets(&self, name: &str) -> (PathBuf, PathBuf) {
        let folder = self.root.join("secrets");
        (
            folder.join(format!("{name}.sealed")),
            folder.join(format!("{name}.seal-key")),
        )
    }

    /// A component's rendered configuration.
    pub(crate) fn config(&self, name: &str) -> PathBuf {
        self.root.join("config").join(format!("{name}.yaml"))
    }

    /// The text of the composition that was started last.
    pub(crate) fn composition(&self) -> PathBuf {
        self.root.join("config").join("composition")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Modules of plugins, by their content.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// What a component prints.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// Lock, record and sockets of what runs now.
    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Folder of PostgreSQL's unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run().join("postgres")
    }

    /// The agent's socket for workloads.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.run().join("agent.sock")
    }

    /// The agent's socket for the supervisor.
    pub(crate) fn agent_control(&self) -> PathBuf {
        self.run().join("agent-control.sock")
    }

    /// Where the running supervisor takes commands.
    pub(crate) fn supervisor_socket(&self) -> PathBuf {
        self.run().join("supervisor.sock")
    }

    /// `run/state.json`.
    pub(crate) fn record(&self) -> PathBuf {
        self.run().join("state.json")
    }

    /// Makes the directories that every component needs.
    pub(crate) fn create(&self, composition: &Composition) -> Result<(), CliError> {
        self.create_own()?;
        for private in ["edge", "data", "logs"] {
            files::directory(&self.root.join(private), 0o700)?;
        }
        for (name, _) in composition.programs() {
            files::directory(&self.data(&name), 0o700)?;
        }
        Ok(())
    }

    /// Makes the directories of what is nobody's but ours.
    pub(crate) fn create_own(&self) -> Result<(), CliError> {
        fs::create_dir_all(&self.root).map_err(|error| {
            if error.kind() == std::io::ErrorKind::PermissionDenied {
                return CliError::Privilege {
                    what: format!("the state directory {} cannot be made", self.root.display()),
                    fix: "name one of your own: --state-dir DIRECTORY".into(),
                };
            }
            CliError::io("making", &self.root, error)
        })?;
        // Passable and not listable: PostgreSQL's own user must reach its data and its socket.
        files::directory(&self.root, 0o711)?;
        files::directory(&self.run(), 0o711)?;
        for private in ["ca", "identity", "secrets", "config"] {
            files::directory(&self.root.join(private), 0o700)?;
        }
        Ok(())
    }

    /// Refuses what PostgreSQL could not work with, before anything is made.
    pub(crate) fn fits_postgres(&self, port: u16) -> Result<(), CliError> {
        let socket = self.socket().join(format!(".s.PGSQL.{port}"));
        if socket.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(CliError::State {
                what: format!(
                    "the state directory's path is too long: a unix socket path has at most {LONGEST_SOCKET_PATH} bytes"
                ),
                fix: "name a shorter one: --state-dir DIRECTORY".into(),
            });
        }
        if !Uid::effective().is_root() {
            return Ok(());
        }
        for ancestor in self.root.ancestors().skip(1) {
            let closed = fs::metadata(ancestor).is_ok_and(|meta| meta.mode() & 0o001 == 0);
            if closed {
                let shown = ancestor.display();
                return Err(CliError::State {
                    what: format!(
                        "{shown} is closed to the user that PostgreSQL runs as (it never runs as root)"
                    ),
                    fix: format!("let it pass (chmod o+x {shown}), or name another --state-dir"),
                });
            }
        }
        Ok(())
    }

    /// Takes the lock, or says that somebody has it.
    pub(crate) fn lock(&self) -> Result<Option<Lock>, CliError> {
        let path = self.run().join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| CliError::io("opening", &path, error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Lock { _file: file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(CliError::io("locking", &path, errno.into())),
        }
    }

    /// Demo identities stay in the components' stores: a directory keeps the profile it began with.
    pub(crate) fn keep_profile(&self, profile: Profile) -> Result<(), CliError> {
        let path = self.root.join("profile");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() == profile.as_str() => Ok(()),
            Ok(text) => Err(CliError::State {
                what: format!(
                    "{} was made for the {} profile and holds its identities",
                    self.root.display(),
                    text.trim()
                ),
                fix: format!(
                    "give the {} profile its own: --state-dir DIRECTORY",
                    profile.as_str()
                ),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                files::write(&path, profile.as_str().as_bytes(), 0o644, None)
            }
            Err(error) => Err(CliError::io("reading", &path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("state"));
        fs::create_dir_all(state.run()).unwrap();
        (folder, state)
    }

    #[test]
    fn one_supervisor_holds_the_lock() {
        let (_folder, state) = state();
        let held = state.lock().unwrap();
        assert!(held.is_some());
        assert!(state.lock().unwrap().is_none());
        drop(held);
        assert!(state.lock().unwrap().is_some());
    }

    #[test]
    fn a_directory_keeps_its_profile() {
        let (_folder, state) = state();
        state.keep_profile(Profile::Demo).unwrap();
        state.keep_profile(Profile::Demo).unwrap();
        let error = state
            .keep_profile(Profile::Production)
            .unwrap_err()
            .to_string();
        assert!(error.contains("made for the demo profile"), "{error}");
        assert!(error.contains("--state-dir"), "{error}");
    }

    #[test]
    fn a_socket_path_that_the_kernel_refuses_is_told_early() {
        let state = StateDir::new(PathBuf::from("/").join("x".repeat(100)));
        let error = state.fits_postgres(7432).unwrap_err().to_string();
        assert!(error.contains("too long"), "{error}");
    }
}
