//! One Envoy: started, asked about its listeners, ended.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{client, tools};

/// Envoy compiles a module for each of its listeners.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub(crate) struct Envoy {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

/// What has become of a listener.
#[derive(Debug, Clone)]
pub(crate) enum Listener {
    At(SocketAddr),
    Refused(String),
}

impl Envoy {
    /// Starts one with the configuration of the folder.
    pub(crate) async fn start(folder: &Path, bootstrap: &Path) -> Result<Self, String> {
        let log = folder.join("envoy.log");
        let admin = folder.join("admin");
        let stderr = fs::File::create(&log).map_err(|error| error.to_string())?;
        let mut command = Command::new(tools::envoy()?);
        command
            .arg("-c")
            .arg(bootstrap)
            .arg("--admin-address-path")
            .arg(&admin)
            .args(["--concurrency", "1", "--disable-hot-restart"])
            .args(["-l", "warning", "--component-log-level", "wasm:debug"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Not --log-path: that file is written every ten seconds only.
            .stderr(stderr);
        let child = command.spawn().map_err(|error| format!("Envoy: {error}"))?;
        let mut envoy = Self {
            child,
            admin: ([127, 0, 0, 1], 0).into(),
            log,
        };
        let started = Instant::now();
        loop {
            let address = fs::read_to_string(&admin).unwrap_or_default();
            if let Ok(address) = address.trim().parse() {
                envoy.admin = address;
                return Ok(envoy);
            }
            let ended = envoy.child.try_wait().ok().flatten().is_some();
            if ended || started.elapsed() > PATIENCE {
                return Err(format!("Envoy does not start:\n{}", envoy.log()));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What has become of each listener, once that is known of all.
    pub(crate) async fn listeners(
        &self,
        count: usize,
    ) -> Result<BTreeMap<String, Listener>, String> {
        let started = Instant::now();
        loop {
            let found = self.known_listeners().await?;
            if found.len() == count {
                return Ok(found);
            }
            if started.elapsed() > PATIENCE {
                return Err(format!(
                    "{} of {count} listeners:\n{}",
                    found.len(),
                    self.log()
                ));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn known_listeners(&self) -> Result<BTreeMap<String, Listener>, String> {
        let mut found = BTreeMap::new();
        let dump = self.ask("/config_dump?resource=dynamic_listeners").await?;
        for listener in array(&dump, "configs") {
            let name = text(listener, "/name");
            let refused = text(listener, "/error_state/details");
            // One without a name says that the file as a whole was not taken.
            if !refused.is_empty() && !name.is_empty() {
                found.insert(name, Listener::Refused(refused));
            }
        }
        let listening = self.ask("/listeners?format=json").await?;
        for listener in array(&listening, "listener_statuses") {
            let port = listener.pointer("/local_address/socket_address/port_value");
            let port = port.and_then(Value::as_u64).unwrap_or_default();
            let port = u16::try_from(port).unwrap_or_default();
            if port > 0 {
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                found.insert(text(listener, "/name"), Listener::At(address));
            }
        }
        Ok(found)
    }

    /// A page of the administration interface.
    async fn ask(&self, path: &str) -> Result<Value, String> {
        let body = client::get(self.admin, path).await?;
        if body.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|error| format!("{path}: {error}"))
    }

    /// What a plugin has logged.
    pub(crate) fn log_of(&self, id: &str) -> Vec<String> {
        let mark = format!("wasm log {id} ");
        let log = self.log();
        let lines = log.lines().filter_map(|line| {
            let (_, behind) = line.split_once(&mark)?;
            Some(
                behind
                    .split_once(": ")
                    .map_or(behind, |(_, text)| text)
                    .to_owned(),
            )
        });
        lines.collect()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn array<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn text(value: &Value, pointer: &str) -> String {
    let text = value.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}
