//! A few reader connections, each lent to one caller at a time.
//!
//! Owns: lending, returning and the snapshot of each read. Must not: write.
//! Read next: `writer.rs`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::error::StoreError;

pub(super) struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(connections: Vec<Connection>) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections.len())),
            idle: Mutex::new(connections),
        }
    }

    /// Lends a connection to `work` on a blocking thread. The connection comes back even when the
    /// caller is cancelled or `work` panics.
    pub(super) async fn run<T, E, F>(readers: &Arc<Self>, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let permit = Arc::clone(&readers.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Closed)?;
        let readers = Arc::clone(readers);
        spawn_blocking(move || {
            let connection = readers.take().ok_or(StoreError::Closed)?;
            let result = catch_unwind(AssertUnwindSafe(|| in_snapshot(&connection, work)))
                .unwrap_or_else(|_| Err(StoreError::JobPanicked.into()));
            readers.put_back(connection);
            drop(permit);
            result
        })
        .await
        .unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    fn take(&self) -> Option<Connection> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn put_back(&self, connection: Connection) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }
}

/// One deferred transaction, so that all statements of `work` see the same moment.
fn in_snapshot<T, E, F>(connection: &Connection, work: F) -> Result<T, E>
where
    E: From<StoreError>,
    F: FnOnce(&Connection) -> Result<T, E>,
{
    let snapshot = connection
        .unchecked_transaction()
        .map_err(StoreError::from)?;
    work(&snapshot)
}
