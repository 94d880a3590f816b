//! What can go wrong in a store, named by the step that failed.
//!
//! Owns: the one error type of this crate. Must not: carry secrets or row contents.
//! Read next: `database.rs`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Any failure of this crate.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file could not be created with its private mode.
    #[error("cannot create the database file {path}: {source}")]
    CreateFile {
        /// The database file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// SQLite refused to open or to configure the file.
    #[error("cannot open the database {path}: {source}")]
    Open {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The writer thread could not be started.
    #[error("cannot start the writer thread: {0}")]
    StartWriter(io::Error),
    /// A migration failed; the file keeps the schema of the migration before it.
    #[error("migration {number} of {path} failed: {source}")]
    Migrate {
        /// The database file (or the PostgreSQL database).
        path: String,
        /// The number of the migration, from 1.
        number: usize,
        /// What the database said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file was written by a newer version of the program.
    #[error(
        "{path} has schema version {found}, this program knows versions up to {known}: \
         start the newer program, or restore the backup that belongs to this one"
    )]
    NewerSchema {
        /// The database file (or the PostgreSQL database).
        path: String,
        /// The version in the file.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The bounded write queue stayed full for as long as a caller may wait.
    #[error("the write queue stayed full for {0:?}")]
    Overloaded(Duration),
    /// The writer has ended (the database is closing).
    #[error("the database is closed")]
    Closed,
    /// The caller's own work panicked; its writes were rolled back.
    #[error("a database job panicked; its writes were rolled back")]
    JobPanicked,
    /// The transaction that held the write was not committed; nothing of it is stored.
    #[error("the commit failed and nothing was stored: {0}")]
    Commit(String),
    /// A statement failed; the writes of its job were rolled back.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    /// A topic, group or event id that the log does not accept.
    #[error("{what} {value:?} is refused: {rule}")]
    InvalidName {
        /// What was named (topic, group, event id).
        what: &'static str,
        /// The value, cut to a printable length.
        value: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// An event larger than the log accepts.
    #[error("the event has {size} bytes, the log accepts {limit}")]
    PayloadTooLarge {
        /// Bytes offered.
        size: usize,
        /// Bytes accepted.
        limit: usize,
    },
    /// One more topic or consumer group than the log keeps.
    #[error("the log already has {limit} {what}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many are kept.
        limit: usize,
    },
    /// A consumer tried to confirm an event that does not exist yet.
    #[error("cursor {asked} lies beyond the end of the topic ({last})")]
    CursorBeyondEnd {
        /// The offset that the consumer named.
        asked: u64,
        /// The newest offset of the topic.
        last: u64,
    },
    /// The PostgreSQL configuration is not usable.
    #[error("postgres configuration: {0}")]
    PostgresConfig(String),
    /// No PostgreSQL connection could be had (not reachable, refused, or the pool stayed empty).
    #[error("no PostgreSQL connection: {0}")]
    PostgresUnavailable(String),
    /// A PostgreSQL statement failed.
    #[error("postgres: {}", chain(.0))]
    Postgres(#[from] tokio_postgres::Error),
}

/// An error with its causes in one line: `tokio_postgres` prints only "db error" by itself.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
