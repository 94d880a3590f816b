//! The native platform: `ringwall up` on free ports with a state directory of its own.
//!
//! Owns: the supervisor's process, the wait for its health gates, and what the kernel says of its
//! processes. Must not: know what a scenario does with it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::cleanup::{self, Leftover};
use super::{Component, StackInfo, checkout, ringwall, set_mode};

/// Name of a composition's file.
const COMPOSITION: &str = "ringwall.yaml";

/// The supervisor and its state.
pub(super) struct Platform {
    supervisor: Option<Child>,
    components: Vec<Known>,
    state: tempfile::TempDir,
    /// Another composition than the built-in one, with the policy beside it.
    _composition: Option<tempfile::TempDir>,
    cleanup: cleanup::Ticket,
}

/// What stays known of the processes.
#[derive(Debug, Clone)]
pub(super) struct Site {
    components: Vec<Known>,
}

#[derive(Debug, Clone, Deserialize)]
struct Known {
    name: String,
    identity: String,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    pid: i32,
    log: PathBuf,
}

/// What `ringwall up -o json` prints.
#[derive(Debug, Deserialize)]
struct Record {
    url: Url,
    issuer: Url,
    public_address: SocketAddr,
    state_dir: PathBuf,
    ca_bundle: PathBuf,
    components: Vec<Known>,
}

impl Platform {
    /// `options` are further words for `ringwall up`.
    pub(super) fn start(composition: Option<&str>, options: &[&str]) -> Result<(StackInfo, Self)> {
        let composition = composition.map(with_policy).transpose()?;
        let state = tempfile::Builder::new()
            .prefix(&cleanup::prefix())
            .tempdir()?;
        // PostgreSQL runs as a user of its own when the tests run as root.
        set_mode(state.path(), 0o711)?;
        let mut supervisor = command(state.path(), composition.as_ref())?
            .args(options)
            .spawn()
            .context("cannot run `ringwall up`")?;
        let cleanup = cleanup::remember(Leftover::Process {
            pid: i32::try_from(supervisor.id())?,
            state: state.path().to_path_buf(),
        });
        match read_info(&mut supervisor, state.path()) {
            Ok(info) => {
                let super::Site::Native(site) = &info.site else {
                    bail!("not native");
                };
                let platform = Self {
                    supervisor: Some(supervisor),
                    components: site.components.clone(),
                    state,
                    _composition: composition,
                    cleanup,
                };
                Ok((info, platform))
            }
            Err(error) => {
                end(supervisor)?;
                Err(error)
            }
        }
    }

    /// Stops the platform in order and reports a process that it left behind.
    pub(super) fn stop(mut self) -> Result<()> {
        if let Some(supervisor) = self.supervisor.take() {
            end(supervisor)?;
        }
        let left: Vec<&str> = self
            .components
            .iter()
            .filter(|component| is_alive(component.pid))
            .map(|component| component.name.as_str())
            .collect();
        if !left.is_empty() {
            bail!(
                "still running after `ringwall up` ended: {}",
                left.join(", ")
            );
        }
        Ok(())
    }

    pub(super) fn keep_state(&mut self) -> &Path {
        self.state.disable_cleanup(true);
        self.cleanup.forget();
        self.state.path()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            // Nothing can be returned from here; a leftover shows in the next run's ports.
            let _ = end(supervisor);
        }
    }
}

impl Site {
    pub(super) fn known(&self, name: &str) -> Option<Component> {
        let known = self.components.iter().find(|known| known.name == name);
        known.map(|known| known.component(known.pid))
    }

    /// All of them with the process ids of now: the supervisor may have started one again.
    pub(super) fn components(&self, state: &Path) -> Result<Vec<Component>> {
        let pids = pids(state)?;
        self.components
            .iter()
            .map(|known| {
                let pid = pids.iter().find(|(name, _)| *name == known.name);
                let (_, pid) = pid.with_context(|| format!("no process of {}", known.name))?;
                Ok(known.component(*pid))
            })
            .collect()
    }

    pub(super) fn log(&self, name: &str) -> Result<String> {
        let known = self.components.iter().find(|known| known.name == name);
        let path = &known.with_context(|| format!("no component {name}"))?.log;
        let bytes = std::fs::read(path).with_context(|| format!("no {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn log_lengths(&self) -> Vec<(String, usize)> {
        let length = |known: &Known| {
            let length = std::fs::metadata(&known.log).map_or(0, |meta| meta.len());
            (
                known.name.clone(),
                usize::try_from(length).unwrap_or(usize::MAX),
            )
        };
        self.components.iter().map(length).collect()
    }
}

impl Known {
    fn component(&self, pid: i32) -> Component {
        Component {
            name: self.name.clone(),
            identity: self.identity.clone(),
            address: self.address,
            admin: self.admin,
            pid,
        }
    }
}

/// The process ids of now, as `ringwall status` tells them.
fn pids(state: &Path) -> Result<Vec<(String, i32)>> {
    let output = ringwall()?
        .args(["status", "-o", "json", "--state-dir"])
        .arg(state)
        .output()?;
    let status: Value = serde_json::from_slice(&output.stdout).context("no JSON from status")?;
    let entries = status["components"].as_array().into_iter().flatten();
    Ok(entries
        .filter_map(|entry| {
            let pid = i32::try_from(entry["pid"].as_i64()?).ok()?;
            Some((entry["name"].as_str()?.to_owned(), pid))
        })
        .collect())
}

/// Whether a process of that number runs (a zombie does not).
pub(super) fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

/// A folder with the composition, and the policy where it looks for it.
fn with_policy(composition: &str) -> Result<tempfile::TempDir> {
    const POLICY: &str = "deploy/mesh/policy.yaml";
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join(COMPOSITION), composition)?;
    let policy = folder.path().join(POLICY);
    std::fs::create_dir_all(policy.parent().context("no folder of policies")?)?;
    std::fs::copy(checkout()?.join(POLICY), policy)?;
    Ok(folder)
}

fn command(state: &Path, composition: Option<&tempfile::TempDir>) -> Result<Command> {
    // As from a shell that has a file open: it must reach no component, nor take a number that a socket is to get.
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$@\" 5</dev/null"])
        .arg(ringwall()?.get_program())
        .args(["up", "--free-ports", "-o", "json"])
        .arg("--state-dir")
        .arg(state)
        .arg("--web-dir")
        .arg(checkout()?.join("spa-proxy/web/dist"))
        .stdout(Stdio::piped());
    if let Some(folder) = composition {
        command.arg("--file").arg(folder.path().join(COMPOSITION));
    }
    Ok(command)
}

fn read_info(supervisor: &mut Child, state: &Path) -> Result<StackInfo> {
    let output = supervisor
        .stdout
        .take()
        .context("the supervisor has no output")?;
    let mut text = String::new();
    let mut reader = BufReader::new(output);
    // One JSON object, on one line or on several: read until it is whole.
    while reader.read_line(&mut text)? > 0 {
        if serde_json::from_str::<Value>(&text).is_ok() {
            break;
        }
    }
    let record: Record = serde_json::from_str(&text)
        .with_context(|| format!("`ringwall up -o json` did not say that it is up: {text:?}"))?;
    // The rest of the output is nobody's, but a closed pipe would end the supervisor.
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let credentials = ringwall()?
        .args(["status", "--credentials", "-o", "json", "--state-dir"])
        .arg(state)
        .output()?;
    Ok(StackInfo {
        url: record.url,
        issuer: record.issuer,
        public_address: record.public_address,
        state_dir: record.state_dir,
        ca_bundle: record.ca_bundle,
        credentials: serde_json::from_slice(&credentials.stdout)
            .context("`ringwall status --credentials -o json` gave no JSON")?,
        site: super::Site::Native(Site {
            components: record.components,
        }),
        outside: None,
    })
}

fn end(mut supervisor: Child) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(supervisor.id())?);
    // It may have ended by itself: then wait() tells.
    let _ = kill(pid, Signal::SIGTERM);
    supervisor.wait().context("cannot wait for `ringwall up`")?;
    Ok(())
}

/// The addresses on which a process listens for TCP, as the kernel knows them.
pub fn listeners(pid: i32) -> Result<Vec<SocketAddr>> {
    let mut inodes = BTreeSet::new();
    for file in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A file that was closed meanwhile is no listener.
        let Ok(target) = std::fs::read_link(file?.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        let inode = target.strip_prefix("socket:[");
        inodes.extend(
            inode
                .and_then(|inode| inode.strip_suffix(']'))
                .map(str::to_owned),
        );
    }
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/{table}"))?;
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else {
                bail!("an unknown line of the socket table: {line}");
            };
            if state == "0A" && inodes.contains(inode) {
                found.push(socket_address(local)?);
            }
        }
    }
    Ok(found)
}

/// An address of the kernel's socket table: words of 32 bits in the machine's byte order.
fn socket_address(text: &str) -> Result<SocketAddr> {
    let (address, port) = text.split_once(':').context("no port")?;
    let mut octets = Vec::new();
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word)?, 16)?;
        octets.extend(word.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets.as_slice())?),
    };
    Ok(SocketAddr::new(ip, u16::from_str_radix(port, 16)?))
}
