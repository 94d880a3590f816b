//! What the kernel of a node lets its workloads connect to: the edges of the policy, with the addresses behind them.
//!
//! Owns: the view of a node, and the stream of it to the node's agent. Must not: judge health. An address stays reachable
//! while its proxy is not ready: the caller's own proxy answers then, with words, where the kernel could only refuse.

use std::collections::BTreeSet;
use std::time::Duration;

use ringwall_identity::SpiffeId;
use ringwall_mesh_api::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::hub::Hub;
use super::world::World;

/// Answers that wait for a slow agent. Each is whole: one that waits is as good as many.
const WAITING: usize = 1;

impl World {
    /// What workloads that may run on `node` may connect to, in order.
    pub(super) fn reach(&self, node: &str) -> v1::Reach {
        let edges = self.edges().iter();
        let edges = edges.filter(|edge| self.runs_on(&edge.caller, node));
        let services = edges.filter_map(|edge| {
            let declared = self.ports(&edge.callee)?;
            let allowed = |port: u32| {
                let port = u16::try_from(port).unwrap_or_default();
                let named = edge.ports.is_empty() || edge.ports.contains(&port);
                named && declared.contains(&port)
            };
            let places = self.places(&edge.callee);
            let places = places.into_iter().filter(|(_, port)| allowed(*port));
            let addresses: BTreeSet<String> = places.map(|(address, _)| address).collect();
            Some(v1::ReachableService {
                caller: edge.caller.clone(),
                callee: edge.callee.clone(),
                addresses: addresses.into_iter().collect(),
            })
        });
        let mut services: Vec<_> = services.collect();
        services.sort_by(|a, b| (&a.caller, &a.callee).cmp(&(&b.caller, &b.callee)));
        v1::Reach { services }
    }
}

impl Hub {
    /// The stream of the agent `id` of `node`. It ends after `life`, with the leadership, and with the agent's right to it.
    pub(crate) fn watch_reach(
        &self,
        id: SpiffeId,
        node: String,
        life: Duration,
    ) -> ReceiverStream<Result<v1::Reach, Status>> {
        let (answers, stream) = mpsc::channel(WAITING);
        let hub = self.clone();
        tokio::spawn(async move {
            let mut changed = hub.subscribe();
            let over = tokio::time::sleep(life);
            tokio::pin!(over);
            let mut said = None;
            loop {
                changed.borrow_and_update();
                let next = hub.reach(&id, &node);
                let ends = next.is_err();
                let news = next.as_ref().ok() != said.as_ref();
                if ends || news {
                    said = next.as_ref().ok().cloned();
                    if answers.send(next).await.is_err() || ends {
                        return;
                    }
                }
                tokio::select! {
                    () = answers.closed() => return,
                    () = &mut over => return,
                    moved = changed.changed() => if moved.is_err() { return },
                }
            }
        });
        ReceiverStream::new(stream)
    }
}
