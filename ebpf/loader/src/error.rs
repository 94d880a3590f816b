//! What can go wrong. A message says what was seen, and what would mend it.

use std::io;
use std::path::PathBuf;

use crate::programs::ACCELERATION;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Named by the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Unsupported(String),
    #[error(
        "{path} is no control group of version 2: {source}; mount cgroup2 and make the slice first"
    )]
    ControlGroup { path: PathBuf, source: io::Error },
    #[error(
        "the control groups seen from {path} do not begin at the machine's root; give this process the host's \
         /sys/fs/cgroup, not one of a namespace of its own"
    )]
    NotTheRoot { path: PathBuf },
    #[error(
        "mounting bpffs on {path}: {source}; mount it before (`mount -t bpf bpf {path}`), or give CAP_SYS_ADMIN"
    )]
    Mount { path: PathBuf, source: io::Error },
    #[error("pins in {path}: {source}")]
    Pins { path: PathBuf, source: io::Error },
    #[error("the object: {0}; build it with `cargo xtask ebpf` from the same checkout")]
    Object(#[from] Box<aya::EbpfError>),
    #[error(
        "the object has no {kind} {name}; build it with `cargo xtask ebpf` from the same checkout"
    )]
    Missing {
        kind: &'static str,
        name: &'static str,
    },
    #[error("loading {program}: {source}{hint}")]
    Load {
        program: &'static str,
        source: Box<aya::programs::ProgramError>,
        hint: &'static str,
    },
    #[error("attaching {program} to {path}: {source}")]
    Attach {
        program: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("attaching {ACCELERATION} to the map SOCKETS: {0}")]
    AttachToMap(io::Error),
    #[error("acceleration is not possible here: {0}")]
    NoAcceleration(String),
    #[error("trying acceleration: {what}: {source}")]
    Trial {
        what: &'static str,
        source: io::Error,
    },
    #[error("replacing the program behind {path}: {source}")]
    Replace { path: PathBuf, source: io::Error },
    #[error("map {map}: {source}{hint}")]
    Map {
        map: &'static str,
        source: Box<aya::maps::MapError>,
        hint: &'static str,
    },
    #[error("the shield at interface {interface}: {source}")]
    Interface {
        interface: String,
        source: io::Error,
    },
    /// One way of attaching; another one may do.
    #[error("{0}")]
    Refused(io::Error),
    #[error(
        "the shield has {used} of {capacity} {list}, and {more} more do not fit; nothing was added: remove some, or deny \
         wider networks"
    )]
    ShieldFull {
        list: &'static str,
        used: u32,
        capacity: u32,
        more: u32,
    },
    #[error("the names {one} and {other} have the same number; rename one of them")]
    SameNumber { one: String, other: String },
    #[error("reading events: {0}")]
    Events(io::Error),
}

impl From<aya::EbpfError> for Error {
    fn from(error: aya::EbpfError) -> Self {
        Self::Object(Box::new(error))
    }
}

impl Error {
    /// A failed operation on a map; a full one is told as such.
    pub(crate) fn map(map: &'static str, source: aya::maps::MapError) -> Self {
        let hint = match &source {
            aya::maps::MapError::SyscallError(call)
                if call.io_error.raw_os_error() == Some(nix::libc::E2BIG) =>
            {
                "; it is full: what does not fit is denied"
            }
            _ => "",
        };
        Self::Map {
            map,
            source: Box::new(source),
            hint,
        }
    }

    /// A program that the kernel would not take.
    pub(crate) fn load(program: &'static str, source: aya::programs::ProgramError) -> Self {
        let refused = match &source {
            aya::programs::ProgramError::LoadError { io_error, .. } => io_error.raw_os_error(),
            _ => None,
        };
        let hint = match refused {
            Some(nix::libc::EPERM) => "; it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
            Some(nix::libc::EINVAL) => "; this kernel may lack the hook, or a helper of it",
            _ => "",
        };
        Self::Load {
            program,
            source: Box::new(source),
            hint,
        }
    }
}
