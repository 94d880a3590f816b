//! Everything that can go wrong, each with the fix and an exit code from `sysexits.h`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ringwall_identity::IdentityError;
use ringwall_secret::SecretError;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The composition file cannot be used as it stands.
    #[error("{place}: {what}\n  fix: {fix}")]
    Composition {
        place: String,
        what: String,
        fix: String,
    },
    /// A component refused its configuration.
    #[error(
        "the configuration of {component} is refused:\n{output}\n  fix: change the part of `{component}` in {file}"
    )]
    ComponentConfig {
        component: String,
        output: String,
        file: String,
    },
    /// Ports that somebody else holds.
    #[error("{}", .0.join("\n"))]
    PortsTaken(Vec<String>),
    /// A program that must be on the machine is not there.
    #[error("{what} is not on this machine\n  fix: {fix}")]
    ToolMissing { what: String, fix: String },
    /// The container engine does not answer, or refuses.
    #[error("`docker {command}`: {said}\n  fix: {fix}")]
    Engine {
        command: String,
        said: String,
        fix: String,
    },
    /// The control plane does not answer, or refuses.
    #[error("{what}: the control plane says: {said}\n  fix: {fix}")]
    Plane {
        what: &'static str,
        said: String,
        fix: &'static str,
    },
    /// The node's agent does not answer, or refuses.
    #[error("{what}: the agent says: {said}\n  fix: {fix}")]
    Agent {
        what: &'static str,
        said: String,
        fix: &'static str,
    },
    /// A policy is not good: what is wrong with it, each with its place.
    #[error("{}\n  fix: {fix}", .lines.join("\n"))]
    PolicyRefused {
        lines: Vec<String>,
        fix: &'static str,
    },
    /// Somebody else has changed the policy meanwhile.
    #[error(
        "version {current} of the policy is active, and this was made from version {expected}\n  fix: look what has changed (ringwall policy diff --from {expected}), and apply again with --from {current}"
    )]
    PolicyConflict { expected: u64, current: u64 },
    /// This user may not do what is needed.
    #[error("{what}\n  fix: {fix}")]
    Privilege { what: String, fix: String },
    /// The state directory belongs to something else.
    #[error("{what}\n  fix: {fix}")]
    State { what: String, fix: String },
    /// A component did not start, did not get ready, or an own tool of it failed.
    #[error("{component} {why}\n{log}  fix: {fix}")]
    Component {
        component: String,
        why: String,
        log: String,
        fix: String,
    },
    /// The platform was told to stop before it was up.
    #[error("stopped before the platform was up")]
    Interrupted,
    /// Nothing runs that the command could ask.
    #[error("Ringwall does not run (state directory {})\n  fix: start it with `ringwall up` or `docker compose up`", .0.display())]
    NotRunning(PathBuf),
    /// `check` found something; what, is already printed.
    #[error("{0} of the checks did not pass")]
    ChecksFailed(usize),
    /// A file or a process could not be used.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// A certificate could not be issued.
    #[error("issuing a certificate: {0}")]
    Identity(#[from] IdentityError),
    /// A sealed file could not be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A plugin, or what stands beside it (cases, configuration, key, signature), is not good.
    #[error("{what}\n  fix: {fix}")]
    Plugin { what: String, fix: String },
    /// Nothing is overwritten.
    #[error("{} is there already\n  fix: {fix}", .path.display())]
    Exists { path: PathBuf, fix: &'static str },
    /// The sources of a plugin do not compile; the compiler has said why.
    #[error("{what}\n  fix: {fix}")]
    Build { what: String, fix: &'static str },
    /// A library refused something that cannot be refused.
    #[error("{what}: {why}")]
    Internal { what: &'static str, why: String },
}

impl CliError {
    /// An I/O error of `path` while doing `verb` ("reading", "writing").
    pub(crate) fn io(verb: &str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            what: format!("{verb} {}", path.display()),
            source,
        }
    }

    /// An error of a library that has no way out for the user.
    pub(crate) fn internal(what: &'static str, why: impl ToString) -> Self {
        Self::Internal {
            what,
            why: why.to_string(),
        }
    }

    /// True when the reader of our output has closed it.
    pub(crate) fn is_closed_output(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit code of the process (`sysexits.h`).
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::NotRunning(_) | Self::ChecksFailed(_) | Self::Build { .. } => 1,
            Self::ToolMissing { .. }
            | Self::Component { .. }
            | Self::Engine { .. }
            | Self::Agent { .. }
            | Self::Plane { .. } => 69,
            Self::Internal { .. } | Self::Identity(_) => 70,
            Self::PortsTaken(_) => 71,
            Self::Exists { .. } => 73,
            Self::PolicyConflict { .. } => 75,
            Self::Io { .. } | Self::Secret(_) => 74,
            Self::Privilege { .. } => 77,
            Self::Composition { .. }
            | Self::ComponentConfig { .. }
            | Self::PolicyRefused { .. }
            | Self::Plugin { .. }
            | Self::State { .. } => 78,
            Self::Interrupted => 130,
        }
    }
}
