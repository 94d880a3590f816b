//! All SQL of notifications: what users are told, where the consumer stands, and what it could not
//! read.
//!
//! Owns: the invariant that makes delivery effectively once: an event's notification, its
//! deduplication and the advance of the cursor are one transaction. It must not verify events. Read
//! next: `consumer.rs`.

use ringwall_proto::events::{CloudEvent, OrderPlaced};
use ringwall_proto::ids::{Currency, EventId, MinorUnits, OrderId, Subject};
use ringwall_proto::notifications::{EVENT_ORDER_CONFIRMED, Notification};
use ringwall_store::rusqlite::{self, Connection, OptionalExtension, Row, params};
use ringwall_store::{Database, StoreError};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::NotificationsError;

/// Numbered by position; never edit one that was released, add the next.
pub(crate) const MIGRATIONS: &[&str] = &["
-- AUTOINCREMENT: a sequence is never used twice, so a client can resume by it.
CREATE TABLE notifications (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id    TEXT NOT NULL UNIQUE,
    user_sub    TEXT NOT NULL,
    kind        TEXT NOT NULL,
    order_id    TEXT NOT NULL,
    total_minor INTEGER NOT NULL,
    currency    TEXT NOT NULL,
    trace_id    TEXT,
    created_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX notifications_of_user ON notifications (user_sub, sequence);

CREATE TABLE cursors (
    topic      TEXT PRIMARY KEY,
    seen_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Events that cannot be believed or read. Kept for people; they never block the topic.
CREATE TABLE dead_letters (
    topic     TEXT NOT NULL,
    at_offset INTEGER NOT NULL,
    reason    TEXT NOT NULL,
    jws       TEXT NOT NULL,
    buried_at INTEGER NOT NULL DEFAULT (unixepoch()),
    PRIMARY KEY (topic, at_offset)
) STRICT, WITHOUT ROWID;
"];

/// Where an event stood in its topic.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    pub(crate) topic: String,
    pub(crate) offset: u64,
}

/// The notifications. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NotificationStore {
    database: Database,
}

impl NotificationStore {
    pub(crate) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        self.database.ping().await
    }

    /// Everything up to this offset of `topic` is done; 0 at first.
    pub(crate) async fn cursor(&self, topic: &str) -> Result<u64, StoreError> {
        let topic = topic.to_owned();
        let offset: i64 = self
            .database
            .read(move |db| {
                db.query_row(
                    "SELECT seen_until FROM cursors WHERE topic = ?1",
                    [topic],
                    |row| row.get(0),
                )
                .optional()
                .map(|found| found.unwrap_or(0))
            })
            .await?;
        Ok(u64::try_from(offset).unwrap_or(0))
    }

    /// Stores the notification of an event and advances the cursor, in one transaction. `None` when
    /// the event was seen before.
    pub(crate) async fn deliver(
        &self,
        position: Position,
        event: CloudEvent<OrderPlaced>,
        trace_id: Option<String>,
        now: OffsetDateTime,
    ) -> Result<Option<u64>, NotificationsError> {
        self.database
            .try_write(move |db| -> Result<Option<u64>, NotificationsError> {
                let data = &event.data;
                let sequence: Option<i64> = db
                    .query_row(
                        "INSERT INTO notifications (event_id, user_sub, kind, order_id,
                             total_minor, currency, trace_id, created_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                         ON CONFLICT (event_id) DO NOTHING
                         RETURNING sequence",
                        params![
                            event.id.to_string(),
                            data.user_sub.as_str(),
                            EVENT_ORDER_CONFIRMED,
                            data.order_id.to_string(),
                            data.total_minor.get(),
                            data.currency.as_str(),
                            trace_id,
                            now.unix_timestamp(),
                        ],
                        |row| row.get(0),
                    )
                    .optional()?;
                advance(db, &position)?;
                Ok(sequence.and_then(|sequence| u64::try_from(sequence).ok()))
            })
            .await
    }

    /// Puts an event aside that cannot be believed or read, and advances the cursor past it.
    pub(crate) async fn bury(
        &self,
        position: Position,
        jws: String,
        reason: String,
    ) -> Result<(), StoreError> {
        self.database
            .write(move |db| {
                db.execute(
                    "INSERT OR IGNORE INTO dead_letters (topic, at_offset, reason, jws)
                     VALUES (?1, ?2, ?3, ?4)",
                    params![position.topic, sql_offset(position.offset), reason, jws],
                )?;
                advance(db, &position)
            })
            .await
    }

    /// Why events were put aside, in the order of the topic.
    #[cfg(test)]
    pub(crate) async fn dead_letters(&self) -> Result<Vec<String>, StoreError> {
        self.database
            .read(|db| {
                db.prepare("SELECT reason FROM dead_letters ORDER BY topic, at_offset")?
                    .query_map([], |row| row.get(0))?
                    .collect()
            })
            .await
    }

    /// A user's notifications, newest first.
    pub(crate) async fn latest(
        &self,
        user: &Subject,
        limit: u32,
    ) -> Result<Vec<Notification>, NotificationsError> {
        let user = user.to_string();
        self.database
            .try_read(move |db| {
                let mut statement = db.prepare_cached(
                    "SELECT * FROM notifications WHERE user_sub = ?1
                     ORDER BY sequence DESC LIMIT ?2",
                )?;
                collect(&mut statement, params![user, limit])
            })
            .await
    }

    /// A user's notifications after `sequence`, oldest first.
    pub(crate) async fn after(
        &self,
        user: &Subject,
        sequence: u64,
        limit: u32,
    ) -> Result<Vec<Notification>, NotificationsError> {
        let user = user.to_string();
        self.database
            .try_read(move |db| {
                let mut statement = db.prepare_cached(
                    "SELECT * FROM notifications WHERE user_sub = ?1 AND sequence > ?2
                     ORDER BY sequence LIMIT ?3",
                )?;
                collect(&mut statement, params![user, sql_offset(sequence), limit])
            })
            .await
    }

    /// The newest sequence of all users: where a stream starts that does not resume.
    pub(crate) async fn newest(&self) -> Result<u64, StoreError> {
        let newest: i64 = self
            .database
            .read(|db| {
                db.query_row(
                    "SELECT coalesce(max(sequence), 0) FROM notifications",
                    [],
                    |row| row.get(0),
                )
            })
            .await?;
        Ok(u64::try_from(newest).unwrap_or(0))
    }
}

fn advance(db: &Connection, position: &Position) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO cursors (topic, seen_until) VALUES (?1, ?2)
         ON CONFLICT (topic) DO UPDATE SET seen_until = max(seen_until, excluded.seen_until)",
        params![position.topic, sql_offset(position.offset)],
    )?;
    Ok(())
}

/// SQLite counts to 2^63 - 1; the log does not get there.
fn sql_offset(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

fn collect(
    statement: &mut rusqlite::CachedStatement<'_>,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Notification>, NotificationsError> {
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(notification_from(row)?);
    }
    Ok(found)
}

fn notification_from(row: &Row<'_>) -> Result<Notification, NotificationsError> {
    let broken = NotificationsError::BrokenRow;
    let (event_id, order_id): (String, String) = (row.get("event_id")?, row.get("order_id")?);
    let (sequence, created_at): (i64, i64) = (row.get("sequence")?, row.get("created_at")?);
    let currency: String = row.get("currency")?;
    Ok(Notification {
        sequence: u64::try_from(sequence).map_err(|_| broken("sequence"))?,
        event_id: EventId(Uuid::try_parse(&event_id).map_err(|_| broken("event_id"))?),
        kind: row.get("kind")?,
        order_id: OrderId::parse(&order_id).map_err(|_| broken("order_id"))?,
        total_minor: MinorUnits::new(row.get("total_minor")?).map_err(|_| broken("total_minor"))?,
        currency: Currency::parse(&currency).map_err(|_| broken("currency"))?,
        created_at: OffsetDateTime::from_unix_timestamp(created_at)
            .map_err(|_| broken("created_at"))?,
        trace_id: row.get("trace_id")?,
    })
}
