//! A look from inside a component: in containers a static binary in an image of its own that joins the network, the
//! volumes and the processes of another container; natively the same binary in a component's control group.
//!
//! Owns: the image, its runs, and the two types that `tests/bin/probe.rs` reads and prints.
//! The probe runs as the platform's user without any capability, so that it sees what the
//! component itself could see, and no more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{built, cleanup, engine};

/// What the probe is told to do. Everything is done at the same time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Task {
    pub dials: Vec<Dial>,
    /// Names to look up.
    pub names: Vec<String>,
    /// Files to read, such as `/proc/1/status`.
    pub reads: Vec<String>,
    /// Files that must not come into being.
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

/// Runs in the network, the processes and with the volumes of `container`.
pub fn beside(container: &str, task: &Task) -> Result<Report> {
    let network = format!("container:{container}");
    let volumes = format!("{container}:ro");
    run(
        &[
            "--network",
            &network,
            "--pid",
            &network,
            "--volumes-from",
            &volumes,
        ],
        task,
    )
}

/// Runs in a network and with nothing else.
pub fn in_network(network: &str, task: &Task) -> Result<Report> {
    run(&["--network", network], task)
}

/// Runs among the host's processes, without network.
pub fn on_host(task: &Task) -> Result<Report> {
    run(&["--network", "none", "--pid", "host"], task)
}

/// Runs as the supervisor starts a confined component: in the control group `group`, with what it gives up given up.
pub fn confined(group: &Path, task: &Task) -> Result<Report> {
    let task = serde_json::to_string(task)?;
    let output = super::ringwall()?
        .args(["launch", "--confine", "--cgroup"])
        .arg(group)
        .arg("--")
        .arg(built("e2e-probe")?)
        .arg(task)
        .stdin(Stdio::null())
        .output()
        .context("cannot run the probe")?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the probe said {}", String::from_utf8_lossy(&output.stderr)))
}

fn run(place: &[&str], task: &Task) -> Result<Report> {
    let image = image()?;
    let label = cleanup::label();
    let task = serde_json::to_string(task)?;
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
    let text = engine::docker(&[&usual[..], place, &[&image, &task]].concat())?;
    serde_json::from_str(&text).with_context(|| format!("the probe printed {text:?}"))
}

/// The probe's image, made at first use.
pub fn image() -> Result<String> {
    static IMAGE: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let made = IMAGE.get_or_init(|| make_image().map_err(|error| format!("{error:#}")));
    made.clone().map_err(anyhow::Error::msg)
}

/// One binary and nothing else. An import needs no builder, so it works with every engine.
fn make_image() -> Result<String> {
    let binary = built("e2e-probe")?;
    let folder = binary.parent().context("the probe lies in no folder")?;
    let name = format!("ringwall-e2e-probe:{}", std::process::id());
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(folder)
        .args(["-c", "--mode=0755", "e2e-probe"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let archive = tar.stdout.take().context("tar has no output")?;
    let label = format!("LABEL {}", cleanup::label());
    let import = Command::new("docker")
        .args(["import", "--change", "ENTRYPOINT [\"/e2e-probe\"]"])
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
