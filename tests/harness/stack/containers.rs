//! The platform in containers: the real `compose.yaml`, or the part of it that a run needs, under a
//! project name of its own.
//!
//! Owns: start and end of the project through testcontainers, the wait until every container is
//! healthy, and the copy of what scenarios read as files, laid out as natively.
//! Must not: say what a scenario needs. Read next: `compose_file`, `faults`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use testcontainers::compose::DockerCompose;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::Url;

use super::cleanup::{self, Leftover, Ticket};
use super::compose_file::{self, PROVISIONER};
use super::declared::Declared;
use super::{Component, StackInfo, engine, probe, set_mode};
use crate::options;

/// How long all containers may take to become healthy, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the wait says what it waits for.
const PROGRESS: Duration = Duration::from_secs(10);
/// Where the provisioner keeps what lasts, and where it delivers.
const DURABLE: &str = "/var/lib/ringwall";
const DELIVERED: &str = "/run/ringwall";
/// The database, whose health only its container tells.
pub const POSTGRES: &str = "postgres";
/// What the container is called that holds the network of a component and its proxy.
const POD: &str = "-pod";
const PROXY: &str = "-proxy";
const AGENT: &str = "agent";
/// The one program of a component's image.
const COMPONENT: &str = "/usr/bin/ringwall-component";

/// The project and what goes with it.
pub(super) struct Platform {
    site: Site,
    compose: Option<DockerCompose>,
    runtime: tokio::runtime::Runtime,
    state: tempfile::TempDir,
    cleanup: Ticket,
}

/// What is known of a running project.
#[derive(Debug, Clone)]
pub struct Site {
    pub project: String,
    /// All services, those that are no components too.
    pub services: Vec<String>,
    /// The compose file of this run, and the public port in it.
    pub file: PathBuf,
    pub port: u16,
    /// Ports of components and of their proxies.
    ports: BTreeMap<String, Ports>,
    /// Those to whom the agent delivers certificates for the database.
    database_clients: BTreeSet<String>,
}

/// Where a component is asked, and who answers.
#[derive(Debug, Clone)]
struct Ports {
    port: Option<u16>,
    admin: Option<u16>,
    workload: String,
}

impl Platform {
    pub(super) fn start(needs: &[&str]) -> Result<(StackInfo, Self)> {
        engine::answers()?;
        cleanup::sweep()?;
        let declared = Declared::read()?;
        let port = free_port()?;
        let project = project();
        let compose = compose_file::resolved(port, &options::image_tag(), &project)?;
        let selection = compose_file::select(compose, needs)?;
        images_exist(&selection)?;
        let state = tempfile::Builder::new()
            .prefix(&cleanup::prefix())
            .tempdir()?;
        set_mode(state.path(), 0o700)?;
        cleanup::mark(state.path())?;
        let database = declared.node(POSTGRES);
        let site = Site {
            project,
            file: compose_file::write(&selection, state.path())?,
            services: selection.services,
            port,
            ports: ports(&declared),
            database_clients: database.map_or_else(BTreeSet::new, |node| node.callers.clone()),
        };
        let mut platform = Self {
            cleanup: cleanup::remember(Leftover::Project {
                name: site.project.clone(),
                state: state.path().to_path_buf(),
            }),
            compose: None,
            runtime: tokio::runtime::Runtime::new()?,
            site,
            state,
        };
        platform.up()?;
        let info = platform.info(&declared)?;
        Ok((info, platform))
    }

    fn up(&mut self) -> Result<()> {
        // Its own wait ends after 60 s, whatever the machine; ours says what it waits for.
        let mut compose = DockerCompose::with_local_client(&[&self.site.file])
            .with_project_name(&self.site.project)
            .with_wait(false);
        let started = Instant::now();
        let outcome = self.runtime.block_on(compose.up());
        // From here on dropping it removes the project, whether `up` succeeded or not.
        self.compose = Some(compose);
        outcome
            .with_context(|| format!("`docker compose up` failed\n{}", self.site.last_words()))?;
        self.site.wait_healthy(started)
    }

    fn info(&self, declared: &Declared) -> Result<StackInfo> {
        let site = self.site.clone();
        site.copy_state(self.state.path())?;
        let origin = |label: &str| {
            let text = format!("https://{label}.{}:{}/", declared.domain, site.port);
            Url::parse(&text).context("the domain makes no URL")
        };
        Ok(StackInfo {
            url: origin("app")?,
            issuer: origin("auth")?,
            public_address: SocketAddr::from(([127, 0, 0, 1], site.port)),
            ca_bundle: self.state.path().join("ca/root.pem"),
            state_dir: self.state.path().to_path_buf(),
            credentials: site.credentials()?,
            site: super::Site::Containers(site),
            outside: None,
        })
    }

    /// Removes the project and reports what stays of it.
    pub(super) fn stop(mut self) -> Result<()> {
        if let Some(compose) = self.compose.take() {
            let released = self.site.release();
            self.runtime.block_on(compose.down())?;
            self.site.remove_groups();
            released?;
        }
        let left = cleanup::left_of(&self.site.project)?;
        ensure!(left.is_empty(), "`down` has left {}", left.join(", "));
        Ok(())
    }

    pub(super) fn keep_state(&mut self) -> &Path {
        self.state.disable_cleanup(true);
        self.cleanup.forget();
        let _ = std::fs::remove_file(self.state.path().join(cleanup::MARK));
        self.state.path()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if let Some(compose) = self.compose.take() {
            // Nothing can be returned from here; the next run removes what stays.
            let _ = self.site.release();
            let _ = self.runtime.block_on(compose.down());
            self.site.remove_groups();
        }
    }
}

impl Site {
    /// The container of a service.
    pub fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.project)
    }

    /// The service in whose network this one stands: its pod's, where it has one.
    pub fn network_of(&self, service: &str) -> String {
        let workload = service.strip_suffix(PROXY).unwrap_or(service);
        // `spa-proxy` is a component's name.
        [service, workload]
            .iter()
            .map(|name| format!("{name}{POD}"))
            .find(|pod| self.services.contains(pod))
            .unwrap_or_else(|| service.to_owned())
    }

    /// One service for each network that somebody stands in.
    pub fn networks(&self) -> BTreeSet<String> {
        let services = self.services.iter();
        services.map(|name| self.network_of(name)).collect()
    }

    /// Whether it only holds a network.
    pub fn is_pod(&self, service: &str) -> bool {
        service.ends_with(POD)
    }

    /// The component whose network a service holds; else itself.
    pub fn tenant<'a>(&self, service: &'a str) -> &'a str {
        service.strip_suffix(POD).unwrap_or(service)
    }

    /// The engine's name of a network of the project.
    pub fn network(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// The container's addresses now, by the name of the network in the compose file.
    pub fn addresses(&self, service: &str) -> Result<BTreeMap<String, IpAddr>> {
        let inspected = engine::inspect(&self.container(&self.network_of(service)))?;
        Ok(self.addresses_in(&inspected))
    }

    fn addresses_in(&self, inspected: &Value) -> BTreeMap<String, IpAddr> {
        let networks = inspected["NetworkSettings"]["Networks"].as_object();
        let prefix = self.network("");
        networks
            .into_iter()
            .flatten()
            .filter_map(|(name, settings)| {
                let address = settings["IPAddress"].as_str()?.parse().ok()?;
                Some((name.strip_prefix(&prefix)?.to_owned(), address))
            })
            .collect()
    }

    pub(super) fn components(&self) -> Result<Vec<Component>> {
        let names = self.services.iter();
        let known = names.map(|name| Ok(self.component(name)?.into_iter()));
        Ok(known
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    pub(super) fn component(&self, name: &str) -> Result<Option<Component>> {
        let Some(ports) = self.ports.get(name) else {
            return Ok(None);
        };
        let admin = ports.admin;
        let port = ports.port.or(admin).context("a component without a port")?;
        if !self.services.iter().any(|service| service == name) {
            return Ok(None);
        }
        let addresses = self.addresses(name)?;
        // All of them stand in the mesh but the database.
        let address = addresses.get("mesh").or_else(|| addresses.values().next());
        let ip = *address.with_context(|| format!("{name} has no address"))?;
        Ok(Some(Component {
            name: name.to_owned(),
            identity: ports.workload.clone(),
            address: SocketAddr::new(ip, port),
            admin: admin.map(|port| SocketAddr::new(ip, port)),
            pid: self.process(name)?,
        }))
    }

    /// The first process of a service, as the host numbers it; 0 while there is none.
    pub fn process(&self, service: &str) -> Result<i32> {
        let inspected = engine::inspect(&self.container(service))?;
        Ok(i32::try_from(
            inspected["State"]["Pid"].as_i64().unwrap_or_default(),
        )?)
    }

    /// Whom its first process runs as.
    pub(super) fn user(&self, service: &str) -> Result<String> {
        let inspected = engine::inspect(&self.container(service))?;
        let user = inspected["Config"]["User"].as_str();
        user.map(str::to_owned).context("it runs as nobody")
    }

    /// Whether the engine's health check passed at its last time.
    pub fn is_healthy(&self, service: &str) -> Result<bool> {
        let inspected = engine::inspect(&self.container(service))?;
        Ok(inspected["State"]["Health"]["Status"] == "healthy")
    }

    pub(super) fn log(&self, service: &str, since: Option<OffsetDateTime>) -> Result<String> {
        let container = self.container(service);
        let since = since.map(|at| at.format(&Rfc3339)).transpose()?;
        let mut arguments = vec!["logs"];
        if let Some(since) = &since {
            arguments.extend(["--since", since.as_str()]);
        }
        arguments.push(&container);
        engine::both_streams(&arguments)
    }

    /// Copies what scenarios read as files out of the provisioner.
    pub(super) fn copy_state(&self, state: &Path) -> Result<()> {
        let from = |path: &str| format!("{}:{path}", self.container(PROVISIONER));
        let to = |path: PathBuf| -> Result<String> {
            let text = path.to_str().map(str::to_owned);
            text.context("the state directory is no UTF-8")
        };
        engine::docker(&[
            "cp",
            &from(&format!("{DURABLE}/.")),
            &to(state.to_path_buf())?,
        ])?;
        let configs = state.join("config");
        std::fs::create_dir_all(&configs)?;
        let ours = self.ports.iter().filter(|(_, ports)| ports.admin.is_some());
        for service in ours
            .map(|(name, _)| name)
            .filter(|name| self.services.contains(name))
        {
            let delivered = from(&format!("{DELIVERED}/{service}/config.yaml"));
            let copy = configs.join(format!("{service}.yaml"));
            engine::docker(&["cp", &delivered, &to(copy)?])?;
        }
        // Workloads have their keys in memory alone; engines, and clients of the database, have files.
        let with_files = self.services.iter().filter(|name| {
            let engine = !self.ports.contains_key(*name) && !self.is_pod(name);
            (engine && *name != PROVISIONER) || self.database_clients.contains(*name)
        });
        for service in with_files {
            let identity = state.join("identity").join(service);
            std::fs::create_dir_all(&identity)?;
            let delivered = from(&format!("{DELIVERED}/{service}/identity/."));
            engine::docker(&["cp", &delivered, &to(identity)?])?;
        }
        Ok(())
    }

    fn credentials(&self) -> Result<Value> {
        let container = self.container(PROVISIONER);
        let command = "/usr/bin/ringwall status --credentials -o json --state-dir";
        let mut arguments = vec!["exec", container.as_str()];
        arguments.extend(command.split(' '));
        arguments.push(DURABLE);
        let text = engine::docker(&arguments)?;
        serde_json::from_str(&text).context("`ringwall status --credentials` gave no JSON")
    }

    /// Waits until every container is healthy, and says what is missing.
    pub fn wait_healthy(&self, started: Instant) -> Result<()> {
        let mut said = Instant::now();
        loop {
            let missing = self.not_healthy()?;
            if missing.is_empty() {
                eprintln!(
                    "{} containers are healthy after {:.1} s",
                    self.services.len(),
                    started.elapsed().as_secs_f64()
                );
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "not healthy after {PATIENCE:?}: {}\n{}",
                    missing.join(", "),
                    self.last_words()
                );
            }
            if said.elapsed() > PROGRESS {
                eprintln!("waiting for {}", missing.join(", "));
                said = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// The services whose container does not run or is not healthy, with their state.
    pub fn not_healthy(&self) -> Result<Vec<String>> {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        let format = "{{.Label \"com.docker.compose.service\"}}\t{{.Status}}";
        let listed = engine::lines(&["ps", "-a", "--filter", &filter, "--format", format])?;
        let states: BTreeMap<&str, &str> = listed
            .iter()
            .filter_map(|line| line.split_once('\t'))
            .collect();
        let state = |name: &str| states.get(name).copied().unwrap_or("absent");
        let services = self.services.iter().map(|name| (name, state(name)));
        Ok(services
            .filter(|(name, state)| {
                // Nobody asks a process that only waits.
                let well = match self.is_pod(name) {
                    true => state.starts_with("Up"),
                    false => state.contains("(healthy)"),
                };
                !well || state.contains("Paused")
            })
            .map(|(name, state)| format!("{name} ({state})"))
            .collect())
    }

    /// The last lines of the containers that are not healthy.
    fn last_words(&self) -> String {
        let mut text = String::new();
        for service in self.not_healthy().unwrap_or_default() {
            let name = service.split(' ').next().unwrap_or_default();
            let log = self.log(name, None).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(15).collect();
            text.push_str(&format!("--- {service}\n"));
            for line in lines.into_iter().rev() {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    /// `docker compose` of this project with this run's file.
    pub fn compose(&self, arguments: &[&str]) -> Result<String> {
        let file = self.file.to_str().context("the file's path is no UTF-8")?;
        let project = ["compose", "--project-name", &self.project, "-f", file];
        engine::docker(&[&project[..], arguments].concat())
    }

    /// Where this platform's programs are pinned.
    fn pins(&self) -> String {
        format!("/sys/fs/bpf/{}-containers", self.project)
    }

    /// Ends what the kernel does for this platform, as docs/containers.md has it.
    fn release(&self) -> Result<()> {
        if !self.services.iter().any(|service| service == AGENT) {
            return Ok(());
        }
        let run = ["run", "--rm", "--no-deps", "--entrypoint", COMPONENT, AGENT];
        self.compose(&[&run[..], &["release", &self.pins()]].concat())
            .map(drop)
    }

    /// The engine leaves what `cgroup_parent` names; each of our platforms has other names.
    fn remove_groups(&self) {
        let mounts = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        let mounts = mounts.flatten().map(|entry| entry.path());
        for mount in mounts.chain([PathBuf::from("/sys/fs/cgroup")]) {
            for entry in std::fs::read_dir(mount).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if name.to_string_lossy().starts_with(&self.project) {
                    // One that is somebody's still is not ours to remove, and cannot be.
                    let _ = std::fs::remove_dir(entry.path());
                }
            }
        }
    }

    /// Runs the probe as a process of the component itself: where the kernel leads it, and refuses it.
    pub fn probe_inside(&self, service: &str, task: &probe::Task) -> Result<probe::Report> {
        probe::inside(&self.container(service), &self.group_of(service)?, task)
    }

    /// Tries every way out of the component's control group, with `text` as what is sent.
    pub fn ways_out(
        &self,
        service: &str,
        text: &str,
        targets: &[SocketAddr],
    ) -> Result<Vec<probe::WayOut>> {
        let parent = self.group_of(service)?;
        probe::ways_out(&self.container(service), Some(&parent), text, targets)
    }

    /// The same in its network, and in no group that anybody knows.
    pub fn ways_out_of_a_stranger(
        &self,
        service: &str,
        text: &str,
        targets: &[SocketAddr],
    ) -> Result<Vec<probe::WayOut>> {
        probe::ways_out(&self.container(service), None, text, targets)
    }

    /// What the engine makes a container's control group below.
    fn group_of(&self, service: &str) -> Result<String> {
        let inspected = engine::inspect(&self.container(service))?;
        let parent = inspected["HostConfig"]["CgroupParent"].as_str();
        parent.map(str::to_owned).context("no control group")
    }

    /// Runs the probe inside a container's network and processes.
    pub fn probe(&self, service: &str, task: &probe::Task) -> Result<probe::Report> {
        probe::beside(&self.container(service), &self.user(service)?, task)
    }
}

fn ports(declared: &Declared) -> BTreeMap<String, Ports> {
    let mut all = BTreeMap::new();
    for node in &declared.components {
        let own = Ports {
            port: node.port,
            admin: node.admin,
            workload: declared.workload(&node.name),
        };
        all.insert(node.name.clone(), own);
        if let Some(proxy) = &node.proxy {
            let its = Ports {
                port: None,
                admin: Some(proxy.admin),
                workload: node.name.clone(),
            };
            all.insert(proxy.name.clone(), its);
        }
    }
    all
}

/// A name that no other project of this machine has.
fn project() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}{number}", cleanup::prefix())
}

/// A port that is free now. Somebody may take it before the engine does; then `up` says so.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn images_exist(selection: &compose_file::Selection) -> Result<()> {
    let missing: Vec<&str> = selection
        .built
        .iter()
        .map(String::as_str)
        .filter(|image| engine::docker(&["image", "inspect", image]).is_err())
        .collect();
    ensure!(
        missing.is_empty(),
        "images are missing: {}; `cargo xtask e2e --stack containers` builds them",
        missing.join(", ")
    );
    Ok(())
}
