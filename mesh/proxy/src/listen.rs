//! Sockets: handed over by a supervisor (LISTEN_FDS), or bound here; and the loops that accept from them.
//!
//! Owns: the order of handed-over sockets (inbound…, outbound.http, outbound.tcp…, outbound.captured…, hbone, admin), so
//! that a new process can take over from an old one without a refused connection. Must not: read a byte.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use ringwall_data_path::listen::bind_each;
use ringwall_data_path::watch::Watch;
use ringwall_service::StartError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::inbound::{self, Inbound};
use crate::outbound;
use crate::serve::Gone;
use crate::worker::{Accepted, Worker};

/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket and what it is for.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: StdListener,
    pub(crate) role: Role,
}

/// Who connects to a listener, and what is done with them.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// Peers, over mTLS.
    Inbound(Arc<Inbound>),
    /// The application's HTTP.
    OutboundHttp,
    /// The application's opaque bytes for one service.
    OutboundTcp(Arc<outbound::TcpTarget>),
    /// Whatever the application dialled, led here by the kernel.
    Captured,
}

/// What is done with one connection, once it is known where it was going.
enum Purpose {
    Inbound(Arc<Inbound>),
    Http(outbound::Way),
    Tcp(Arc<outbound::TcpTarget>),
}

/// All sockets of the data path.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Of each listener, in the order of the configuration.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) per_worker: Vec<Vec<Listener>>,
    /// The admin listener's, where it was handed over too.
    pub(crate) admin: Option<StdListener>,
}

/// Takes over or binds every socket of `roles`, once per worker.
pub(crate) fn open(
    config: &Config,
    roles: Vec<(SocketAddr, Role)>,
    mut handed: ListenFd,
) -> Result<Sockets, StartError> {
    let workers = config.workers;
    check_count(handed.len(), &roles)?;
    let mut sockets = Sockets {
        addresses: Vec::with_capacity(roles.len()),
        per_worker: (0..workers).map(|_| Vec::new()).collect(),
        admin: handed.take_tcp_listener(roles.len())?,
    };
    for (index, (address, role)) in roles.into_iter().enumerate() {
        let (bound, each) = match handed.take_tcp_listener(index)? {
            Some(socket) => {
                check_address(&socket, index, address)?;
                shared_by(socket, workers)?
            }
            None => {
                bind_each(address, workers).map_err(|error| StartError::bind(address, &error))?
            }
        };
        sockets.addresses.push(bound);
        for (worker, socket) in sockets.per_worker.iter_mut().zip(each) {
            let role = role.clone();
            worker.push(Listener { socket, role });
        }
    }
    Ok(sockets)
}

/// Either nothing was handed over, or every listener of the data path was; the admin listener may come after them.
fn check_count(handed: usize, roles: &[(SocketAddr, Role)]) -> Result<(), StartError> {
    let declared = roles.len();
    if [0, declared, declared + 1].contains(&handed) {
        return Ok(());
    }
    let addresses: Vec<String> = roles.iter().map(|(at, _)| at.to_string()).collect();
    Err(StartError::config(format!(
        "LISTEN_FDS hands over {handed} sockets for {declared} listeners\n  expected: {} in this order, and after them \
         perhaps service.admin\n  fix: hand over the sockets of this configuration, or none",
        addresses.join(", ")
    )))
}

/// A socket of another configuration would be served as if it were ours.
fn check_address(
    socket: &StdListener,
    index: usize,
    declared: SocketAddr,
) -> Result<(), StartError> {
    let bound = socket.local_addr()?;
    if bound == declared || (declared.port() == 0 && bound.ip() == declared.ip()) {
        return Ok(());
    }
    Err(StartError::config(format!(
        "LISTEN_FDS: socket number {index} is bound to {bound}, and the configuration says {declared}\n  fix: hand over \
         the sockets in the order inbound, outbound.http, outbound.tcp, outbound.captured, hbone, service.admin"
    )))
}

/// A handed-over socket has one queue, from which all workers accept.
fn shared_by(
    socket: StdListener,
    workers: usize,
) -> std::io::Result<(SocketAddr, Vec<StdListener>)> {
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let mut each = Vec::with_capacity(workers);
    for _ in 1..workers {
        each.push(socket.try_clone()?);
    }
    each.push(socket);
    Ok((address, each))
}

/// Accepts until the task is ended.
pub(crate) async fn accept(worker: Arc<Worker>, listener: Listener) {
    let Listener { socket, role } = listener;
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "a listener could not be used");
            return;
        }
    };
    let handshakes = Arc::new(Semaphore::new(worker.shared.config.limits.max_handshakes));
    loop {
        // A storm of handshakes waits in the kernel, where it costs nothing.
        let Ok(handshake) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            Ok((stream, peer)) => begin(&worker, stream, peer, &role, handshake),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn begin(
    worker: &Arc<Worker>,
    socket: TcpStream,
    peer: SocketAddr,
    role: &Role,
    handshake: tokio::sync::OwnedSemaphorePermit,
) {
    let Some(permit) = worker.shared.permit() else {
        return;
    };
    // Without it a response in two writes waits for the peer's delayed acknowledgement.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection lost at accept");
        return;
    }
    let purpose = match role.clone() {
        Role::Inbound(inbound) => Purpose::Inbound(inbound),
        Role::OutboundHttp => Purpose::Http(outbound::Way::Named),
        Role::OutboundTcp(target) => Purpose::Tcp(target),
        Role::Captured => match outbound::captured(worker, &socket, peer) {
            Some(outbound::Led::Http(way)) => Purpose::Http(way),
            Some(outbound::Led::Tcp(target)) => Purpose::Tcp(target),
            None => return,
        },
    };
    let limits = &worker.shared.config.limits;
    let (first, stall) = match &purpose {
        Purpose::Inbound(_) => (limits.handshake_timeout, limits.stall_timeout),
        Purpose::Http(_) => (limits.idle_timeout, limits.stall_timeout),
        // Opaque bytes may be silent for as long as their ends like, unless somebody says otherwise.
        Purpose::Tcp(target) => (Duration::MAX, target.idle.unwrap_or(Duration::MAX)),
    };
    let watch = Arc::new(Watch::new(
        Arc::clone(&worker.clock),
        first,
        limits.idle_timeout,
        stall,
    ));
    let id = worker.next_id();
    let gone = Gone {
        worker: Arc::clone(worker),
        id,
    };
    let accepted = Accepted {
        worker: Arc::clone(worker),
        id,
        watch: Arc::clone(&watch),
        socket,
        peer,
        permit,
    };
    let task = match purpose {
        Purpose::Inbound(inbound) => tokio::spawn(async move {
            let _gone = gone;
            inbound::connection(accepted, inbound, handshake).await;
        }),
        Purpose::Http(way) => tokio::spawn(async move {
            let _gone = gone;
            drop(handshake);
            outbound::http(accepted, way).await;
        }),
        Purpose::Tcp(target) => tokio::spawn(async move {
            let _gone = gone;
            drop(handshake);
            outbound::tcp(accepted, target).await;
        }),
    };
    worker.watches.add(id, watch, task.abort_handle());
}
