//! The statements of the event log.
//!
//! Owns: the schema of the log file. Must not: decide limits (they come in as parameters).
//! Read next: `../log.rs`.

use rusqlite::{Connection, OptionalExtension, params};
use time::OffsetDateTime;

use super::{LogLimits, LoggedEvent, Offset};
use crate::error::StoreError;

pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE topics (
        name TEXT PRIMARY KEY,
        last_offset INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE events (
        topic TEXT NOT NULL REFERENCES topics (name),
        offset INTEGER NOT NULL,
        id TEXT NOT NULL,
        payload BLOB NOT NULL,
        appended_at INTEGER NOT NULL,
        PRIMARY KEY (topic, offset),
        UNIQUE (topic, id)
    ) STRICT;
    CREATE TABLE cursors (
        topic TEXT NOT NULL,
        consumer_group TEXT NOT NULL,
        offset INTEGER NOT NULL,
        PRIMARY KEY (topic, consumer_group)
    ) STRICT, WITHOUT ROWID;
"];

/// An append trims its topic by count once in so many events, which bounds the overhang.
const TRIM_EVERY: u64 = 64;

pub(super) struct NewEvent {
    pub(super) topic: String,
    pub(super) id: String,
    pub(super) payload: Vec<u8>,
    /// Unix seconds.
    pub(super) at: i64,
}

pub(super) fn append(
    tx: &Connection,
    event: &NewEvent,
    limits: &LogLimits,
) -> Result<Offset, StoreError> {
    let known = tx
        .prepare_cached("SELECT offset FROM events WHERE topic = ?1 AND id = ?2")?
        .query_row(params![event.topic, event.id], |row| row.get::<_, i64>(0))
        .optional()?;
    if let Some(offset) = known {
        return Ok(from_sql(offset));
    }
    let offset = next_offset(tx, &event.topic, limits.max_topics)?;
    tx.prepare_cached(
        "INSERT INTO events (topic, offset, id, payload, appended_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        event.topic,
        to_sql(offset),
        event.id,
        event.payload,
        event.at
    ])?;
    if offset.0.is_multiple_of(TRIM_EVERY) {
        trim_count(tx, &event.topic, offset, limits.max_events)?;
    }
    Ok(offset)
}

/// The counter lives in the topic's row, so that retention never makes an offset return.
fn next_offset(tx: &Connection, topic: &str, max_topics: usize) -> Result<Offset, StoreError> {
    let next = tx
        .prepare_cached(
            "UPDATE topics SET last_offset = last_offset + 1 WHERE name = ?1 RETURNING last_offset",
        )?
        .query_row([topic], |row| row.get::<_, i64>(0))
        .optional()?;
    if let Some(offset) = next {
        return Ok(from_sql(offset));
    }
    let topics: i64 = tx.query_row("SELECT count(*) FROM topics", [], |row| row.get(0))?;
    refuse_when_full("topics", topics, max_topics)?;
    tx.execute(
        "INSERT INTO topics (name, last_offset) VALUES (?1, 1)",
        [topic],
    )?;
    Ok(Offset(1))
}

pub(super) fn read(
    tx: &Connection,
    topic: &str,
    after: Offset,
    max: usize,
    max_bytes: usize,
) -> rusqlite::Result<Vec<LoggedEvent>> {
    let mut statement = tx.prepare_cached(
        "SELECT offset, id, payload, appended_at FROM events
         WHERE topic = ?1 AND offset > ?2 ORDER BY offset LIMIT ?3",
    )?;
    let limit = i64::try_from(max).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![topic, to_sql(after), limit])?;
    let mut events = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let payload: Vec<u8> = row.get(2)?;
        bytes += payload.len();
        if bytes > max_bytes && !events.is_empty() {
            break;
        }
        events.push(LoggedEvent {
            offset: from_sql(row.get(0)?),
            id: row.get(1)?,
            payload,
            appended_at: OffsetDateTime::from_unix_timestamp(row.get(3)?)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
        });
    }
    Ok(events)
}

pub(super) fn last_offset(tx: &Connection, topic: &str) -> rusqlite::Result<Offset> {
    tx.prepare_cached("SELECT last_offset FROM topics WHERE name = ?1")?
        .query_row([topic], |row| row.get(0))
        .optional()
        .map(|offset| from_sql(offset.unwrap_or(0)))
}

pub(super) fn cursor(tx: &Connection, group: &str, topic: &str) -> rusqlite::Result<Offset> {
    tx.prepare_cached("SELECT offset FROM cursors WHERE topic = ?1 AND consumer_group = ?2")?
        .query_row([topic, group], |row| row.get(0))
        .optional()
        .map(|offset| from_sql(offset.unwrap_or(0)))
}

pub(super) fn commit_cursor(
    tx: &Connection,
    group: &str,
    topic: &str,
    offset: Offset,
    max_groups: usize,
) -> Result<Offset, StoreError> {
    let last = last_offset(tx, topic)?;
    if offset > last {
        return Err(StoreError::CursorBeyondEnd {
            asked: offset.0,
            last: last.0,
        });
    }
    let moved = tx
        .prepare_cached(
            "UPDATE cursors SET offset = max(offset, ?3)
             WHERE topic = ?1 AND consumer_group = ?2 RETURNING offset",
        )?
        .query_row(params![topic, group, to_sql(offset)], |row| {
            row.get::<_, i64>(0)
        })
        .optional()?;
    if let Some(cursor) = moved {
        return Ok(from_sql(cursor));
    }
    let groups: i64 = tx.query_row(
        "SELECT count(*) FROM cursors WHERE topic = ?1",
        [topic],
        |row| row.get(0),
    )?;
    refuse_when_full("consumer groups", groups, max_groups)?;
    tx.execute(
        "INSERT INTO cursors (topic, consumer_group, offset) VALUES (?1, ?2, ?3)",
        params![topic, group, to_sql(offset)],
    )?;
    Ok(offset)
}

/// Count first (whatever was read), then age (only what every known group has read).
pub(super) fn trim(tx: &Connection, max_events: u64, oldest: i64) -> rusqlite::Result<u64> {
    let topics = tx
        .prepare_cached("SELECT name, last_offset FROM topics")?
        .query_map([], |row| {
            Ok((row.get::<_, String>(0)?, from_sql(row.get(1)?)))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut removed = 0;
    for (topic, last) in topics {
        removed += trim_count(tx, &topic, last, max_events)?;
        removed += tx.execute(
            "DELETE FROM events WHERE topic = ?1 AND appended_at < ?2 AND offset <= ifnull(
                (SELECT min(offset) FROM cursors WHERE topic = ?1), ?3)",
            params![topic, oldest, to_sql(last)],
        )?;
    }
    Ok(u64::try_from(removed).unwrap_or(u64::MAX))
}

fn trim_count(
    tx: &Connection,
    topic: &str,
    last: Offset,
    max_events: u64,
) -> rusqlite::Result<usize> {
    let gone = Offset(last.0.saturating_sub(max_events));
    tx.prepare_cached("DELETE FROM events WHERE topic = ?1 AND offset <= ?2")?
        .execute(params![topic, to_sql(gone)])
}

fn refuse_when_full(what: &'static str, count: i64, limit: usize) -> Result<(), StoreError> {
    if usize::try_from(count).is_ok_and(|count| count < limit) {
        return Ok(());
    }
    Err(StoreError::TooMany { what, limit })
}

/// Offsets stay far below 2^63: the conversion cannot lose anything.
fn to_sql(offset: Offset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}

fn from_sql(offset: i64) -> Offset {
    Offset(u64::try_from(offset).unwrap_or(0))
}
