//! All SQL of the server. Callers speak in domain types; nothing outside this room knows a table.
//!
//! Rules of the room: what may happen once is one conditional statement whose row count decides;
//! a write has been synced to disk when its future ends; bearer values are stored as SHA-256 only.
//! Read next: `store/schema.rs` for the tables, `store/tokens.rs` for refresh rotation.

pub(crate) mod audit;
pub(crate) mod clients;
pub(crate) mod codes;
pub(crate) mod consents;
pub(crate) mod directory;
pub(crate) mod interactions;
pub(crate) mod logouts;
mod schema;
pub(crate) mod sessions;
pub(crate) mod tokens;

use std::path::Path;

use ringwall_store::{Database, StoreError, StoreLimits};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::UnixTime;
use crate::ids::{ClientId, FamilyId, SessionId, Subject, TokenId};
use crate::random::TokenHash;
use crate::scopes::Scopes;

/// The database of the server.
#[derive(Clone)]
pub(crate) struct Store {
    db: Database,
}

impl Store {
    /// Opens or creates the file and brings its schema up to date.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let db = Database::open(path, schema::MIGRATIONS, StoreLimits::default())?;
        Ok(Self { db })
    }

    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        self.db
            .read(|c| c.query_row("SELECT 1", [], |_| Ok(())))
            .await
    }

    /// Drops rows whose time has passed and that no later decision needs. Spent refresh tokens
    /// stay as long as their family, because their replay must be recognised until then.
    pub(crate) async fn purge(&self, now: UnixTime) -> Result<usize, StoreError> {
        self.db
            .write(move |c| {
                let mut gone = 0;
                for statement in schema::PURGE {
                    gone += c.execute(statement, params![now])?;
                }
                Ok(gone)
            })
            .await
    }
}

/// A JSON column that must decode; damage is an error, never a default.
fn json_column<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(damaged)
}

fn to_json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

fn damaged(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}

/// Rows of a one-column text query.
fn texts(c: &Connection, sql: &str, key: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map(params![key], |row| row.get(0))?;
    rows.collect()
}

macro_rules! sql_text {
    ($($name:ident),*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str().map(Self::new)
            }
        }
    )*};
}

sql_text!(ClientId, Subject, SessionId, FamilyId, TokenId);

impl ToSql for UnixTime {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.seconds().into())
    }
}

impl FromSql for UnixTime {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self::from_seconds)
    }
}

impl ToSql for TokenHash {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_bytes().into())
    }
}

impl ToSql for Scopes {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.to_string().into())
    }
}

impl FromSql for Scopes {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::parse(value.as_str()?).ok_or(FromSqlError::InvalidType)
    }
}
