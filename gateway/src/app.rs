//! The composition root: from configuration to a running gateway.
//!
//! Owns: the order in which parts are made, the sockets, and the end. Next: `worker.rs` (a thread),
//! `pipeline.rs` (a request), `snapshot.rs` (a configuration).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Json;
use axum::routing::get;
use ringwall_data_path::listen::bind_each;
use ringwall_data_path::log::{LogBuffer, LogWriter};
use ringwall_service::{App, Cli, Shell, StartError};
use ringwall_tls::{Alpn, EdgeCertificates, edge_server_config};
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;

use crate::abuse::{Abuse, Feed};
use crate::config::{Config, ListenerConfig};
use crate::conn::Transport;
use crate::limiter::Limiter;
use crate::metrics::GatewayMetrics;
use crate::plugins::Plugins;
use crate::reload::Reloader;
use crate::snapshot::compile;
use crate::tokens::Tokens;
use crate::user_context::UserContextIssuer;
use crate::worker::{Listener, Shared, SharedParts, Worker};

/// Keys that the rate limiter holds; at 64 bytes each this is its memory.
const LIMITER_KEYS: usize = 500_000;
/// How often certificate files are looked at.
const CERTIFICATES: Duration = Duration::from_secs(5);

/// Starts the gateway inside the shell.
///
/// # Errors
/// When the configuration cannot be compiled, a port is taken, or a certificate or secret is missing.
pub(crate) async fn start(shell: Shell, config: Config) -> Result<App, StartError> {
    let file = Cli::parse_as(shell.name).config().to_owned();
    let mut running = Running::start(&shell, &config).await?;
    let feed = running.feed.take();
    running.tell();
    let jwks = Arc::clone(&running.shared.user_context);
    let rotation = Arc::clone(&running.shared.user_context).rotate();
    let reloader = reloader(&shell, &running, &config, file);
    let router = axum::Router::new().route(
        "/.well-known/jwks.json",
        get(move || {
            let keys = jwks.jwks();
            async move { Json(keys) }
        }),
    );
    let mut app = App::new(router);
    if let Some(feed) = feed {
        app = app.background("abuse reports", feed.run());
    }
    Ok(app
        .background("configuration", reloader.run())
        .background("user-context-keys", rotation)
        .data_path(running.until_drained(shell.clone())))
}

fn reloader(shell: &Shell, running: &Running, config: &Config, file: PathBuf) -> Reloader {
    Reloader::new(
        shell.clone(),
        Arc::clone(&running.shared),
        file,
        config.clone(),
    )
}

/// The data path while it runs.
pub(crate) struct Running {
    pub(crate) shared: Arc<Shared>,
    pub(crate) addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
    log: LogWriter,
    /// Taken by whoever runs it.
    feed: Option<Feed>,
}

impl Running {
    /// Makes every part and starts the workers.
    pub(crate) async fn start(shell: &Shell, config: &Config) -> Result<Self, StartError> {
        let metrics = GatewayMetrics::register(&shell.metrics);
        let abuse = config.abuse.as_ref();
        let (abuse, feed) = abuse.map(|abuse| Abuse::new(abuse, &metrics)).unzip();
        let tokens = config
            .tokens
            .as_ref()
            .map(|tokens| Tokens::new(shell, tokens, &Handle::current()))
            .transpose()?;
        let plugins = Plugins::new(config.service.state.clone());
        let loaded = plugins
            .prepare(&config.plugins, &config.plugin_keys)
            .and_then(|changes| plugins.serve(changes));
        let loaded = loaded.map_err(|error| StartError::config(format!("plugins: {error}")))?;
        let shared = Arc::new(Shared::new(SharedParts {
            snapshot: compile(config, 1, &loaded).map_err(StartError::config)?,
            plugins,
            tokens,
            limiter: Limiter::new(LIMITER_KEYS),
            user_context: Arc::new(UserContextIssuer::new(shell.spiffe_id())?),
            metrics,
            abuse,
            connections: config.connections.clone(),
            telemetry: config.service.telemetry.is_some(),
        }));
        let count = config.workers.unwrap_or_else(cores);
        let shown = Arc::clone(&shared);
        shell.metrics.show_others(move || shown.plugins.metrics());
        let (addresses, mut sockets) = listen(&config.listeners, count)?;
        let logged = !config.access_log.disabled;
        let buffers: Vec<Arc<LogBuffer>> = (0..count)
            .map(|_| Arc::new(LogBuffer::new(logged)))
            .collect();
        let log = LogWriter::start(buffers.clone(), config.access_log.file.as_deref())?;
        let mut threads = Vec::with_capacity(count);
        for (index, buffer) in buffers.into_iter().enumerate() {
            let worker = Worker::new(Arc::clone(&shared), Arc::clone(shell.identity()?), buffer);
            threads.push(worker.start(index, sockets.pop().unwrap_or_default())?);
        }
        Ok(Self {
            shared,
            addresses,
            threads,
            log,
            feed,
        })
    }

    fn tell(&self) {
        let snapshot = self.shared.snapshot.load();
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        tracing::info!(
            addresses = addresses.join(", "),
            workers = self.threads.len(),
            routes = snapshot.routes(),
            "gateway listens"
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
                tracing::warn!(
                    open = self.shared.open_connections(),
                    "drain time is over; closing what is left"
                );
                break;
            }
            tokio::time::sleep(step).await;
        }
        drop(self.log);
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Binds every address once per worker; the kernel spreads connections over them (SO_REUSEPORT).
fn listen(
    listeners: &[ListenerConfig],
    workers: usize,
) -> Result<(Vec<SocketAddr>, Vec<Vec<Listener>>), StartError> {
    let mut addresses = Vec::new();
    let mut per_worker: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    for listener in listeners {
        let transport = transport(listener)?;
        for address in &listener.addresses {
            let (bound, bound_sockets) =
                bind_each(*address, workers).map_err(|error| StartError::bind(*address, &error))?;
            for (sockets, socket) in per_worker.iter_mut().zip(bound_sockets) {
                sockets.push(Listener {
                    socket,
                    transport: transport.clone(),
                });
            }
            addresses.push(bound);
        }
    }
    Ok((addresses, per_worker))
}

fn transport(listener: &ListenerConfig) -> Result<Transport, StartError> {
    let Some(tls) = &listener.tls else {
        return Ok(Transport::Plaintext);
    };
    let certificates = EdgeCertificates::load(&tls.certificates)?;
    // Runs for as long as the process.
    drop(certificates.spawn_reload(CERTIFICATES));
    Ok(Transport::Tls(TlsAcceptor::from(edge_server_config(
        certificates,
        Alpn::Http2AndHttp1,
    ))))
}
