//! What agents must know without asking: roots, token keys, revocations, and the workloads of their
//! node. Whole at first, and whole again after each change.
//!
//! Owns: putting these together for one node, and the stream of it.
//! Must not: lag. A revocation is on its way as soon as it is in force.
//! Read next: `authority/revocation.rs`, `authority/jwt_keys.rs`, `registry/reload.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringwall_identity::SpiffeId;
use ringwall_mesh_api::v1;
use ringwall_service::Shell;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Authority;
use super::issuer::Material;
use super::jwt_keys::Active;
use super::revocation::RevocationSet;
use crate::error::Error;
use crate::registry::reload::Declared;

/// Answers that wait for a slow agent. Each is whole: one that waits is as good as many.
const WAITING: usize = 1;
/// Streams at the same time.
const MAX_STREAMS: u64 = 4096;

/// All streams of this process. Clones share the counts.
#[derive(Clone)]
pub(crate) struct Trust {
    shell: Shell,
    revision: Arc<AtomicU64>,
    streams: Arc<AtomicU64>,
}

/// What one agent is told of.
struct Watched {
    node: String,
    issuer: watch::Receiver<Arc<Material>>,
    jwt_keys: watch::Receiver<Arc<Active>>,
    revocations: watch::Receiver<Arc<RevocationSet>>,
    declared: watch::Receiver<Arc<Declared>>,
    revision: Arc<AtomicU64>,
}

/// One stream's place among [`MAX_STREAMS`].
struct Place(Arc<AtomicU64>);

impl Trust {
    /// Revisions grow over restarts too: they begin with the time.
    pub(crate) fn new(shell: Shell, now: OffsetDateTime) -> Self {
        let begin = u64::try_from(now.unix_timestamp()).unwrap_or(0) * 1000;
        Self {
            shell,
            revision: Arc::new(AtomicU64::new(begin)),
            streams: Arc::default(),
        }
    }

    /// The stream of the agent `id` of `node`. It ends when the agent is revoked, when its node is
    /// declared no more, after the life of an SVID (whoever has no newer one then does not get the
    /// next stream), and when this process drains: then the agent asks another replica.
    pub(crate) fn watch(
        &self,
        authority: &Authority,
        id: SpiffeId,
        node: &str,
    ) -> Result<ReceiverStream<Result<v1::Trust, Status>>, Error> {
        let place = Place(Arc::clone(&self.streams));
        if place.0.fetch_add(1, Ordering::Relaxed) >= MAX_STREAMS {
            return Err(Error::TooMany(format!(
                "{MAX_STREAMS} agents are watching already"
            )));
        }
        let mut watched = Watched {
            node: node.to_owned(),
            issuer: authority.issuer.subscribe(),
            jwt_keys: authority.jwt_keys.subscribe(),
            revocations: authority.revocations.subscribe(),
            declared: authority.declared.clone(),
            revision: Arc::clone(&self.revision),
        };
        let (answers, stream) = mpsc::channel(WAITING);
        let draining = self.shell.shutdown();
        let life = authority.lives.svid;
        tokio::spawn(async move {
            let _place = place;
            let over = tokio::time::sleep(life);
            tokio::pin!(draining, over);
            loop {
                let next = watched.next(&id);
                let ends = next.is_err();
                if answers.send(next).await.is_err() || ends {
                    return;
                }
                tokio::select! {
                    () = answers.closed() => return,
                    () = &mut draining => return,
                    () = &mut over => return,
                    changed = watched.changed() => if !changed { return },
                }
            }
        });
        Ok(ReceiverStream::new(stream))
    }
}

impl Watched {
    fn next(&mut self, id: &SpiffeId) -> Result<v1::Trust, Status> {
        let revocations = self.revocations.borrow_and_update().clone();
        if revocations.ids.contains(id) {
            return Err(Error::denied(format!("{id} is revoked")).into());
        }
        let declared = self.declared.borrow_and_update().clone();
        if !declared.registry.has_node(&self.node) {
            return Err(Error::denied("the node is not declared").into());
        }
        let material = self.issuer.borrow_and_update().clone();
        let keys = self.jwt_keys.borrow_and_update().clone();
        Ok(v1::Trust {
            revision: self.revision.fetch_add(1, Ordering::Relaxed),
            bundle: material.roots.iter().map(|der| der.to_vec()).collect(),
            jwt_keys: keys.jwks.clone(),
            revocations: Some(revocations.wire.clone()),
            registrations: declared.registry.registrations(&self.node),
        })
    }

    /// Waits for any change; `false` when there will be none.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.revocations.changed() => changed.is_ok(),
            changed = self.issuer.changed() => changed.is_ok(),
            changed = self.jwt_keys.changed() => changed.is_ok(),
            changed = self.declared.changed() => changed.is_ok(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
