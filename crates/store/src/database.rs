//! One SQLite file: opening, migrating, durable writes, snapshot reads.
//!
//! Owns: [`Database`], its limits and the connection settings. Must not: interpret what is stored.
//! Read next: `database/writer.rs` (group commit), `database/readers.rs`, `database/migrate.rs`.

mod migrate;
mod readers;
mod writer;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use self::readers::Readers;
use self::writer::{Job, WriteJob};
use crate::error::StoreError;

/// The named limits of one database. The defaults suit a small service: about 4 MiB of page cache.
#[derive(Debug, Clone)]
pub struct StoreLimits {
    /// Connections that read at the same time (each has its own page cache).
    pub readers: usize,
    /// Writes that may wait for the writer thread.
    pub queue: usize,
    /// How long a caller may wait for a place in that queue.
    pub queue_wait: Duration,
    /// Jobs that share one transaction at most.
    pub batch: usize,
    /// How long SQLite waits for another process that holds the file.
    pub busy_timeout: Duration,
    /// Page cache of the writer, in KiB.
    pub writer_cache_kib: u32,
    /// Page cache of each reader, in KiB.
    pub reader_cache_kib: u32,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            readers: 2,
            queue: 1024,
            queue_wait: Duration::from_secs(5),
            batch: 256,
            busy_timeout: Duration::from_secs(5),
            writer_cache_kib: 2048,
            reader_cache_kib: 1024,
        }
    }
}

/// A handle to one open database file; clones share the writer and the readers.
#[derive(Clone)]
pub struct Database {
    jobs: mpsc::Sender<Box<dyn Job>>,
    readers: Arc<Readers>,
    queue_wait: Duration,
}

impl Database {
    /// Opens (or creates, mode 0600) the file and brings its schema to `migrations.len()`.
    ///
    /// The file is in WAL mode with `synchronous=FULL`: a commit is on the disk before it is
    /// reported. Migrations are numbered from 1 by their position; never edit one that has shipped.
    ///
    /// # Errors
    /// [`StoreError::CreateFile`], [`StoreError::Open`], [`StoreError::Migrate`],
    /// [`StoreError::NewerSchema`] when the file belongs to a newer program, and
    /// [`StoreError::StartWriter`].
    pub fn open(
        path: impl AsRef<Path>,
        migrations: &[&str],
        limits: StoreLimits,
    ) -> Result<Self, StoreError> {
        let path = path.as_ref();
        create_private(path)?;
        let mut writer = connect(path, &limits, limits.writer_cache_kib, false)?;
        migrate::migrate(&mut writer, path, migrations)?;
        let readers = (0..limits.readers.max(1))
            .map(|_| connect(path, &limits, limits.reader_cache_kib, true))
            .collect::<Result<Vec<_>, _>>()?;

        let (jobs, queue) = mpsc::channel(limits.queue.max(1));
        let batch = limits.batch.max(1);
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(writer, queue, batch))
            .map_err(StoreError::StartWriter)?;
        Ok(Self {
            jobs,
            readers: Arc::new(Readers::new(readers)),
            queue_wait: limits.queue_wait,
        })
    }

    /// Runs `work` in its own savepoint and returns after the commit: `Ok` means durable.
    ///
    /// Several callers share one transaction; an error or a panic of one rolls back that one
    /// alone. Cancelling the future does not undo a write that was already queued.
    ///
    /// # Errors
    /// [`StoreError::Sql`] when `work` fails, [`StoreError::Commit`] when the disk does,
    /// [`StoreError::Overloaded`] when the queue stays full.
    pub async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.try_write(move |tx| work(tx).map_err(StoreError::from))
            .await
    }

    /// Like [`Database::write`] with the caller's own error type: an `Err` rolls `work` back.
    ///
    /// # Errors
    /// What `work` returns, or a [`StoreError`] turned into `E`.
    pub async fn try_write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        self.try_write_then(work, |_: &T| {}).await
    }

    /// Like [`Database::try_write`]; the writer thread calls `after_commit` once the write is
    /// durable, even when the caller has gone away by then.
    pub(crate) async fn try_write_then<T, E, F, A>(&self, work: F, after_commit: A) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(WriteJob {
            work,
            after_commit,
            reply,
        });
        match self.jobs.send_timeout(job, self.queue_wait).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                return Err(StoreError::Overloaded(self.queue_wait).into());
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(StoreError::Closed.into()),
        }
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// Runs `work` on a reader connection; all its statements see one snapshot.
    ///
    /// # Errors
    /// [`StoreError::Sql`] when `work` fails or tries to write, [`StoreError::JobPanicked`].
    pub async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.try_read(move |snapshot| work(snapshot).map_err(StoreError::from))
            .await
    }

    /// Whether the file can be read: for readiness checks.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.read(|snapshot| snapshot.query_row("SELECT 1", [], |_| Ok(())))
            .await
    }

    /// Like [`Database::read`] with the caller's own error type.
    ///
    /// # Errors
    /// What `work` returns, or a [`StoreError`] turned into `E`.
    pub async fn try_read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        Readers::run(&self.readers, work).await
    }
}

/// Creates the file with mode 0600, so that SQLite gives `-wal` and `-shm` the same mode.
fn create_private(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map(|_| ())
        .map_err(|source| StoreError::CreateFile {
            path: path.to_owned(),
            source,
        })
}

fn connect(
    path: &Path,
    limits: &StoreLimits,
    cache_kib: u32,
    read_only: bool,
) -> Result<Connection, StoreError> {
    configure(path, limits, cache_kib, read_only).map_err(|source| StoreError::Open {
        path: path.to_owned(),
        source,
    })
}

fn configure(
    path: &Path,
    limits: &StoreLimits,
    cache_kib: u32,
    read_only: bool,
) -> rusqlite::Result<Connection> {
    // Each connection is used by one thread at a time, so SQLite needs no mutex of its own.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(limits.busy_timeout)?;
    // The answer is the resulting mode; "memory" or "delete" would mean that WAL is impossible
    // here, for instance on a network file system, and then commits are not what they claim.
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "journal_mode stayed {mode:?}; this file system cannot hold a WAL database"
        )));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Sorts and the journals of large statements stay in memory: in a container with a read-only root there
    // is no folder for temporary files, and the statement would fail with a disk I/O error.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Bounds what a burst leaves behind on the disk after the next checkpoint (16 MiB).
    connection.pragma_update_and_check(None, "journal_size_limit", 16 << 20, |_| Ok(()))?;
    connection.set_prepared_statement_cache_capacity(64);
    if read_only {
        connection.pragma_update(None, "query_only", true)?;
    }
    Ok(connection)
}

#[cfg(test)]
mod tests;
