//! From the proxy's configuration to a client of the control plane.
//!
//! Owns: which control planes are asked, what is registered, and where keys come from. Must not: connect.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ringwall_identity::TrustDomain;
use ringwall_mesh_api::v1::Health;
use ringwall_service::config::IdentityFrom;
use ringwall_service::{ConfigError, Shell, StartError};
use ringwall_workload_api::jwt_bundle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use uuid::Uuid;

use super::{Client, HealthCheck, Place, Question, Served, Settings, State, Store, health};
use crate::config::{Advertise, Config};
use crate::snapshot::Protocol;

/// Name of the upstream, and what the names of further replicas begin with (`control-plane-2`).
const CONTROL_PLANE: &str = "control-plane";
/// For the first keys, so that a saved policy is verified with what is trusted now.
const FIRST_KEYS: Duration = Duration::from_secs(2);
/// Of one attempt to get keys from the agent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the identity is a directory, the file beside it that has the trust domain's JWT bundle, and how often it is read.
const KEYS_FILE: &str = "jwks.json";
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Longest key set that is read, in bytes.
const MAX_KEYS: u64 = 256 * 1024;
/// Weight of an ordinary endpoint.
const WEIGHT: u32 = 100;

/// Opens the last good state, from which the proxy decides until the control plane answers.
///
/// # Errors
/// When no control plane is declared, or a secret is missing.
pub(crate) async fn open(
    shell: &Shell,
    config: &Config,
    state: Arc<State>,
) -> Result<Client, StartError> {
    state.register(&shell.metrics);
    let domain = shell.spiffe_id().trust_domain().clone();
    let mut keys = keys(&shell.config.identity, &domain).await;
    let first = timeout(FIRST_KEYS, keys.wait_for(|keys| !keys.is_empty())).await;
    let missing = !matches!(first, Ok(Ok(_)));
    drop(first);
    if missing {
        tracing::warn!(
            "no keys of the trust domain yet: policies can only be verified with saved ones"
        );
    }
    let store = match &shell.config.state {
        Some(_) => Some(Store::new(&shell.state_dir()?, shell.spiffe_id())),
        None => {
            tracing::warn!(
                "without `service.state`, a restart while the control plane is away denies everything"
            );
            None
        }
    };
    let settings = Settings {
        domain,
        instance: Uuid::new_v4().to_string(),
        node: config.node.clone(),
        zone: config.zone.clone(),
        replicas: replicas(shell)?,
        endpoint: endpoint(shell, config),
        health: watch_health(shell, config)?,
        keys,
        store,
        chance: Box::new(|| Uuid::new_v4().as_u64_pair().1),
    };
    Ok(Client::open(settings, state))
}

fn replicas(shell: &Shell) -> Result<Vec<Channel>, ConfigError> {
    let names = shell.config.upstreams.keys().filter(|name| {
        let rest = name.strip_prefix(CONTROL_PLANE);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    });
    let channels: Vec<Channel> = names
        .map(|name| shell.grpc(name))
        .collect::<Result<_, _>>()?;
    if channels.is_empty() {
        // The error of the missing upstream says how to declare it.
        return shell.grpc(CONTROL_PLANE).map(|channel| vec![channel]);
    }
    Ok(channels)
}

fn endpoint(shell: &Shell, config: &Config) -> Option<Served> {
    let inbound = config.inbound.first()?;
    let port = inbound.listen.port();
    let plane = shell.config.upstreams.get(CONTROL_PLANE);
    let place = match (config.advertise, plane) {
        (Advertise::Address(ip), _) => Place::At(SocketAddr::new(ip, port)),
        (Advertise::Auto, Some(plane)) => Place::Towards(plane.address.clone(), port),
        // Validation has refused a proxy without a control plane.
        (Advertise::Auto, None) => return None,
    };
    Some(Served {
        place,
        port: inbound.port,
        weight: WEIGHT,
    })
}

fn watch_health(shell: &Shell, config: &Config) -> Result<watch::Receiver<Health>, StartError> {
    let Some(check) = health_check(shell, config)? else {
        // Nothing stands behind it: an egress gateway is ready when it runs. The value outlives its sender.
        return Ok(watch::Sender::new(Health::Ready).subscribe());
    };
    let (sender, receiver) = watch::channel(Health::Unspecified);
    tokio::spawn(health::watch(check, sender));
    Ok(receiver)
}

fn health_check(shell: &Shell, config: &Config) -> Result<Option<HealthCheck>, StartError> {
    if config.egress.is_some() {
        return Ok(None);
    }
    let token = config.loopback_token.as_deref();
    let token = token
        .map(|name| shell.secrets.get_string(name).map(Arc::new))
        .transpose()?;
    let get = |path: &str| Question::Get {
        path: path.to_owned(),
        own: shell.spiffe_id(),
        token,
    };
    if let Some(health) = &config.health {
        let question = health.path.as_deref().map_or(Question::Connect, get);
        let address = health.address;
        return Ok(Some(HealthCheck { address, question }));
    }
    let admin = config.inbound.get(1);
    let admin = admin.filter(|inbound| Protocol::from(inbound.protocol) == Protocol::Http);
    let check = match (admin, config.inbound.first()) {
        (Some(admin), _) => Some(HealthCheck {
            address: admin.app,
            question: get("/readyz"),
        }),
        (None, Some(first)) => Some(HealthCheck {
            address: first.app,
            question: Question::Connect,
        }),
        (None, None) => None,
    };
    Ok(check)
}

/// The trust domain's JWT bundle, as it changes; empty until it is there.
async fn keys(identity: &IdentityFrom, domain: &TrustDomain) -> watch::Receiver<Arc<[u8]>> {
    let (sender, receiver) = watch::channel(Arc::from([]));
    match identity {
        IdentityFrom::WorkloadApi(socket) => {
            tokio::spawn(from_agent(socket.clone(), domain.clone(), sender));
        }
        IdentityFrom::Directory(directory) => {
            let path = directory.join(KEYS_FILE);
            // Without the file there is nothing to wait for: an empty answer ends the wait for the first keys.
            match read(&path).await {
                Some(keys) => replace(&sender, keys),
                None => return receiver,
            }
            tokio::spawn(from_file(path, sender));
        }
        IdentityFrom::Own | IdentityFrom::Proxy => {}
    }
    receiver
}

async fn from_agent(
    socket: std::path::PathBuf,
    domain: TrustDomain,
    sender: watch::Sender<Arc<[u8]>>,
) {
    while !sender.is_closed() {
        let mut keys = match jwt_bundle(&socket, &domain, PATIENCE).await {
            Ok(keys) => keys,
            Err(error) => {
                tracing::error!(%error, "no keys of the trust domain");
                continue;
            }
        };
        loop {
            let current = Arc::clone(&keys.borrow_and_update());
            replace(&sender, current);
            tokio::select! {
                changed = keys.changed() => if changed.is_err() { break },
                () = sender.closed() => return,
            }
        }
    }
}

async fn from_file(path: std::path::PathBuf, sender: watch::Sender<Arc<[u8]>>) {
    loop {
        if let Some(keys) = read(&path).await {
            replace(&sender, keys);
        }
        tokio::select! {
            () = sleep(READ_AGAIN) => {}
            () = sender.closed() => return,
        }
    }
}

/// Public keys: the file need not be private, but it must be short.
async fn read(path: &Path) -> Option<Arc<[u8]>> {
    let length = tokio::fs::metadata(path).await.ok()?.len();
    if length > MAX_KEYS {
        tracing::error!(path = %path.display(), length, "the key set is too long");
        return None;
    }
    tokio::fs::read(path).await.ok().map(Arc::from)
}

fn replace(sender: &watch::Sender<Arc<[u8]>>, keys: Arc<[u8]>) {
    sender.send_if_modified(|current| {
        let differs = *current != keys;
        *current = keys;
        differs
    });
}
