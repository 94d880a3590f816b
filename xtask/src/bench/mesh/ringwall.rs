//! Our pair, as the platform runs it: a control plane that has the policy, an agent that gives both workloads their
//! identity, and a service proxy for each.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Addresses, BACK, FRONT, Ground, Pair, Side, free_port, load};
use crate::bench::material;
use crate::bench::running::{LOAD_CORE, PROXY_CORE, Program, Running};
use crate::build::{Profile, outputs};
use crate::config::Config;

const DOMAIN: &str = "ringwall.local";
const NODE: &str = "local";
/// Time until both proxies have identity and policy.
const READY: Duration = Duration::from_secs(30);

pub(super) struct Kit {
    folder: PathBuf,
    roots: PathBuf,
    binaries: PathBuf,
    plane: u16,
    bootstrap: u16,
    access_log: bool,
}

impl Kit {
    /// `material` has the certificates; `folder` is for this pair alone.
    pub(super) fn new(
        config: &Config,
        material: &Path,
        folder: PathBuf,
        access_log: bool,
    ) -> Result<Self> {
        Ok(Self {
            folder,
            roots: material.join("root.pem"),
            binaries: outputs(config, Profile::Dist),
            plane: free_port()?,
            bootstrap: free_port()?,
            access_log,
        })
    }

    /// Starts all of it, and waits until a request passes.
    pub(super) fn start(
        &self,
        config: &Config,
        name: &'static str,
        ground: &Ground,
    ) -> Result<Pair> {
        let at = ground.addresses()?;
        self.secrets(config, &ground.folder)?;
        let plane = self.control_plane(&at)?.start()?;
        let agent = self.agent()?.start()?;
        let far = self.started(Side::Far, &at)?;
        let near = self.started(Side::Near, &at)?;
        let until = Instant::now() + READY;
        while !load::answers(at.near_http) || !load::answers(at.near_tcp) {
            if Instant::now() > until {
                bail!(
                    "no request passes; the logs are in {}",
                    self.folder.display()
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(Pair {
            name,
            at,
            proxies: vec![far, near],
            _around: vec![plane, agent],
        })
    }

    /// What the control plane and the agent must not share with anybody.
    fn secrets(&self, config: &Config, material: &Path) -> Result<()> {
        let (plane, agent) = (self.own("control-plane")?, self.own("agent")?);
        for (from, to) in [
            ("intermediate.pem", "intermediate-cert"),
            ("intermediate.key", "intermediate-key"),
        ] {
            let text = fs::read(material.join(from)).context("reading the intermediate")?;
            material::secret(&plane.join(to), &text)?;
        }
        material::secret(&plane.join("store-key"), &[7; 32])?;
        let token = "one-join-of-one-measurement-that-nobody-else-can-reach";
        material::secret(&agent.join("join-token"), token.as_bytes())?;
        let digest = material::sha256(config, token.as_bytes())?;
        let tokens = json!([{ "sha256": digest, "node": NODE, "not_after": 4_000_000_000_u64 }]);
        material::secret(&plane.join("join-tokens"), tokens.to_string().as_bytes())
    }

    /// A folder that one process has for itself; its secrets stand in it.
    fn own(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).context("making a folder")?;
        Ok(folder)
    }

    /// The shared section of a component's configuration.
    fn service(&self, name: &str, workload: &str, identity: &str) -> Result<Value> {
        let folder = self.own(name)?;
        let address = format!("127.0.0.1:{}", self.plane);
        let listen = if name == "control-plane" {
            address.clone()
        } else {
            format!("127.0.0.1:{}", free_port()?)
        };
        Ok(json!({
            "name": name, "workload": workload, "trust_domain": DOMAIN, "profile": "demo",
            "listen": listen, "admin": format!("127.0.0.1:{}", free_port()?),
            "identity": identity, "state": folder.join("state"), "drain": "1s",
            "upstreams": { "control-plane": { "address": address, "identity": "control-plane" } },
            "secrets": { "provider": "file", "directory": folder },
            "logs": { "format": "json", "level": "warn" },
        }))
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    fn spawned(&self) -> PathBuf {
        self.folder.join("spawned.sock")
    }

    fn control_plane(&self, at: &Addresses) -> Result<Program> {
        let ports = json!([
            { "number": at.far_http, "protocol": "http" },
            { "number": at.far_tcp, "protocol": "tcp" },
            { "number": at.far_bulk, "protocol": "tcp" },
        ]);
        let service = |name: &str, ports: &Value| json!({ "name": name, "owner": "bench", "nodes": [NODE], "ports": ports });
        let policy = format!(
            "@id(\"front-reads-back\") permit (principal == Workload::\"{FRONT}\", action == Action::\"GET\", \
             resource == Service::\"{BACK}\") when {{ context.path like \"/v1/*\" }};"
        );
        let config = json!({
            "service": self.service("control-plane", "control-plane", "self")?,
            "bootstrap": format!("127.0.0.1:{}", self.bootstrap),
            "authority": { "roots": self.roots },
            "store": { "embedded": self.folder.join("control-plane/control-plane.db") },
            "nodes": [NODE],
            "services": [service(FRONT, &json!([])), service(BACK, &ports)],
            "policy": {
                "edges": [{ "caller": FRONT, "callee": BACK, "ports": [] }],
                "policies": { BACK: policy },
            },
        });
        self.program(
            "control-plane",
            "control-plane",
            &config,
            self.plane,
            LOAD_CORE,
        )
    }

    fn agent(&self) -> Result<Program> {
        let workload = format!("agent/{NODE}");
        let service = self.service("agent", &workload, "self")?;
        let admin = port_of(&service, "admin")?;
        let config = json!({
            "service": service,
            "node": NODE,
            "bootstrap": { "address": format!("127.0.0.1:{}", self.bootstrap), "bundle": self.roots },
            "socket": self.socket(),
            "attestation": { "spawned": { "socket": self.spawned() } },
        });
        self.program("agent", "agent", &config, admin, LOAD_CORE)
    }

    /// A proxy that the agent knows and that listens.
    fn started(&self, side: Side, at: &Addresses) -> Result<Running> {
        let program = self.proxy(side, at)?;
        let mut running = program.spawn()?;
        self.introduce(&running, side.workload())?;
        program.wait_for(&mut running)?;
        Ok(running)
    }

    fn proxy(&self, side: Side, at: &Addresses) -> Result<Program> {
        let (name, workload) = (side.name("ringwall"), side.workload());
        let identity = format!("unix:{}", self.socket().display());
        let local = |port: u16| format!("127.0.0.1:{port}");
        let mut config = json!({
            "service": self.service(name, workload, &identity)?,
            "node": NODE,
            "access_log": {
                "file": self.folder.join(format!("{name}.access")), "disabled": !self.access_log,
            },
        });
        let inbound = |port: u16, app: u16, protocol: &str| json!({ "listen": local(port), "app": local(app), "port": port, "protocol": protocol });
        let (key, section, port) = match side {
            Side::Far => {
                let listeners = json!([
                    inbound(at.far_http, at.back_end, "http"),
                    inbound(at.far_tcp, at.back_end, "tcp"),
                    inbound(at.far_bulk, at.bulk, "tcp"),
                ]);
                ("inbound", listeners, at.far_http)
            }
            Side::Near => {
                let tcp = |port: u16, to: u16| json!({ "listen": local(port), "service": BACK, "port": to });
                let tcp = [tcp(at.near_tcp, at.far_tcp), tcp(at.near_bulk, at.far_bulk)];
                let outbound = json!({ "http": local(at.near_http), "tcp": tcp });
                ("outbound", outbound, at.near_http)
            }
        };
        if let Some(config) = config.as_object_mut() {
            config.insert(key.into(), section);
        }
        self.program(name, "proxy", &config, port, PROXY_CORE)
    }

    fn program(
        &self,
        name: &'static str,
        binary: &str,
        config: &Value,
        port: u16,
        core: &'static str,
    ) -> Result<Program> {
        // JSON is YAML.
        let file = self.folder.join(format!("{name}.yaml"));
        fs::write(&file, config.to_string()).context("writing a configuration")?;
        Ok(Program {
            name,
            path: self.binaries.join(format!("ringwall-{binary}")),
            arguments: vec!["--config".to_owned(), file.display().to_string()],
            port,
            log: self.folder.join(format!("{name}.log")),
            core,
        })
    }

    /// Tells the agent which workload the process is.
    fn introduce(&self, process: &Running, workload: &str) -> Result<()> {
        let pid = process.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading a process")?;
        // The second field is the name in parentheses, which may hold blanks; the start time is the 22nd.
        let started: u64 = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok())
            .context("reading when a process was started")?;
        let word = json!({ "pid": pid, "started": started, "workload": workload });
        let mut socket = UnixStream::connect(self.spawned()).context("reaching the agent")?;
        writeln!(socket, "{word}").context("telling the agent")?;
        let mut answer = String::new();
        BufReader::new(socket)
            .read_line(&mut answer)
            .context("hearing the agent")?;
        ensure!(
            answer.contains("true"),
            "the agent does not take it: {answer}"
        );
        Ok(())
    }
}

/// The port of an address in a configuration.
fn port_of(config: &Value, key: &str) -> Result<u16> {
    let address = config.get(key).and_then(Value::as_str);
    address
        .and_then(|address| address.rsplit_once(':')?.1.parse().ok())
        .with_context(|| format!("no port in `{key}`"))
}
