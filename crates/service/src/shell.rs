//! What a component gets from its surroundings: identity, secrets, upstreams, metrics, health.

use std::{path::PathBuf, sync::Arc};

use ringwall_http_io::{Client, ClientLimits};
use ringwall_identity::SpiffeId;
use ringwall_secret::{SecretProvider, SecretString};
use ringwall_tls::{
    IdentitySource, LiveServers, TlsError, mesh_client_config, mesh_grpc_client_config,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::Channel;

use crate::{
    config::{ConfigError, IdentityFrom, ServiceConfig, UpstreamConfig},
    error::StartError,
    health::Health,
    loopback,
    metrics::Metrics,
    upstream::Upstream,
};

/// The surroundings of one component. Clones share everything.
#[derive(Clone)]
pub struct Shell {
    pub name: &'static str,
    pub config: Arc<ServiceConfig>,
    pub secrets: Arc<SecretProvider>,
    pub metrics: Metrics,
    pub health: Health,
    /// What the component shares with the service proxy before it; none without such a proxy.
    pub(crate) loopback_token: Option<SecretString>,
    pub(crate) shutdown: CancellationToken,
    id: SpiffeId,
    /// Our identity, and the connections of all clients, which last no longer than our trust in the other end.
    live: Option<Arc<LiveServers>>,
}

impl Shell {
    /// Opens an identity in files or none (behind a service proxy), and secrets, as configured. Starts
    /// no task and touches no global state, so that a test can have several.
    pub fn open(name: &'static str, config: ServiceConfig) -> Result<Self, StartError> {
        ringwall_tls::install_crypto_provider();
        let identity = match &config.identity {
            IdentityFrom::Directory(directory) => Some(IdentitySource::load(directory)?),
            IdentityFrom::Proxy => None,
            other => {
                let what = format!("the identity {other} is not one of files");
                return Err(StartError::software(what));
            }
        };
        let secrets = Arc::new(SecretProvider::open(&config.secrets)?);
        Self::assemble(name, Arc::new(config), secrets, identity)
    }

    /// A shell around an identity that is there already, which must be the configured one.
    pub fn with_identity(
        name: &'static str,
        config: ServiceConfig,
        identity: Arc<IdentitySource>,
    ) -> Result<Self, StartError> {
        let secrets = Arc::new(SecretProvider::open(&config.secrets)?);
        Self::assemble(name, Arc::new(config), secrets, Some(identity))
    }

    pub(crate) fn assemble(
        name: &'static str,
        config: Arc<ServiceConfig>,
        secrets: Arc<SecretProvider>,
        identity: Option<Arc<IdentitySource>>,
    ) -> Result<Self, StartError> {
        let id = config.own_id()?;
        let seen = identity.as_ref().map(|identity| identity.spiffe_id());
        if let Some(seen) = seen.filter(|seen| *seen != id) {
            return Err(StartError::config(format!(
                "{} holds the identity {seen}, but this component is {id}\n  fix: point service.identity at that of {}",
                config.identity,
                id.path(),
            )));
        }
        let sidecar = config.sidecar.as_ref();
        let loopback_token = sidecar.map(|sidecar| loopback::token(sidecar, &secrets));
        let shutdown = CancellationToken::new();
        Ok(Self {
            name,
            config,
            secrets,
            metrics: Metrics::default(),
            health: Health::new(shutdown.clone()),
            loopback_token: loopback_token.transpose()?,
            shutdown,
            id,
            live: identity.as_ref().map(LiveServers::new),
        })
    }

    /// This component's own certificates.
    ///
    /// # Errors
    /// Behind a service proxy, which has them, there are none.
    pub fn identity(&self) -> Result<&Arc<IdentitySource>, ConfigError> {
        self.live().map(|live| live.source())
    }

    fn live(&self) -> Result<&Arc<LiveServers>, ConfigError> {
        self.live.as_ref().ok_or_else(|| {
            ConfigError::invalid(
                "service.identity",
                "nothing: the service proxy has it",
                "a workload identity of the component's own",
                "add `identity: unix:PATH` of the agent's socket",
            )
        })
    }

    /// Client of a declared upstream.
    pub fn upstream(&self, name: &str) -> Result<Upstream, ConfigError> {
        let client = self.client(name)?;
        Ok(Upstream::new(client, name, self.metrics.clone()))
    }

    /// Client of a declared upstream without spans and trace context: for telemetry itself and for
    /// data paths that trace by themselves.
    pub fn client(&self, name: &str) -> Result<Client, ConfigError> {
        let upstream = self.declared(name)?;
        let mut limits = ClientLimits::default();
        if let Some(timeout) = upstream.timeout {
            limits.request_timeout = timeout;
        }
        if let (Some(sidecar), Some(token)) = (&self.config.sidecar, &self.loopback_token) {
            let Some(proxy) = sidecar.outbound else {
                // As if there was no proxy: where it goes is known to the kernel.
                return Ok(Client::plain(upstream.address.clone(), limits).named(name));
            };
            let pass = loopback::pass(token)?;
            let client = Client::through(proxy, &upstream.identity, pass, limits);
            return client.map(|client| client.named(name)).map_err(|error| {
                ConfigError::invalid(
                    "service.upstreams",
                    &error.to_string(),
                    "a workload's name",
                    "name the workload as the mesh knows it",
                )
            });
        }
        let peer = self.config.workload(&upstream.identity)?;
        let tls = mesh_client_config(self.identity()?, peer).map_err(|error| unusable(&error))?;
        let client = Client::live(upstream.address.clone(), tls, self.live()?, limits);
        Ok(client.named(name))
    }

    /// gRPC channel to a declared upstream: mTLS with our identity, HTTP/2, connected at first use and
    /// again when it must. See [`crate::grpc::channel`] for its limits.
    pub fn grpc(&self, name: &str) -> Result<Channel, ConfigError> {
        let upstream = self.declared(name)?;
        let peer = self.config.workload(&upstream.identity)?;
        let tls =
            mesh_grpc_client_config(self.identity()?, peer).map_err(|error| unusable(&error))?;
        let address = upstream.address.clone();
        Ok(crate::grpc::live_channel(address, tls, self.live()?))
    }

    /// [`Shell::grpc`] to the upstream `name` and to its replicas, which are called `name-…`; by name, at least one.
    pub fn grpc_replicas(&self, name: &str) -> Result<Vec<Channel>, ConfigError> {
        let names = self.config.upstreams.keys().filter(|known| {
            let rest = known.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        });
        let channels: Vec<Channel> = names
            .map(|name| self.grpc(name))
            .collect::<Result<_, _>>()?;
        if channels.is_empty() {
            // The error of the missing upstream says how to declare it.
            return self.grpc(name).map(|channel| vec![channel]);
        }
        Ok(channels)
    }

    fn declared(&self, name: &str) -> Result<&UpstreamConfig, ConfigError> {
        self.config.upstreams.get(name).ok_or_else(|| {
            ConfigError::invalid(
                "service.upstreams",
                "no upstream of this name",
                &format!("a declared upstream `{name}`"),
                &format!("add `{name}: {{ address: \"127.0.0.1:PORT\", identity: {name} }}`"),
            )
        })
    }

    /// Directory for the component's own durable files; made if missing, readable by its owner only.
    pub fn state_dir(&self) -> Result<PathBuf, StartError> {
        let Some(directory) = &self.config.state else {
            return Err(ConfigError::invalid(
                "service.state",
                "nothing",
                "a directory for durable files",
                "add `state: /var/lib/ringwall/data/NAME`",
            )
            .into());
        };
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(directory)?;
        Ok(directory.clone())
    }

    /// This component's own SPIFFE id.
    pub fn spiffe_id(&self) -> SpiffeId {
        self.id.clone()
    }

    /// Resolves when the process begins to drain.
    pub fn shutdown(&self) -> WaitForCancellationFutureOwned {
        self.shutdown.clone().cancelled_owned()
    }

    /// Begins the drain, as SIGTERM does.
    pub fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }
}

fn unusable(error: &TlsError) -> ConfigError {
    ConfigError::invalid(
        "service.identity",
        &error.to_string(),
        "an identity that can dial TLS 1.3",
        "issue the identity again",
    )
}
