//! A look from inside a component: in containers a static binary in an image of its own that joins the network, the
//! volumes and the processes of another container; natively the same binary in a component's control group.
//!
//! Owns: the image, its runs, and the two types that `tests/bin/probe.rs` reads and prints.
//! The probe runs as the platform's user without any capability, so that it sees what the
//! component itself could see, and no more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{built, cleanup, engine};

/// The binaries of the image.
const PROBE: &str = "e2e-probe";
const WAYS_OUT: &str = "ways-out";

/// What the probe is told to do. Everything is done at the same time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Task {
    pub dials: Vec<Dial>,
    /// Names to look up.
    pub names: Vec<String>,
    /// Files to read, such as `/proc/1/status`.
    pub reads: Vec<String>,
    /// Files that must not come into being, nor be opened to be written to.
    pub writes: Vec<String>,
    /// Sockets to make, by the names that `tests/bin/probe.rs` knows.
    pub sockets: Vec<String>,
    /// A process to send SIGKILL.
    pub kill: Option<i32>,
    /// Who dials with a peer.
    pub identity: Option<Identity>,
}

/// A workload's certificates and key (DER), and whom it believes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    pub chain: Vec<Vec<u8>>,
    pub key: Vec<u8>,
    pub roots: Vec<Vec<u8>>,
}

/// One connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dial {
    pub to: SocketAddr,
    /// The component whose certificate is expected, when a request over mTLS follows.
    pub peer: Option<String>,
    /// Path of a request in plaintext that follows, as a component makes it.
    pub get: Option<String>,
}

impl Dial {
    /// A connection, and nothing more.
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to,
            peer: None,
            get: None,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// In the order of the task.
    pub dials: Vec<Dialled>,
    /// Addresses by name; none where the look-up failed.
    pub names: BTreeMap<String, Vec<String>>,
    pub reads: BTreeMap<String, Outcome>,
    pub writes: BTreeMap<String, Outcome>,
    pub sockets: BTreeMap<String, Outcome>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dialled {
    /// `None` when the connection stood.
    pub refused: Option<String>,
    /// The status of the answer, or why there was none.
    pub answer: Option<Outcome>,
}

/// A text, or the error's text.
pub type Outcome = std::result::Result<String, String>;

/// Runs in the network, the processes and with the volumes of `container`; as `user`, and with what it takes to look into that one's
/// processes and files if it is root.
pub fn beside(container: &str, user: &str, task: &Task) -> Result<Report> {
    let network = format!("container:{container}");
    let volumes = format!("{container}:ro");
    let mut place = vec!["--network", &network, "--pid", &network];
    place.extend(["--volumes-from", &volumes, "--user", user]);
    if user.starts_with("0:") {
        place.extend(["--cap-add", "SYS_PTRACE", "--cap-add", "DAC_OVERRIDE"]);
    }
    run(&place, task)
}

/// Runs on this machine as it is, in nobody's control group.
pub fn anywhere(task: &Task) -> Result<Report> {
    by(&mut Command::new(built(PROBE)?), task)
}

/// Runs in a network and with nothing else.
pub fn in_network(network: &str, task: &Task) -> Result<Report> {
    run(&["--network", network], task)
}

/// Runs in the network of `container` and, below `parent`, among its component's control groups: as another process of it.
pub fn inside(container: &str, parent: &str, task: &Task) -> Result<Report> {
    let network = format!("container:{container}");
    run(&["--network", &network, "--cgroup-parent", parent], task)
}

/// A way out that was tried, as `ebpf/loader/examples/ways-out.rs` has it.
#[derive(Debug, Clone, Deserialize)]
pub struct WayOut {
    pub by: String,
    pub to: SocketAddr,
    /// How far it came, or what refused it.
    pub outcome: Outcome,
}

/// Tries every way to each of these addresses with `text` as what is sent, [`inside`] a component, or beside it without a parent.
pub(super) fn ways_out(
    container: &str,
    parent: Option<&str>,
    text: &str,
    targets: &[SocketAddr],
) -> Result<Vec<WayOut>> {
    let network = format!("container:{container}");
    let entry = format!("/{WAYS_OUT}");
    let mut place = vec!["--network", &network, "--entrypoint", &entry];
    place.extend(
        parent
            .into_iter()
            .flat_map(|parent| ["--cgroup-parent", parent]),
    );
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let words = std::iter::once(text).chain(targets.iter().map(String::as_str));
    let printed = docker_run(&place, &words.collect::<Vec<_>>())?;
    let lines = printed.lines().map(serde_json::from_str);
    let lines: Result<_, _> = lines.collect();
    lines.with_context(|| format!("it printed {printed:?}"))
}

/// Runs among the host's processes, without network, as the user of one that is to be killed.
pub fn on_host(user: &str, task: &Task) -> Result<Report> {
    let place = ["--network", "none", "--pid", "host", "--user", user];
    run(&place, task)
}

/// Runs as the supervisor starts a confined component: in the control group `group`, with what it gives up given up.
pub fn confined(group: &Path, task: &Task) -> Result<Report> {
    let mut launch = super::ringwall()?;
    launch.args(["launch", "--confine", "--cgroup"]).arg(group);
    by(launch.arg("--").arg(built(PROBE)?), task)
}

fn by(command: &mut Command, task: &Task) -> Result<Report> {
    let output = command
        .arg(serde_json::to_string(task)?)
        .stdin(Stdio::null())
        .output()
        .context("cannot run the probe")?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the probe said {}", String::from_utf8_lossy(&output.stderr)))
}

fn run(place: &[&str], task: &Task) -> Result<Report> {
    let task = serde_json::to_string(task)?;
    let text = docker_run(place, &[&task])?;
    serde_json::from_str(&text).with_context(|| format!("the probe printed {text:?}"))
}

fn docker_run(place: &[&str], words: &[&str]) -> Result<String> {
    let image = image()?;
    let label = cleanup::label();
    let usual = [
        "run",
        "--rm",
        "--label",
        &label,
        "--user",
        "10001:10001",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges:true",
        "--read-only",
        "--log-driver",
        "none",
    ];
    engine::docker(&[&usual[..], place, &[&image], words].concat())
}

/// The probe's image, made at first use.
pub fn image() -> Result<String> {
    static IMAGE: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let made = IMAGE.get_or_init(|| make_image().map_err(|error| format!("{error:#}")));
    made.clone().map_err(anyhow::Error::msg)
}

/// Two binaries and nothing else. An import needs no builder, so it works with every engine.
fn make_image() -> Result<String> {
    let probe = folder_of(PROBE)?;
    let ways = folder_of(&format!("examples/{WAYS_OUT}"))?;
    let name = format!("ringwall-e2e-probe:{}", std::process::id());
    let mut tar = Command::new("tar")
        .args(["-c", "--mode=0755"])
        .arg("-C")
        .arg(probe)
        .arg(PROBE)
        .arg("-C")
        .arg(ways)
        .arg(WAYS_OUT)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let archive = tar.stdout.take().context("tar has no output")?;
    let label = format!("LABEL {}", cleanup::label());
    let import = Command::new("docker")
        .args(["import", "--change"])
        .arg(format!("ENTRYPOINT [\"/{PROBE}\"]"))
        .args(["--change", &label, "-", &name])
        .stdin(archive)
        .output()
        .context("cannot run docker")?;
    let packed = tar.wait()?;
    if !import.status.success() || !packed.success() {
        bail!(
            "cannot make the probe's image: {}",
            String::from_utf8_lossy(&import.stderr)
        );
    }
    Ok(name)
}

fn folder_of(binary: &str) -> Result<PathBuf> {
    let mut path = built(binary)?;
    path.pop();
    Ok(path)
}
