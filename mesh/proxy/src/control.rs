//! The proxy's side of the control plane: what it knows, where from, and since when.
//!
//! Owns: [`State`], which every other part reads. Must not: decide about a request.
//! Read next: `snapshot.rs` for what is in the state; `control/machine.rs` for what becomes of a message; `control/client.rs`
//! for the connection; `control/saved.rs` for what survives this process.

mod client;
mod health;
mod machine;
mod open;
mod policy;
mod saved;
#[cfg(test)]
mod simulation;
mod usage;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use prometheus_client::metrics::gauge::Gauge;
use ringwall_http_io::Address;
use ringwall_identity::TrustDomain;
use ringwall_mesh_api::v1::Health;
use ringwall_service::Metrics;
use time::OffsetDateTime;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::snapshot::Snapshot;

pub(crate) use client::Client;
pub(crate) use health::{HealthCheck, Question};
pub(crate) use open::open;
pub(crate) use saved::Store;
pub(crate) use usage::{Counter, Usage};

use machine::Machine;

/// What the whole process shares of the control plane's knowledge.
pub(crate) struct State {
    /// Swapped whole; an old one lives until its requests end.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// Which policies decided, for the report of unused grants.
    pub(crate) usage: Usage,
    generation: watch::Sender<u64>,
    connected: AtomicBool,
    /// 0 while there is none.
    policy_version: AtomicU64,
    gauges: Gauges,
}

/// What `/metrics` says about the control plane; nothing that would need a label.
#[derive(Default)]
struct Gauges {
    connected: Gauge,
    since: Gauge,
    revision: Gauge,
    policy_version: Gauge,
}

/// What a [`Client`] needs.
pub(crate) struct Settings {
    pub(crate) domain: TrustDomain,
    /// Unique per process.
    pub(crate) instance: String,
    pub(crate) node: String,
    pub(crate) zone: String,
    /// Control planes, any of which will do.
    pub(crate) replicas: Vec<Channel>,
    /// What is registered; nothing for a proxy that serves nobody.
    pub(crate) endpoint: Option<Served>,
    /// `Unspecified` until the application has been asked once.
    pub(crate) health: watch::Receiver<Health>,
    /// The trust domain's JWT bundle (JWKS); empty while there is none.
    pub(crate) keys: watch::Receiver<Arc<[u8]>>,
    /// Without one, a restart knows nothing.
    pub(crate) store: Option<Store>,
    /// Random numbers, for pauses.
    pub(crate) chance: Box<dyn FnMut() -> u64 + Send>,
}

/// The endpoint that this proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) place: Place,
    /// Port of the application, as callers name it.
    pub(crate) port: u16,
    pub(crate) weight: u32,
}

/// Where other proxies dial this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    At(SocketAddr),
    /// At this port of the address from which the given one is reached.
    Towards(Address, u16),
}

impl Place {
    /// The address of now. No packet leaves: a datagram socket that is connected has only chosen its own address.
    async fn address(&self) -> io::Result<SocketAddr> {
        let (towards, port) = match self {
            Self::At(address) => return Ok(*address),
            Self::Towards(towards, port) => (towards, *port),
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for peer in tokio::net::lookup_host(towards.to_string()).await? {
            let any: SocketAddr = match peer {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any).await?;
            match socket.connect(peer).await {
                Ok(()) => return Ok(SocketAddr::new(socket.local_addr()?.ip(), port)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl State {
    /// A state that knows nothing, and under which everything is denied.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(Snapshot::empty()),
            usage: Usage::default(),
            generation: watch::Sender::new(0),
            connected: AtomicBool::new(false),
            policy_version: AtomicU64::new(0),
            gauges: Gauges::default(),
        })
    }

    /// Changes with every swap, after it: whoever wakes up reads the new snapshot. The number counts swaps of this
    /// process; the control plane's revision is in the snapshot.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Swaps the snapshot and wakes up everybody who watches.
    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Whether a control plane answers at present. The proxy decides either way.
    #[cfg(test)]
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Version of the policy in use; 0 while there is none.
    pub(crate) fn policy_version(&self) -> u64 {
        self.policy_version.load(Ordering::Relaxed)
    }

    /// For `/readyz`: a proxy without policy denies everything, and so is not ready.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match self.snapshot.load().policy {
            Some(_) => Ok(()),
            None => Err(
                "no policy has come from the control plane yet: everything is denied".to_owned(),
            ),
        }
    }

    fn register(&self, metrics: &Metrics) {
        let Gauges {
            connected,
            since,
            revision,
            policy_version,
        } = &self.gauges;
        for (name, help, gauge) in [
            (
                "mesh_control_connected",
                "1 while a control plane answers",
                connected,
            ),
            (
                "mesh_control_since_seconds",
                "Since when a control plane answers, or none does, in seconds since 1970",
                since,
            ),
            (
                "mesh_config_revision",
                "Revision of the configuration in use",
                revision,
            ),
            (
                "mesh_policy_version",
                "Version of the policy in use; 0: none, everything is denied",
                policy_version,
            ),
        ] {
            metrics.register(name, help, gauge.clone());
        }
    }

    fn publish_machine(&self, machine: &Machine) {
        self.policy_version
            .store(machine.policy_version().unwrap_or(0), Ordering::Relaxed);
        let snapshot = Arc::new(machine.snapshot());
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.gauges.policy_version.set(gauge(self.policy_version()));
        self.gauges.revision.set(gauge(snapshot.revision));
        self.publish(snapshot);
    }

    fn set_connected(&self, connected: bool) {
        if self.connected.swap(connected, Ordering::Relaxed) != connected {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            self.gauges.since.set(now);
        }
        self.gauges.connected.set(i64::from(connected));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_wakes_up_reads_the_new_snapshot() {
        let state = State::new();
        let mut watch = state.subscribe();
        let mut next = Snapshot::empty();
        next.revision = 7;
        state.publish(Arc::new(next));
        watch.changed().await.unwrap();
        assert_eq!(*watch.borrow_and_update(), 1);
        assert_eq!(state.snapshot.load().revision, 7);
    }

    #[tokio::test]
    async fn a_proxy_is_dialled_where_it_comes_from() {
        let towards = Place::Towards("localhost:7110".parse().unwrap(), 7105);
        let address = towards.address().await.unwrap();
        assert!(address.ip().is_loopback(), "{address}");
        assert_eq!(address.port(), 7105);
        let nowhere = Place::Towards("no-such-host.invalid:7110".parse().unwrap(), 7105);
        assert!(nowhere.address().await.is_err());
    }

    #[test]
    fn r32_a_new_state_denies_everything() {
        let state = State::new();
        let snapshot = state.snapshot.load();
        assert!(snapshot.policy.is_none());
        assert!(snapshot.services.is_empty());
        assert!(state.ready().unwrap_err().contains("everything is denied"));
    }
}
