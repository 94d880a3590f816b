//! The platform under test: `ringwall up` on free ports with a state directory of its own.
//!
//! Owns: the supervisor's process and the wait for its health gates.
//! The scenarios get a [`StackInfo`]: addresses, files and credentials, and nothing of the harness.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringwall_secret::{SecretProvider, SecretsConfig};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

/// A running platform. Stop it with [`Stack::stop`]; dropping it stops it as well.
pub struct Stack {
    pub info: StackInfo,
    supervisor: Option<Child>,
    state: tempfile::TempDir,
}

/// What an operator knows of a running platform.
#[derive(Debug, Clone, Deserialize)]
pub struct StackInfo {
    pub pid: i32,
    pub url: Url,
    pub issuer: Url,
    pub public_address: SocketAddr,
    pub state_dir: PathBuf,
    ca_bundle: PathBuf,
    components: Vec<Component>,
    #[serde(skip)]
    credentials: Value,
}

/// One component of a running platform.
#[derive(Debug, Clone, Deserialize)]
pub struct Component {
    pub name: String,
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
    pub pid: i32,
    pub log: PathBuf,
}

impl Stack {
    /// Starts the whole platform and waits until it says that it is up.
    pub fn start() -> Result<Self> {
        Self::start_as(None)
    }

    /// The same from another composition than the built-in one.
    pub fn start_as(composition: Option<&Path>) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("ringwall-e2e-").tempdir()?;
        // PostgreSQL runs as a user of its own when the tests run as root.
        set_mode(state.path(), 0o711)?;
        let mut supervisor = ringwall()?
            .args(["up", "--free-ports", "-o", "json"])
            .arg("--state-dir")
            .arg(state.path())
            .arg("--web-dir")
            .arg(checkout()?.join("spa-proxy/web/dist"))
            .args(
                composition
                    .map(|file| [Path::new("--file"), file])
                    .into_iter()
                    .flatten(),
            )
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run `ringwall up`")?;
        match read_info(&mut supervisor, state.path()) {
            Ok(info) => Ok(Self {
                info,
                supervisor: Some(supervisor),
                state,
            }),
            Err(error) => {
                end(supervisor)?;
                Err(error)
            }
        }
    }

    /// Stops the platform in order and reports a process that it left behind.
    pub fn stop(mut self) -> Result<()> {
        if let Some(supervisor) = self.supervisor.take() {
            end(supervisor)?;
        }
        let left: Vec<&str> = self
            .info
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

    /// Keeps the state directory, for a look at the logs of a failed run.
    pub fn keep_state(&mut self) -> &Path {
        self.state.disable_cleanup(true);
        self.state.path()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            // Nothing can be returned from here; a leftover shows in the next run's ports.
            let _ = end(supervisor);
        }
    }
}

impl StackInfo {
    pub fn app_url(&self) -> Url {
        self.url.clone()
    }

    pub fn api_url(&self) -> Url {
        self.sibling("api")
    }

    pub fn auth_url(&self) -> Url {
        self.issuer.clone()
    }

    pub fn app_host(&self) -> String {
        host(&self.url)
    }

    pub fn api_host(&self) -> String {
        host(&self.api_url())
    }

    pub fn auth_host(&self) -> String {
        host(&self.issuer)
    }

    pub fn public_address(&self) -> SocketAddr {
        self.public_address
    }

    /// The audience of the public API: its origin, without a trailing slash.
    pub fn api_audience(&self) -> String {
        self.api_url().origin().ascii_serialization()
    }

    /// The issuer as it stands in tokens, without a trailing slash.
    pub fn issuer_text(&self) -> String {
        self.issuer.origin().ascii_serialization()
    }

    pub fn ca_bundle(&self) -> PathBuf {
        self.ca_bundle.clone()
    }

    pub fn components(&self) -> &[Component] {
        &self.components
    }

    pub fn component(&self, name: &str) -> Result<&Component> {
        self.components
            .iter()
            .find(|component| component.name == name)
            .with_context(|| format!("the platform has no component {name}"))
    }

    /// Where the component's SVID lies.
    pub fn identity(&self, component: &str) -> PathBuf {
        self.state_dir.join("identity").join(component)
    }

    /// What a component has logged until now.
    pub fn log(&self, component: &str) -> Result<String> {
        let path = &self.component(component)?.log;
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The generated password of a demo user.
    pub fn password(&self, user: &str) -> Result<String> {
        self.credential("users", "name", user, "password")
    }

    /// The generated secret of a demo client.
    pub fn client_secret(&self, client: &str) -> Result<String> {
        self.credential("clients", "client_id", client, "secret")
    }

    /// Every generated secret that `ringwall status --credentials` shows.
    pub fn all_credentials(&self) -> Vec<String> {
        let lists = ["users", "clients"]
            .into_iter()
            .filter_map(|list| self.credentials.get(list)?.as_array());
        let values = lists
            .flatten()
            .flat_map(|entry| [&entry["password"], &entry["secret"]]);
        values
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    /// A secret from a component's sealed file, as somebody who has stolen both of its files reads it.
    pub fn secret(&self, component: &str, name: &str) -> Result<String> {
        let folder = self.state_dir.join("secrets");
        let provider = SecretProvider::open(&SecretsConfig::Sealed {
            file: folder.join(format!("{component}.sealed")),
            key_file: folder.join(format!("{component}.seal-key")),
        })?;
        Ok(provider.get_string(name)?.expose().clone())
    }

    fn credential(&self, list: &str, key: &str, name: &str, field: &str) -> Result<String> {
        self.credentials
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|entry| entry[key] == name)
            .and_then(|entry| entry[field].as_str())
            .map(str::to_owned)
            .with_context(|| format!("`ringwall status --credentials` names no {name}"))
    }

    fn sibling(&self, label: &str) -> Url {
        let mut url = self.url.clone();
        let sibling = host(&url).replacen("app.", &format!("{label}."), 1);
        url.set_host(Some(&sibling))
            .expect("a host with another first label is a host");
        url
    }
}

/// The `ringwall` binary that was built with this test binary.
pub fn ringwall() -> Result<Command> {
    let executable = std::env::current_exe()?;
    let binary = executable
        .ancestors()
        .skip(1)
        .map(|folder| folder.join("ringwall"))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!(
                "no `ringwall` beside {}: run `cargo xtask e2e`",
                executable.display()
            )
        })?;
    Ok(Command::new(binary))
}

/// The checkout that we run in: the nearest folder upwards that holds the composition. It is not
/// compiled in, since checkouts may share one target directory.
pub fn checkout() -> Result<PathBuf> {
    let here = std::env::current_dir()?;
    here.ancestors()
        .find(|folder| folder.join("ringwall.yaml").is_file())
        .map(Path::to_path_buf)
        .with_context(|| format!("no ringwall.yaml at or above {}", here.display()))
}

/// Whether a process of that number runs (a zombie does not).
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
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
    let mut info: StackInfo = serde_json::from_str(&text)
        .with_context(|| format!("`ringwall up -o json` did not say that it is up: {text:?}"))?;
    // The rest of the output is nobody's, but a closed pipe would end the supervisor.
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let credentials = ringwall()?
        .args(["status", "--credentials", "-o", "json", "--state-dir"])
        .arg(state)
        .output()?;
    info.credentials = serde_json::from_slice(&credentials.stdout)
        .context("`ringwall status --credentials -o json` gave no JSON")?;
    Ok(info)
}

fn end(mut supervisor: Child) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(supervisor.id())?);
    // It may have ended by itself: then wait() tells.
    let _ = kill(pid, Signal::SIGTERM);
    supervisor.wait().context("cannot wait for `ringwall up`")?;
    Ok(())
}

fn host(url: &Url) -> String {
    url.host_str().expect("a public URL has a host").to_owned()
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
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
