//! The composition root: from configuration to a running proxy.
//!
//! Owns: the order in which parts are made, the sockets, and the end. Next: `worker.rs` (a thread), `pipeline.rs` (a
//! request of a peer), `outbound.rs` (a request of the application).

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use listenfd::ListenFd;
use ringwall_data_path::log::{LogBuffer, LogWriter};
use ringwall_mesh_api::v1::Health;
use ringwall_service::{App, Cli, Shell, StartError};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::config::Config;
use crate::control::{self, State};
use crate::egress::Egress;
use crate::error::ProxyError;
use crate::inbound::{Inbound, Users};
use crate::listen::{self, Role};
use crate::metrics::ProxyMetrics;
use crate::names;
use crate::outbound::{OutboundMetrics, TcpTarget};
use crate::pipeline::loopback::LoopbackToken;
use crate::plugins::{Filters, Plugins};
use crate::reload::Reloader;
use crate::resilience::Callees;
use crate::worker::{Shared, Worker};
use ringwall_observe::{self as observe, Observer};

/// Starts the proxy inside the shell.
///
/// # Errors
/// When a port is taken, or a certificate or secret is missing.
pub(crate) async fn start(shell: Shell, config: Config) -> Result<App, StartError> {
    let config = Arc::new(config);
    let state = State::new();
    // The last good state is in use before the first connection is accepted.
    let control = control::open(&shell, &config, Arc::clone(&state)).await?;
    let application = control.health();
    let mut running = Running::start(&shell, &config, &state, ListenFd::from_env())?;
    running.tell();
    let observer = Arc::clone(&running.shared.observe);
    let shown = Arc::clone(&running.shared);
    shell.metrics.show_others(move || shown.plugins.metrics());
    let file = Cli::parse_as(shell.name).config().to_owned();
    let reloader = Reloader::new(Arc::clone(&running.shared), file, Config::clone(&config));
    let admin = running.admin.take();
    let mut app = App::custom(running.until_drained(shell.clone()));
    app = app.admin(observe::router(observer));
    if let Some(socket) = admin {
        app = app.admin_socket(socket);
    }
    app = app.background("control", control.run(shell.shutdown()));
    app = app.background("configuration", reloader.run());
    for address in &config.outbound.names {
        let socket = names::bind(*address).map_err(|error| StartError::bind(*address, &error))?;
        let known = names::Known {
            domain: shell.config.trust_domain.to_string().into(),
            hosts: config.outbound.hosts.clone(),
        };
        app = app.background("names", names::serve(socket, Arc::clone(&state), known));
    }
    app = app.ready_check("policy", move || {
        let ready = state.ready();
        async move { ready }
    });
    // Whoever replaces this process's predecessor waits for this, or the endpoint would be away meanwhile.
    app = app.ready_check("application asked", move || {
        let asked = match *application.borrow() {
            Health::Unspecified => Err("it has not answered or failed yet".to_owned()),
            _ => Ok(()),
        };
        async move { asked }
    });
    Ok(app)
}

/// The data path while it runs.
pub(crate) struct Running {
    pub(crate) shared: Arc<Shared>,
    /// Of inbound, outbound HTTP, outbound TCP, captured and HBONE listeners: those that are configured, in this order.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) workers: Vec<Arc<Worker>>,
    threads: Vec<JoinHandle<()>>,
    log: LogWriter,
    /// The admin listener's socket, where it was handed over.
    admin: Option<std::net::TcpListener>,
}

impl Running {
    /// Makes every part and starts the workers.
    pub(crate) fn start(
        shell: &Shell,
        config: &Arc<Config>,
        state: &Arc<State>,
        handed: ListenFd,
    ) -> Result<Self, StartError> {
        Self::over(shared(shell, config, state)?, handed)
    }

    /// Starts the workers over parts that are made.
    pub(crate) fn over(shared: Shared, handed: ListenFd) -> Result<Self, StartError> {
        let shared = Arc::new(shared);
        let config = Arc::clone(&shared.config);
        let config = &config;
        let mut sockets = listen::open(config, roles(config, &shared)?, handed)?;
        let logged = !config.access_log.disabled;
        let buffers: Vec<Arc<LogBuffer>> = (0..config.workers)
            .map(|_| Arc::new(LogBuffer::new(logged)))
            .collect();
        let log = LogWriter::start(buffers.clone(), config.access_log.file.as_deref())?;
        let mut workers = Vec::with_capacity(config.workers);
        let mut threads = Vec::with_capacity(config.workers);
        for (index, buffer) in buffers.into_iter().enumerate() {
            let worker = Worker::new(Arc::clone(&shared), buffer);
            let listeners = sockets.per_worker.pop().unwrap_or_default();
            threads.push(worker.start(index, listeners)?);
            workers.push(worker);
        }
        Ok(Self {
            shared,
            addresses: sockets.addresses,
            workers,
            threads,
            log,
            admin: sockets.admin,
        })
    }

    fn tell(&self) {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        tracing::info!(
            addresses = addresses.join(", "),
            workers = self.threads.len(),
            workload = &*self.shared.workload,
            "proxy listens"
        );
    }

    /// Serves until the shell shuts down, then lets requests in flight finish within the drain time.
    pub(crate) async fn until_drained(self, shell: Shell) {
        shell.shutdown().await;
        self.drain(shell.config.drain).await;
    }

    /// Stops accepting, waits at most `limit` for what is in flight, and flushes the access log.
    pub(crate) async fn drain(self, limit: Duration) {
        self.shared.begin_drain();
        let step = Duration::from_millis(20);
        let end = tokio::time::Instant::now() + limit;
        while !self.threads.iter().all(JoinHandle::is_finished) {
            if tokio::time::Instant::now() >= end {
                let tunnels: usize = self.workers.iter().map(|one| one.tunnels.open()).sum();
                let peers: usize = self.workers.iter().map(|one| one.live.len()).sum();
                tracing::warn!(
                    open = self.shared.open_connections(),
                    tunnels,
                    peers,
                    "drain time is over; closing what is left"
                );
                break;
            }
            tokio::time::sleep(step).await;
        }
        drop(self.log);
    }
}

/// What all workers will see.
pub(crate) fn shared(
    shell: &Shell,
    config: &Arc<Config>,
    state: &Arc<State>,
) -> Result<Shared, StartError> {
    let id = shell.spiffe_id();
    let loopback = config
        .loopback_token
        .as_deref()
        .map(|name| LoopbackToken::read(&shell.secrets, name))
        .transpose()?;
    let users = config
        .user_context
        .as_ref()
        .map(|users| Users::new(shell, users, Handle::current()))
        .transpose()?;
    let plugins = Plugins::new(config.service.state.clone());
    let loaded = plugins
        .prepare(&config.plugins, &config.plugin_keys)
        .and_then(|changes| plugins.serve(changes))
        .map_err(ProxyError::Plugins)?;
    let observe = Observer::new(&config.service.name, &config.redact);
    let egress = config
        .egress
        .as_ref()
        .map(|egress| Egress::open(egress, Arc::clone(&shell.secrets), Arc::clone(&observe)))
        .transpose()?;
    Ok(Shared {
        config: Arc::clone(config),
        state: Arc::clone(state),
        identity: Arc::clone(shell.identity()?),
        workload: id.path().into(),
        id,
        loopback,
        metrics: ProxyMetrics::register(&shell.metrics),
        observe,
        egress,
        callees: Callees::new(
            &config.zone,
            Arc::new(OutboundMetrics::register(&shell.metrics)),
        ),
        users,
        filters: ArcSwap::from_pointee(Filters::of(config, &loaded)),
        plugins,
        telemetry: config.service.telemetry.is_some(),
        open: Arc::default(),
        drain: watch::Sender::new(false),
    })
}

/// Every listener of the configuration, in the order of handed-over sockets.
fn roles(config: &Config, shared: &Arc<Shared>) -> Result<Vec<(SocketAddr, Role)>, StartError> {
    let (inbound, hbone) = Inbound::all(config, shared)?;
    let mut roles: Vec<(SocketAddr, Role)> = inbound
        .into_iter()
        .map(|(address, inbound)| (address, Role::Inbound(inbound)))
        .collect();
    if let Some(address) = config.outbound.http {
        roles.push((address, Role::OutboundHttp));
    }
    for tcp in &config.outbound.tcp {
        let target = TcpTarget {
            service: tcp.service.as_str().into(),
            port: tcp.port,
            idle: tcp.idle_timeout,
        };
        roles.push((tcp.listen, Role::OutboundTcp(Arc::new(target))));
    }
    let captured = config.outbound.captured.iter();
    roles.extend(captured.map(|address| (*address, Role::Captured)));
    if let Some((address, hbone)) = hbone {
        roles.push((address, Role::Inbound(hbone)));
    }
    Ok(roles)
}
