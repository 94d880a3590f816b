//! Whether the kernel leads components' connections to their proxies, and refuses everything else (docs/ebpf.md).
//!
//! Owns: the choice between the kernel and the explicit way (the userspace tier), made once at each start, since
//! configurations differ. The agent answers what this kernel and our privileges allow; it tries it. Must not: load a
//! program. Read next: `render.rs`, which writes configurations for either.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;

use crate::cgroups::{Side, Slice, group_below};
use crate::error::CliError;
use crate::output::say;
use crate::state::StateDir;

/// The programs: beside our binaries, or where `cargo xtask ebpf` puts them.
const OBJECTS: [&str; 2] = ["ringwall.bpf.o", "../ebpf/ringwall.bpf.o"];
/// Where the kernel keeps what must outlive the agent.
const BPF_FS: &str = "/sys/fs/bpf";

/// The same in the agent's image.
const IN_IMAGE: &str = "/usr/share/ringwall/ringwall.bpf.o";
/// Where the machine's control groups are in the agent's container.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wish {
    /// The kernel where it can
    #[default]
    Auto,
    /// The kernel, or no start
    Kernel,
    /// The explicit way, without privileges
    Userspace,
}

/// The kernel takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interception {
    pub(crate) object: PathBuf,
    /// The control group above those of all workloads.
    pub(crate) slice: PathBuf,
    /// Where programs, maps and links are pinned.
    pub(crate) pins: PathBuf,
    /// A container engine makes the groups, by `cgroup_parent`, and so they begin; `slice` is where control groups are mounted.
    pub(crate) by_engine: Option<String>,
}

impl Interception {
    /// Where the group of a component, or of its proxy, stands.
    pub(crate) fn group(&self, name: &str, side: Side) -> PathBuf {
        match &self.by_engine {
            Some(prefix) => self.slice.join(parent_of_container(prefix, name, side)),
            None => group_below(&self.slice, name, side),
        }
    }
}

/// `cgroup_parent` of a component, or of its proxy, as compose.yaml has it.
pub(crate) fn parent_of_container(prefix: &str, name: &str, side: Side) -> String {
    let side = match side {
        Side::App => "app",
        Side::Proxy => "proxy",
    };
    // A hyphen is a step downwards to systemd, which may make it.
    format!("{prefix}-{side}-{}.slice", name.replace('-', r"\x2d"))
}

/// What came of the wish.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) kernel: Option<Interception>,
    /// Why not, in words.
    pub(crate) reason: Option<String>,
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reason {
            None => f.write_str("full: the kernel captures and enforces (eBPF)"),
            Some(why) => write!(f, "userspace: {why}"),
        }
    }
}

impl Choice {
    /// In containers nothing can be tried before the agent's container runs: it does not start where the kernel cannot.
    pub(crate) fn in_containers(wish: Wish, prefix: &str) -> Self {
        if wish == Wish::Userspace {
            return Self::userspace("asked for by --interception userspace");
        }
        Self {
            kernel: Some(Interception {
                object: IN_IMAGE.into(),
                slice: CGROUPS.into(),
                pins: Path::new(BPF_FS).join(format!("{prefix}-containers")),
                by_engine: Some(prefix.to_owned()),
            }),
            reason: None,
        }
    }

    fn userspace(reason: impl Into<String>) -> Self {
        Self {
            kernel: None,
            reason: Some(reason.into()),
        }
    }
}

/// Asks the agent whether the programs load here.
pub(crate) fn choose(
    wish: Wish,
    state: &StateDir,
    slice: Option<&Slice>,
    binaries: &Path,
    object: Option<&Path>,
) -> Result<Choice, CliError> {
    let choice = match (wish, slice, find(binaries, object)?) {
        (Wish::Userspace, ..) => Choice::userspace("asked for by --interception userspace"),
        (_, None, _) => Choice::userspace("no control group (version 2) can be made here"),
        (_, Some(_), None) => Choice::userspace(format!(
            "the kernel's programs are not in {}: `cargo xtask ebpf` builds them",
            binaries.display()
        )),
        (_, Some(slice), Some(object)) => {
            // A name there has no dot.
            let name = slice.path().file_stem().unwrap_or_default();
            let kernel = Interception {
                object,
                slice: slice.path().to_path_buf(),
                pins: Path::new(BPF_FS).join(name),
                by_engine: None,
            };
            match ask(binaries, &kernel) {
                Ok(()) => Choice {
                    kernel: Some(kernel),
                    reason: None,
                },
                Err(why) => Choice::userspace(why),
            }
        }
    };
    match (&choice.reason, wish) {
        (Some(why), Wish::Kernel) => Err(CliError::State {
            what: format!("the kernel cannot take part: {why}"),
            fix: format!(
                "mend that, or leave --interception out to go on without (state in {})",
                state.root().display()
            ),
        }),
        _ => Ok(choice),
    }
}

/// The programs, as an absolute path.
fn find(binaries: &Path, object: Option<&Path>) -> Result<Option<PathBuf>, CliError> {
    let absolute = |path: &Path| {
        std::fs::canonicalize(path).map_err(|error| CliError::io("reading", path, error))
    };
    match object {
        Some(named) => absolute(named).map(Some),
        None => {
            let mut candidates = OBJECTS.iter().map(|name| binaries.join(name));
            let found = candidates.find(|path| path.is_file());
            found.map(|path| absolute(&path)).transpose()
        }
    }
}

/// The agent loads everything, attaches it to a control group of its own, and takes it away again.
fn ask(binaries: &Path, kernel: &Interception) -> Result<(), String> {
    let agent = binaries.join("ringwall-agent");
    let asked = Command::new(&agent)
        .arg("try-kernel")
        .args([&kernel.object, &kernel.slice])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("asking {}: {error}", agent.display()))?;
    if asked.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&asked.stderr);
    Err(said.trim().to_owned())
}

/// What the agent pins, for as long as this lives. It outlives the agent, and us where we are killed: enforcement goes on.
#[derive(Debug)]
pub(crate) struct Pins(PathBuf);

impl Pins {
    /// Of a platform that starts: nothing is left of the one before.
    pub(crate) fn of(kernel: &Interception) -> Self {
        let pins = Self(kernel.pins.clone());
        pins.remove();
        pins
    }

    fn remove(&self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => say(&format!(
                "warning: removing the pinned programs in {}: {error}",
                self.0.display()
            )),
            _ => {}
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.remove();
    }
}
