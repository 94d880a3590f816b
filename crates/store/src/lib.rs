//! Durable state: the embedded SQLite database, the event log built on it, and the PostgreSQL pool.
//!
//! Owns: how a file is opened, migrated, written (one writer, group commit, durable before the
//! reply) and read; the durable event log with consumer-group cursors; the PostgreSQL pool with
//! client certificate and SCRAM.
//! Must not: know any table but its own (each deployable keeps its SQL in its `store.rs`), retry a
//! write on its own, or answer a caller before the commit that holds its write has ended.
//! Read next: `database.rs`, then `database/writer.rs`, `log.rs`, `postgres.rs`.

pub mod database;
pub mod error;
pub mod log;
pub mod postgres;
#[cfg(feature = "testing")]
pub mod testing;

pub use database::{Database, StoreLimits};
pub use error::StoreError;
pub use log::{EventLog, LogLimits, LoggedEvent, Offset};
pub use rusqlite;
