//! A durable event log: topics, dense offsets, idempotent append, consumer-group cursors.
//!
//! Owns: its own SQLite file and the retention of events. Must not: read what a payload says, or
//! deliver (consumers read and confirm; delivery is at least once).
//! Read next: `log/sql.rs`, then `database.rs`.
//!
//! Offsets of a topic start at 1 and have no gaps; retention removes the oldest, so a first event
//! above `after + 1` tells a consumer that it fell behind the retention.

mod sql;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::database::{Database, StoreLimits};
use crate::error::StoreError;

/// The place of an event in its topic, from 1; `Offset(0)` stands before the first event.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Offset(pub u64);

/// One event as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Its place in the topic.
    pub offset: Offset,
    /// The producer's id, unique in the topic.
    pub id: String,
    /// The bytes that were appended.
    pub payload: Vec<u8>,
    /// When the log took it.
    pub appended_at: OffsetDateTime,
}

/// The named limits of a log.
#[derive(Debug, Clone)]
pub struct LogLimits {
    /// Bytes of one payload.
    pub max_payload: usize,
    /// Events that a topic keeps, whether or not they were read.
    pub max_events: u64,
    /// Age at which an event goes once every known group of its topic has read it.
    pub max_age: Duration,
    /// Topics of the log.
    pub max_topics: usize,
    /// Consumer groups of one topic.
    pub max_groups: usize,
    /// Events that one read returns.
    pub max_read: usize,
    /// Payload bytes after which a read stops (it always returns one event).
    pub max_read_bytes: usize,
    /// The limits of the database below.
    pub store: StoreLimits,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            max_payload: 64 * 1024,
            max_events: 100_000,
            max_age: Duration::from_secs(7 * 24 * 3600),
            max_topics: 64,
            max_groups: 64,
            max_read: 500,
            max_read_bytes: 1024 * 1024,
            store: StoreLimits::default(),
        }
    }
}

/// Tells the log what time it is, so that tests need not wait.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// A handle to one log file; clones share it. One process owns the file.
#[derive(Clone)]
pub struct EventLog {
    database: Database,
    limits: Arc<LogLimits>,
    clock: Clock,
    /// The newest offset of each topic: what `wait` waits for.
    newest: Arc<watch::Sender<BTreeMap<String, u64>>>,
}

impl EventLog {
    /// Opens or creates the log file.
    ///
    /// # Errors
    /// See [`Database::open`].
    pub fn open(path: impl AsRef<Path>, limits: LogLimits) -> Result<Self, StoreError> {
        Self::open_with_clock(path, limits, Arc::new(OffsetDateTime::now_utc))
    }

    /// Like [`EventLog::open`] with the caller's clock.
    ///
    /// # Errors
    /// See [`Database::open`].
    pub fn open_with_clock(
        path: impl AsRef<Path>,
        limits: LogLimits,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let database = Database::open(path, sql::MIGRATIONS, limits.store.clone())?;
        Ok(Self {
            database,
            limits: Arc::new(limits),
            clock,
            newest: Arc::new(watch::Sender::new(BTreeMap::new())),
        })
    }

    /// Appends an event; durable when it returns.
    ///
    /// Idempotent by (`topic`, `id`): a repeated id returns the first offset and the first payload
    /// stays. The memory of an id ends with the retention of its event.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`], [`StoreError::PayloadTooLarge`], [`StoreError::TooMany`], or a
    /// failed write.
    pub async fn append(
        &self,
        topic: &str,
        id: &str,
        payload: Vec<u8>,
    ) -> Result<Offset, StoreError> {
        check_name("topic", topic)?;
        check_id(id)?;
        if payload.len() > self.limits.max_payload {
            return Err(StoreError::PayloadTooLarge {
                size: payload.len(),
                limit: self.limits.max_payload,
            });
        }
        let event = sql::NewEvent {
            topic: topic.to_owned(),
            id: id.to_owned(),
            payload,
            at: (self.clock)().unix_timestamp(),
        };
        let limits = Arc::clone(&self.limits);
        let newest = Arc::clone(&self.newest);
        let topic = topic.to_owned();
        // The waiters are told by the writer thread, so that a producer that is cancelled after
        // its commit still wakes them.
        self.database
            .try_write_then(
                move |tx| sql::append(tx, &event, &limits),
                move |offset: &Offset| announce(&newest, topic, *offset),
            )
            .await
    }

    /// Events of `topic` after an offset, oldest first, at most `max` (and the read limits).
    ///
    /// # Errors
    /// [`StoreError::InvalidName`] or a failed read. An unknown topic is empty.
    pub async fn read(
        &self,
        topic: &str,
        after: Offset,
        max: usize,
    ) -> Result<Vec<LoggedEvent>, StoreError> {
        check_name("topic", topic)?;
        let topic = topic.to_owned();
        let max = max.min(self.limits.max_read);
        let max_bytes = self.limits.max_read_bytes;
        self.database
            .read(move |tx| sql::read(tx, &topic, after, max, max_bytes))
            .await
    }

    /// Waits until `topic` has an event after `after`: `true`, or `false` when `timeout` ends first.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`] or a failed read.
    pub async fn wait(
        &self,
        topic: &str,
        after: Offset,
        timeout: Duration,
    ) -> Result<bool, StoreError> {
        // Subscribe first: an event appended between the look and the wait is then seen.
        let mut newest = self.newest.subscribe();
        if self.last_offset(topic).await? > after {
            return Ok(true);
        }
        let arrived = newest.wait_for(|topics| topics.get(topic).is_some_and(|&o| o > after.0));
        Ok(matches!(
            tokio::time::timeout(timeout, arrived).await,
            Ok(Ok(_))
        ))
    }

    /// The newest offset that was ever given in `topic`; `Offset(0)` for an unknown topic.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`] or a failed read.
    pub async fn last_offset(&self, topic: &str) -> Result<Offset, StoreError> {
        check_name("topic", topic)?;
        let topic = topic.to_owned();
        self.database
            .read(move |tx| sql::last_offset(tx, &topic))
            .await
    }

    /// Records that `group` has handled everything up to `offset`; durable when it returns.
    ///
    /// Cursors only move forward: an older offset changes nothing. Returns the cursor.
    ///
    /// # Errors
    /// [`StoreError::CursorBeyondEnd`], [`StoreError::InvalidName`], [`StoreError::TooMany`], or a
    /// failed write.
    pub async fn commit_cursor(
        &self,
        group: &str,
        topic: &str,
        offset: Offset,
    ) -> Result<Offset, StoreError> {
        check_name("group", group)?;
        check_name("topic", topic)?;
        let (group, topic) = (group.to_owned(), topic.to_owned());
        let max_groups = self.limits.max_groups;
        self.database
            .try_write(move |tx| sql::commit_cursor(tx, &group, &topic, offset, max_groups))
            .await
    }

    /// What `group` has confirmed in `topic`; `Offset(0)` when nothing.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`] or a failed read.
    pub async fn cursor(&self, group: &str, topic: &str) -> Result<Offset, StoreError> {
        check_name("group", group)?;
        check_name("topic", topic)?;
        let (group, topic) = (group.to_owned(), topic.to_owned());
        self.database
            .read(move |tx| sql::cursor(tx, &group, &topic))
            .await
    }

    /// Removes events beyond the retention; returns how many. Call it now and then.
    ///
    /// The count holds even without this call: an append trims its own topic.
    ///
    /// # Errors
    /// A failed write.
    pub async fn trim(&self) -> Result<u64, StoreError> {
        let oldest = ((self.clock)() - self.limits.max_age).unix_timestamp();
        let max_events = self.limits.max_events;
        self.database
            .write(move |tx| sql::trim(tx, max_events, oldest))
            .await
    }
}

fn announce(newest: &watch::Sender<BTreeMap<String, u64>>, topic: String, offset: Offset) {
    newest.send_if_modified(|topics| {
        let last = topics.entry(topic).or_default();
        let advanced = offset.0 > *last;
        *last = offset.0.max(*last);
        advanced
    });
}

fn check_name(what: &'static str, value: &str) -> Result<(), StoreError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if (1..=64).contains(&value.len()) && value.bytes().all(allowed) {
        return Ok(());
    }
    refuse(
        what,
        value,
        "1 to 64 characters of a-z, 0-9, '.', '_' and '-'",
    )
}

fn check_id(value: &str) -> Result<(), StoreError> {
    if (1..=128).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    refuse("event id", value, "1 to 128 visible ASCII characters")
}

fn refuse(what: &'static str, value: &str, rule: &'static str) -> Result<(), StoreError> {
    Err(StoreError::InvalidName {
        what,
        value: value.chars().take(64).collect(),
        rule,
    })
}

#[cfg(test)]
mod tests;
