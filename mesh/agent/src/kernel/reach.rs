//! What workloads may reach, from the control plane to the kernel's maps.
//!
//! Owns: the stream of it, and its last good state on disk, so that a node whose control plane is away starts with it. An
//! address that a service has left is kept while nobody else has it: its caller's proxy answers there with words, where the
//! kernel could only refuse. Must not: keep an edge that was taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use ringwall_mesh_api::v1;
use ringwall_secret::private_file;
use tokio::sync::watch;

use super::Shared;
use super::groups::Named;
use crate::error::AgentError;
use crate::plane::ControlPlane;

/// File below the state directory. Nothing in it is secret.
const FILE: &str = "reach.bin";
/// Addresses of one service that are remembered.
const MAX_ADDRESSES: usize = 1024;
/// Pauses between attempts to open the stream.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Edges and the addresses behind them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    services: BTreeMap<String, BTreeSet<SocketAddr>>,
    edges: BTreeSet<(String, String)>,
}

impl Known {
    /// Takes the next state over.
    fn update(&mut self, reach: &v1::Reach) -> Result<(), AgentError> {
        let mut services: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
        let mut edges = BTreeSet::new();
        for one in &reach.services {
            edges.insert((one.caller.clone(), one.callee.clone()));
            let addresses = services.entry(one.callee.clone()).or_default();
            for address in &one.addresses {
                let address = address
                    .parse()
                    .map_err(|_| AgentError::Answer("an address that is none"))?;
                addresses.insert(address);
            }
        }
        let taken: BTreeSet<SocketAddr> = services.values().flatten().copied().collect();
        for (name, addresses) in &mut services {
            let before = self.services.remove(name).unwrap_or_default();
            let left = before
                .into_iter()
                .filter(|address| !taken.contains(address));
            let room = MAX_ADDRESSES.saturating_sub(addresses.len());
            addresses.extend(left.take(room));
        }
        *self = Self { services, edges };
        Ok(())
    }

    /// Makes it what the kernel knows. Edges go first, so that none leads to a new address for a moment.
    fn apply(&self, kernel: &Shared, named: &Named) -> Result<(), ringwall_ebpf_loader::Error> {
        let mut kernel = kernel.lock();
        let edges = self.edges.iter();
        kernel.set_edges(edges.map(|(caller, callee)| (caller.as_str(), callee.as_str())))?;
        let lists: Vec<(&str, Vec<SocketAddr>)> = self
            .services
            .iter()
            .map(|(name, addresses)| {
                let looked_up = named.get(name).into_iter().flatten();
                let all: BTreeSet<SocketAddr> =
                    addresses.iter().chain(looked_up).copied().collect();
                (name.as_str(), all.into_iter().collect())
            })
            .collect();
        kernel.set_services(lists.iter().map(|(name, list)| (*name, list.as_slice())))
    }
}

/// Follows the control plane.
pub(super) struct Follower {
    kernel: Shared,
    file: PathBuf,
    known: Known,
    told: watch::Sender<bool>,
    named: watch::Receiver<Named>,
}

impl Follower {
    /// Begins with the last good state on disk.
    pub(super) fn open(kernel: Shared, state: &Path, named: watch::Receiver<Named>) -> Self {
        let mut follower = Self {
            kernel,
            file: state.join(FILE),
            known: Known::default(),
            told: watch::Sender::new(false),
            named,
        };
        let saved = match follower.file.exists() {
            true => private_file::read(&follower.file).map_err(AgentError::from),
            false => return follower,
        };
        let decoded = saved.and_then(|bytes| {
            v1::Reach::decode(bytes.expose().as_slice())
                .map_err(|_| AgentError::Answer("what was last reachable is damaged"))
        });
        match decoded {
            Ok(reach) => follower.take(&reach, false),
            Err(error) => tracing::warn!(%error, "what was last reachable cannot be read"),
        }
        follower
    }

    /// Whether the kernel has been told anything.
    pub(super) fn known(&self) -> watch::Receiver<bool> {
        self.told.subscribe()
    }

    /// Follows for ever.
    pub(super) async fn run(mut self, plane: ControlPlane) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.stream(&plane, &mut pause).await {
                Ok(()) => tracing::debug!("the stream of what may be reached has ended"),
                Err(error) => tracing::warn!(
                    %error,
                    "no news of what may be reached; the kernel goes on as it is"
                ),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn stream(
        &mut self,
        plane: &ControlPlane,
        pause: &mut Duration,
    ) -> Result<(), AgentError> {
        let mut stream = plane.watch_reach().await?;
        loop {
            let Some(reach) = self.next(&mut stream).await? else {
                return Ok(());
            };
            self.take(&reach, true);
            *pause = FIRST_PAUSE;
        }
    }

    /// The next message; meanwhile names that come to stand for something else are followed.
    async fn next(
        &mut self,
        stream: &mut tonic::Streaming<v1::Reach>,
    ) -> Result<Option<v1::Reach>, AgentError> {
        loop {
            let Self { named, .. } = self;
            let changed = async {
                if named.changed().await.is_err() {
                    // Nobody looks anything up here.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                message = stream.message() => return Ok(message?),
                () = changed => {
                    self.apply();
                }
            }
        }
    }

    fn apply(&mut self) -> bool {
        let named = self.named.borrow_and_update().clone();
        if let Err(error) = self.known.apply(&self.kernel, &named) {
            tracing::error!(%error, "the kernel's maps are not what the policy says: what is not in them is refused");
            return false;
        }
        true
    }

    /// One that is not usable leaves the last good one in force.
    fn take(&mut self, reach: &v1::Reach, keep: bool) {
        if let Err(error) = self.known.update(reach) {
            tracing::error!(%error, "refused; the kernel goes on as it is");
            return;
        }
        if !self.apply() {
            return;
        }
        self.told.send_replace(true);
        tracing::info!(
            edges = self.known.edges.len(),
            services = self.known.services.len(),
            "the kernel knows what may be reached"
        );
        if keep && let Err(error) = private_file::write(&self.file, &reach.encode_to_vec()) {
            tracing::warn!(%error, "what may be reached cannot be kept for the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(services: &[(&str, &str, &[&str])]) -> v1::Reach {
        let one = |(caller, callee, addresses): &(&str, &str, &[&str])| v1::ReachableService {
            caller: (*caller).to_owned(),
            callee: (*callee).to_owned(),
            addresses: addresses.iter().map(|&text| text.to_owned()).collect(),
        };
        v1::Reach {
            services: services.iter().map(one).collect(),
        }
    }

    fn addresses(known: &Known, service: &str) -> Vec<String> {
        let list = known.services.get(service).into_iter().flatten();
        list.map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_is_kept_until_somebody_else_has_it() {
        let mut known = Known::default();
        let orders = ("gateway", "orders");
        known
            .update(&reach(&[(orders.0, orders.1, &["127.0.0.1:7105"])]))
            .unwrap();
        known.update(&reach(&[(orders.0, orders.1, &[])])).unwrap();
        assert_eq!(addresses(&known, "orders"), ["127.0.0.1:7105"]);
        let thief = ("gateway", "payments", &["127.0.0.1:7105"][..]);
        known
            .update(&reach(&[(orders.0, orders.1, &[]), thief]))
            .unwrap();
        assert_eq!(addresses(&known, "orders"), [""; 0]);
        assert_eq!(addresses(&known, "payments"), ["127.0.0.1:7105"]);
    }

    #[test]
    fn an_edge_that_goes_takes_its_service_along() {
        let mut known = Known::default();
        known
            .update(&reach(&[("gateway", "orders", &["127.0.0.1:7105"])]))
            .unwrap();
        known.update(&reach(&[])).unwrap();
        assert_eq!(known, Known::default());
    }

    #[test]
    fn what_is_no_address_changes_nothing() {
        let mut known = Known::default();
        known
            .update(&reach(&[("gateway", "orders", &["127.0.0.1:7105"])]))
            .unwrap();
        let refused = known.update(&reach(&[("gateway", "orders", &["orders:7105"])]));
        assert!(refused.is_err());
        assert_eq!(addresses(&known, "orders"), ["127.0.0.1:7105"]);
    }
}
