//! What a component gets from its surroundings: identity, secrets, upstreams, metrics, health.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ringwall_http_io::{Client, ClientLimits};
use ringwall_identity::SpiffeId;
use ringwall_secret::{SecretProvider, SecretString};
use ringwall_tls::{IdentitySource, mesh_client_config};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    config::{ConfigError, ServiceConfig},
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
    /// What the component shares with the service proxy beside it; none without such a proxy.
    pub(crate) loopback_token: Option<SecretString>,
    pub(crate) shutdown: CancellationToken,
    id: SpiffeId,
    identity: Option<Arc<IdentitySource>>,
}

impl Shell {
    /// Opens identity and secrets as configured. Starts no task and touches no global state, so that
    /// a test can have several.
    pub fn open(name: &'static str, config: ServiceConfig) -> Result<Self, StartError> {
        ringwall_tls::install_crypto_provider();
        let id = config.workload(name)?;
        let identity = match &config.identity {
            Some(directory) => Some(load_identity(directory, name, &id)?),
            None => None,
        };
        let secrets = SecretProvider::open(&config.secrets)?;
        let sidecar = config.sidecar.as_ref();
        let loopback_token = sidecar.map(|sidecar| loopback::token(sidecar, &secrets));
        let shutdown = CancellationToken::new();
        Ok(Self {
            name,
            config: Arc::new(config),
            secrets: Arc::new(secrets),
            metrics: Metrics::default(),
            health: Health::new(shutdown.clone()),
            loopback_token: loopback_token.transpose()?,
            shutdown,
            id,
            identity,
        })
    }

    /// This component's own certificates.
    ///
    /// # Errors
    /// Behind a service proxy, which has them, there may be none.
    pub fn identity(&self) -> Result<&Arc<IdentitySource>, ConfigError> {
        self.identity.as_ref().ok_or_else(|| {
            ConfigError::invalid(
                "service.identity",
                "nothing",
                "a workload identity",
                "add `identity: DIRECTORY`",
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
        let Some(upstream) = self.config.upstreams.get(name) else {
            return Err(ConfigError::invalid(
                "service.upstreams",
                "no upstream of this name",
                &format!("a declared upstream `{name}`"),
                &format!("add `{name}: {{ address: \"127.0.0.1:PORT\", identity: {name} }}`"),
            ));
        };
        let mut limits = ClientLimits::default();
        if let Some(timeout) = upstream.timeout {
            limits.request_timeout = timeout;
        }
        let client = match (&self.config.sidecar, &self.loopback_token) {
            (Some(sidecar), Some(token)) => {
                let (proxy, pass) = (sidecar.outbound, loopback::pass(token)?);
                Client::through(proxy, &upstream.identity, pass, limits).map_err(|error| {
                    ConfigError::invalid(
                        "service.upstreams",
                        &error.to_string(),
                        "a workload's name",
                        "name the workload as the mesh knows it",
                    )
                })?
            }
            _ => {
                let peer = self.config.workload(&upstream.identity)?;
                let tls = mesh_client_config(self.identity()?, peer).map_err(|error| {
                    ConfigError::invalid(
                        "service.identity",
                        &error.to_string(),
                        "an identity that can dial TLS 1.3",
                        "issue the identity again",
                    )
                })?;
                Client::mesh(upstream.address.clone(), tls, limits)
            }
        };
        Ok(client.named(name))
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

    pub fn is_shutting_down(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Begins the drain, as SIGTERM does.
    pub fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }
}

/// Loads the identity of `name`, which must be the one in the directory.
fn load_identity(
    directory: &Path,
    name: &str,
    expected: &SpiffeId,
) -> Result<Arc<IdentitySource>, StartError> {
    let identity = IdentitySource::load(directory)?;
    let seen = identity.spiffe_id();
    if seen == *expected {
        return Ok(identity);
    }
    Err(StartError::config(format!(
        "{} holds the identity {seen}, but this component is {expected}\n  fix: point service.identity at the directory of {name}",
        directory.display(),
    )))
}
