//! What can be done to a component while the platform runs. The verbs are the same for both stacks
//! where both can; the others are refused with the reason.
//!
//! Owns: the doing and the undoing. Must not: judge what came of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::compose_file::PROVISIONER;
use super::containers::{POSTGRES, Site as Containers};
use super::{Component, Site, StackInfo, engine, probe};
use crate::mesh;

/// How long a component may take to come back to health.
pub const RECOVERY: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// How often a freeze that the kernel did not bring about is tried again.
const FREEZES: usize = 3;

/// The identity that may ask every component how it is.
const OPERATOR: &str = "ringwall";

/// A component that does not move, until this is dropped: it holds its connections and answers
/// nothing.
pub struct Frozen(Thaw);

enum Thaw {
    Process(Pid),
    Container(String),
    Done,
}

impl StackInfo {
    /// SIGKILL, as the kernel's out-of-memory killer sends it: whoever supervises the component
    /// sees a crash and starts it again.
    pub async fn kill(&self, component: &str) -> Result<()> {
        match &self.site {
            Site::Native(_) => {
                let pid = self.running(component)?.pid;
                Ok(kill(Pid::from_raw(pid), Signal::SIGKILL)?)
            }
            // `docker kill` would count as an operator's stop. From the host's processes and as
            // the same user, no privilege is needed.
            Site::Containers(site) => {
                let task = probe::Task {
                    kill: Some(site.process(component)?),
                    ..probe::Task::default()
                };
                let user = site.user(component)?;
                tokio::task::spawn_blocking(move || probe::on_host(&user, &task)).await??;
                Ok(())
            }
        }
    }

    /// An operator's stop, which lets the component drain. Only containers stay stopped: natively
    /// the supervisor starts whatever ends.
    pub async fn stop(&self, service: &str) -> Result<()> {
        let container = self.containers()?.container(service);
        engine::docker_async(&["stop", &container]).await.map(drop)
    }

    pub async fn start(&self, service: &str) -> Result<()> {
        let container = self.containers()?.container(service);
        engine::docker_async(&["start", &container]).await.map(drop)
    }

    /// Ends the component gently and has it started again.
    pub async fn restart(&self, component: &str) -> Result<()> {
        match &self.site {
            Site::Native(_) => {
                let pid = self.running(component)?.pid;
                Ok(kill(Pid::from_raw(pid), Signal::SIGTERM)?)
            }
            // With those that stand in its network.
            Site::Containers(site) if site.is_pod(component) => {
                let (site, pod) = (site.clone(), component.to_owned());
                tokio::task::spawn_blocking(move || site.compose(&["restart", &pod])).await??;
                Ok(())
            }
            Site::Containers(site) => {
                let container = site.container(component);
                engine::docker_async(&["restart", &container])
                    .await
                    .map(drop)
            }
        }
    }

    /// Stops the component where it is: SIGSTOP, or the freezer of its container.
    pub async fn freeze(&self, component: &str) -> Result<Frozen> {
        match &self.site {
            Site::Native(_) => {
                let pid = Pid::from_raw(self.running(component)?.pid);
                kill(pid, Signal::SIGSTOP)?;
                Ok(Frozen(Thaw::Process(pid)))
            }
            Site::Containers(site) => {
                let container = site.container(component);
                // The freezer of the first generation of control groups gives up under load.
                let mut paused = engine::docker_async(&["pause", &container]).await;
                for _ in 0..FREEZES {
                    if paused.is_err() {
                        tokio::time::sleep(PAUSE).await;
                        paused = engine::docker_async(&["pause", &container]).await;
                    }
                }
                paused?;
                Ok(Frozen(Thaw::Container(container)))
            }
        }
    }

    /// Pulls the cables of a container, or of its pod: all of them, while its process runs on.
    pub async fn disconnect(&self, service: &str) -> Result<Cables> {
        let site = self.containers()?;
        let networks: Vec<String> = site.addresses(service)?.into_keys().collect();
        let container = site.container(&site.network_of(service));
        for network in &networks {
            let network = site.network(network);
            engine::docker_async(&["network", "disconnect", &network, &container]).await?;
        }
        Ok(Cables {
            service: service.to_owned(),
            networks,
        })
    }

    /// Puts them back, with the name under which the others know the service.
    pub async fn connect(&self, cables: Cables) -> Result<()> {
        let site = self.containers()?;
        let container = site.container(&site.network_of(&cables.service));
        for network in &cables.networks {
            let network = site.network(network);
            // A proxy stands in its component's pod, which is known by the component's name.
            let pod = site.network_of(&cables.service);
            let alias = ["--alias", site.tenant(&pod)];
            let connect = [
                "network", "connect", alias[0], alias[1], &network, &container,
            ];
            engine::docker_async(&connect).await?;
        }
        Ok(())
    }

    /// Waits until the component is ready: it says so itself to the operator; of the database its
    /// container does. Returns how long that took.
    pub async fn recovered(&self, component: &str) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let outcome = self.ready(component).await;
            let Err(error) = outcome else {
                return Ok(started.elapsed());
            };
            if started.elapsed() > RECOVERY {
                return Err(
                    error.context(format!("{component} did not come back within {RECOVERY:?}"))
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The same after the present process has gone.
    pub async fn recovered_as_another(&self, component: &str, before: i32) -> Result<()> {
        let deadline = Instant::now() + RECOVERY;
        while !self
            .running(component)
            .is_ok_and(|now| now.pid != before && now.pid != 0)
        {
            if Instant::now() > deadline {
                bail!("{component} was not started again within {RECOVERY:?}");
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.recovered(component).await.map(drop)
    }

    /// Whether the component is ready now.
    pub async fn ready(&self, component: &str) -> Result<()> {
        if component == POSTGRES {
            return match &self.site {
                Site::Native(_) => {
                    let address = self.component(component)?.address;
                    tokio::net::TcpStream::connect(address).await?;
                    Ok(())
                }
                Site::Containers(site) => postgres_ready(site).await,
            };
        }
        if component == PROVISIONER {
            let healthy = self.containers()?.is_healthy(component)?;
            ensure!(healthy, "the provisioner is not healthy");
            return Ok(());
        }
        let request = Request::get("/readyz").body(Bytes::new())?;
        let asked = mesh::admin_call(self, OPERATOR, component, request);
        let answer = tokio::time::timeout(Duration::from_secs(2), asked)
            .await
            .context("no answer within 2 s")??;
        if answer.status != StatusCode::OK {
            bail!("{component}: {} {:?}", answer.status, answer.body);
        }
        Ok(())
    }

    /// A component with the process of now.
    pub fn running(&self, component: &str) -> Result<Component> {
        let mut all = match &self.site {
            Site::Native(_) => self.components()?,
            Site::Containers(site) => site.component(component)?.into_iter().collect(),
        };
        all.retain(|one| one.name == component);
        all.pop()
            .with_context(|| format!("no process of {component}"))
    }
}

/// What [`StackInfo::disconnect`] pulled.
pub struct Cables {
    service: String,
    networks: Vec<String>,
}

impl Frozen {
    /// Lets it run again, and says if that failed.
    pub async fn thaw(mut self) -> Result<()> {
        match std::mem::replace(&mut self.0, Thaw::Done) {
            Thaw::Process(pid) => Ok(kill(pid, Signal::SIGCONT)?),
            Thaw::Container(name) => engine::docker_async(&["unpause", &name]).await.map(drop),
            Thaw::Done => Ok(()),
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed or removed meanwhile.
        match &self.0 {
            Thaw::Process(pid) => drop(kill(*pid, Signal::SIGCONT)),
            Thaw::Container(name) => drop(engine::docker(&["unpause", name])),
            Thaw::Done => {}
        }
    }
}

/// Asks in the container itself: its port speaks to declared workloads only, and health of the
/// engine's own is seconds old.
async fn postgres_ready(site: &Containers) -> Result<()> {
    let container = site.container(POSTGRES);
    let ask = [
        "exec",
        &container,
        "pg_isready",
        "--quiet",
        "--host",
        "127.0.0.1",
    ];
    engine::docker_async(&ask).await.map(drop)
}
