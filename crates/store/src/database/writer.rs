//! The one writer: group commit.
//!
//! Owns: the order of writes, their transactions, and the moment of each reply.
//! Must not: reply `Ok` before the commit, or let one job's failure reach another job.
//! Read next: `readers.rs`.
//!
//! A batch is what waits when the writer is free, at most `StoreLimits::batch` jobs. Alone, a
//! caller pays one fsync; under load, up to 256 callers share it. Each job runs in a savepoint.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;

/// Work that waits for the writer thread.
pub(super) trait Job: Send {
    /// Runs in a savepoint of the open transaction.
    fn run(self: Box<Self>, connection: &mut Connection) -> Box<dyn Reply>;
    /// Answers without running.
    fn refuse(self: Box<Self>, error: StoreError);
}

/// A finished job that waits for its commit.
pub(super) trait Reply: Send {
    /// Answers the caller; `Err` says why the transaction was not committed.
    fn send(self: Box<Self>, committed: Result<(), &str>);
}

/// A caller's closure with the channel for its answer.
pub(super) struct WriteJob<T, E, F, A> {
    pub(super) work: F,
    pub(super) after_commit: A,
    pub(super) reply: oneshot::Sender<Result<T, E>>,
}

struct WriteReply<T, E, A> {
    result: Result<T, E>,
    after_commit: A,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F, A> Job for WriteJob<T, E, F, A>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
    F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    A: FnOnce(&T) + Send + 'static,
{
    fn run(self: Box<Self>, connection: &mut Connection) -> Box<dyn Reply> {
        let Self {
            work,
            after_commit,
            reply,
        } = *self;
        Box::new(WriteReply {
            result: in_savepoint(connection, work),
            after_commit,
            reply,
        })
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        // A caller that went away needs no answer.
        let _ = self.reply.send(Err(error.into()));
    }
}

impl<T, E, A> Reply for WriteReply<T, E, A>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
    A: FnOnce(&T) + Send + 'static,
{
    fn send(self: Box<Self>, committed: Result<(), &str>) {
        let Self {
            result,
            after_commit,
            reply,
        } = *self;
        let answer = match (committed, result) {
            (Ok(()), Ok(value)) => {
                after_commit(&value);
                Ok(value)
            }
            (Err(reason), Ok(_)) => Err(StoreError::Commit(reason.to_owned()).into()),
            // The job was rolled back by itself; the fate of the others does not matter to it.
            (_, Err(error)) => Err(error),
        };
        let _ = reply.send(answer);
    }
}

/// The writer thread: ends when every [`super::Database`] handle is gone and the queue is empty.
pub(super) fn run(
    mut connection: Connection,
    mut queue: mpsc::Receiver<Box<dyn Job>>,
    batch_limit: usize,
) {
    let mut replies = Vec::with_capacity(batch_limit);
    while let Some(first) = queue.blocking_recv() {
        if let Err(error) = connection.execute_batch("BEGIN IMMEDIATE") {
            first.refuse(error.into());
            continue;
        }
        let mut next = Some(first);
        while let Some(job) = next.take() {
            replies.push(job.run(&mut connection));
            // SQLite ends the whole transaction by itself on a full disk or an I/O error.
            if connection.is_autocommit() {
                break;
            }
            if replies.len() < batch_limit {
                next = queue.try_recv().ok();
            }
        }
        let committed = commit(&connection);
        for reply in replies.drain(..) {
            // `after_commit` is code of this crate, but a panic must not end the only writer.
            let sent = catch_unwind(AssertUnwindSafe(|| {
                reply.send(committed.as_ref().map(|&()| ()).map_err(String::as_str));
            }));
            if sent.is_err() {
                tracing::error!("a reply to a committed write panicked");
            }
        }
    }
}

fn commit(connection: &Connection) -> Result<(), String> {
    if connection.is_autocommit() {
        return Err("the database ended the transaction after an earlier error".to_owned());
    }
    connection.execute_batch("COMMIT").map_err(|error| {
        tracing::error!(%error, "a commit failed");
        if !connection.is_autocommit()
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the rollback of a failed commit failed");
        }
        error.to_string()
    })
}

/// Runs `work` in a savepoint that is released on `Ok` and rolled back on `Err` or a panic.
fn in_savepoint<T, E, F>(connection: &mut Connection, work: F) -> Result<T, E>
where
    E: From<StoreError>,
    F: FnOnce(&Connection) -> Result<T, E>,
{
    let savepoint = connection.savepoint().map_err(StoreError::from)?;
    // The savepoint is rolled back on a panic, so no half-made state can be seen afterwards.
    let value = catch_unwind(AssertUnwindSafe(|| work(&savepoint)))
        .unwrap_or_else(|_| Err(StoreError::JobPanicked.into()))?;
    savepoint.commit().map_err(StoreError::from)?;
    Ok(value)
}
