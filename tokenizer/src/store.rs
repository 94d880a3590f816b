//! The tokens on disk: hashes, bindings and their one use.
//!
//! Owns: the SQL of this component and its schema. Must not: see a token's text.
//! Read next: `consume()`, the one statement that makes "exactly once" true.

use std::path::Path;

use ringwall_identity::SpiffeId;
use ringwall_proto::ids::{ClientId, Name, Subject};
use ringwall_proto::tokenizer::{SourceTokenState, SourceTokenSummary, TokenMethod, TokenPath};
use ringwall_store::rusqlite::types::Type;
use ringwall_store::rusqlite::{self, Connection, OptionalExtension, Row, named_params, params};
use ringwall_store::{Database, StoreError, StoreLimits};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::binding::{Binding, NewToken, OnBehalfOf, RefusalReason, TokenHash};
use crate::error::TokenizerError;

/// Times are Unix milliseconds. `caller` and `audience` are SPIFFE ids.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE source_tokens (
        hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
        id TEXT NOT NULL UNIQUE,
        caller TEXT NOT NULL,
        audience TEXT NOT NULL,
        htm TEXT NOT NULL,
        htu TEXT NOT NULL,
        body_digest TEXT NOT NULL,
        sub TEXT NOT NULL,
        client_id TEXT NOT NULL,
        issued_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        used_at INTEGER,
        revoked_at INTEGER
    ) STRICT;
    CREATE INDEX source_tokens_by_caller ON source_tokens (caller, expires_at);
    CREATE INDEX source_tokens_by_expiry ON source_tokens (expires_at);
"];

/// Rows of one list answer.
const LIST_LIMIT: i64 = 100;
/// Rows that one purge step removes.
const PURGE_STEP: usize = 500;

/// What became of an attempt to spend a token.
#[derive(Debug)]
pub(crate) enum Consumption {
    Won {
        id: Uuid,
        user: OnBehalfOf,
        issued_at: OffsetDateTime,
    },
    Refused {
        id: Option<Uuid>,
        reason: RefusalReason,
    },
}

/// Clones share the file.
#[derive(Clone)]
pub(crate) struct TokenStore {
    database: Database,
}

impl TokenStore {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            database: Database::open(path, MIGRATIONS, StoreLimits::default())?,
        })
    }

    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        self.database.ping().await
    }

    /// Stores a new token unless its caller has `max_outstanding` unspent ones. Count and insert
    /// are one job of the only writer, so parallel requests cannot pass the limit together.
    pub(crate) async fn issue(
        &self,
        token: NewToken,
        max_outstanding: u32,
    ) -> Result<(), TokenizerError> {
        self.database
            .try_write(move |tx| issue(tx, &token, max_outstanding))
            .await
    }

    /// Spends the token if it is unspent, unrevoked, unexpired and bound to exactly `presented`;
    /// the answer is given after the spending is durable.
    pub(crate) async fn consume(
        &self,
        hash: TokenHash,
        presented: Binding,
        now: OffsetDateTime,
    ) -> Result<Consumption, StoreError> {
        self.database
            .write(move |tx| match consume(tx, &hash, &presented, now)? {
                Some(won) => Ok(won),
                None => explain(tx, &hash, &presented, now),
            })
            .await
    }

    /// Revokes an unspent token of which `peer` is caller or audience; answers its id.
    pub(crate) async fn revoke(
        &self,
        hash: TokenHash,
        peer: SpiffeId,
        now: OffsetDateTime,
    ) -> Result<Option<Uuid>, StoreError> {
        self.database
            .write(move |tx| {
                tx.prepare_cached(
                    "UPDATE source_tokens SET revoked_at = ?3
                     WHERE hash = ?1 AND ?2 IN (caller, audience)
                       AND used_at IS NULL AND revoked_at IS NULL
                     RETURNING id",
                )?
                .query_row(
                    params![hash.as_bytes(), peer.as_str(), millis(now)],
                    |row| uuid(row, 0),
                )
                .optional()
            })
            .await
    }

    /// The newest tokens of a caller.
    pub(crate) async fn list(
        &self,
        caller: SpiffeId,
        now: OffsetDateTime,
    ) -> Result<Vec<SourceTokenSummary>, StoreError> {
        self.database
            .read(move |tx| {
                tx.prepare_cached(
                    "SELECT id, audience, htm, htu, issued_at, expires_at, used_at, revoked_at
                     FROM source_tokens WHERE caller = ?1 ORDER BY expires_at DESC, id DESC LIMIT ?2",
                )?
                .query_map(params![caller.as_str(), LIST_LIMIT], |row| summary(row, now))?
                .collect()
            })
            .await
    }

    /// Removes some tokens that ended before `before`; `true` when there may be more.
    pub(crate) async fn purge(&self, before: OffsetDateTime) -> Result<bool, StoreError> {
        let removed = self.database.write(move |tx| {
            tx.prepare_cached(
                "DELETE FROM source_tokens WHERE rowid IN (
                     SELECT rowid FROM source_tokens WHERE expires_at < ?1 LIMIT ?2)",
            )?
            .execute(params![
                millis(before),
                i64::try_from(PURGE_STEP).unwrap_or(i64::MAX)
            ])
        });
        Ok(removed.await? == PURGE_STEP)
    }
}

fn issue(tx: &Connection, token: &NewToken, max_outstanding: u32) -> Result<(), TokenizerError> {
    let binding = &token.binding;
    let outstanding: u32 = tx
        .prepare_cached(
            "SELECT count(*) FROM source_tokens
             WHERE caller = ?1 AND expires_at > ?2 AND used_at IS NULL AND revoked_at IS NULL",
        )?
        .query_row(
            params![binding.caller.as_str(), millis(token.issued_at)],
            |row| row.get(0),
        )?;
    if outstanding >= max_outstanding {
        return Err(TokenizerError::TooManyOutstanding {
            limit: max_outstanding,
        });
    }
    tx.prepare_cached(
        "INSERT INTO source_tokens (hash, id, caller, audience, htm, htu, body_digest, sub,
                                    client_id, issued_at, expires_at)
         VALUES (:hash, :id, :caller, :audience, :htm, :htu, :body_digest, :sub, :client_id,
                 :issued_at, :expires_at)",
    )?
    .execute(named_params! {
        ":hash": token.hash.as_bytes(),
        ":id": token.id.to_string(),
        ":caller": binding.caller.as_str(),
        ":audience": binding.audience.as_str(),
        ":htm": binding.htm.as_str(),
        ":htu": binding.htu.as_str(),
        ":body_digest": binding.body_digest.as_str(),
        ":sub": token.user.sub.as_str(),
        ":client_id": token.user.client_id.as_str(),
        ":issued_at": millis(token.issued_at),
        ":expires_at": millis(token.expires_at),
    })?;
    Ok(())
}

/// The one use. Everything that a token is bound to stands in the WHERE clause of the statement
/// that marks it used: there is no moment between the check and the mark.
fn consume(
    tx: &Connection,
    hash: &TokenHash,
    presented: &Binding,
    now: OffsetDateTime,
) -> rusqlite::Result<Option<Consumption>> {
    tx.prepare_cached(
        "UPDATE source_tokens SET used_at = :now
         WHERE hash = :hash
           AND used_at IS NULL AND revoked_at IS NULL AND expires_at > :now
           AND caller = :caller AND audience = :audience
           AND htm = :htm AND htu = :htu AND body_digest = :body_digest
         RETURNING id, sub, client_id, issued_at",
    )?
    .query_row(
        named_params! {
            ":now": millis(now),
            ":hash": hash.as_bytes(),
            ":caller": presented.caller.as_str(),
            ":audience": presented.audience.as_str(),
            ":htm": presented.htm.as_str(),
            ":htu": presented.htu.as_str(),
            ":body_digest": presented.body_digest.as_str(),
        },
        |row| {
            let user = OnBehalfOf {
                sub: checked(row, 1, Subject::parse)?,
                client_id: checked(row, 2, ClientId::parse)?,
            };
            Ok(Consumption::Won {
                id: uuid(row, 0)?,
                user,
                issued_at: time(row, 3)?,
            })
        },
    )
    .optional()
}

/// Why `consume()` changed nothing: for the audit log.
fn explain(
    tx: &Connection,
    hash: &TokenHash,
    presented: &Binding,
    now: OffsetDateTime,
) -> rusqlite::Result<Consumption> {
    let found = tx
        .prepare_cached(
            "SELECT id, revoked_at IS NOT NULL, used_at IS NOT NULL, expires_at <= ?2,
                    audience <> ?3, caller <> ?4, htm <> ?5, htu <> ?6
             FROM source_tokens WHERE hash = ?1",
        )?
        .query_row(
            params![
                hash.as_bytes(),
                millis(now),
                presented.audience.as_str(),
                presented.caller.as_str(),
                presented.htm.as_str(),
                presented.htu.as_str(),
            ],
            |row| {
                let reasons = [
                    (1, RefusalReason::Revoked),
                    (2, RefusalReason::Used),
                    (3, RefusalReason::Expired),
                    (4, RefusalReason::Audience),
                    (5, RefusalReason::Caller),
                    (6, RefusalReason::Method),
                    (7, RefusalReason::Path),
                ];
                for (column, reason) in reasons {
                    if row.get(column)? {
                        return Ok((uuid(row, 0)?, reason));
                    }
                }
                Ok((uuid(row, 0)?, RefusalReason::BodyDigest))
            },
        )
        .optional()?;
    Ok(match found {
        Some((id, reason)) => Consumption::Refused {
            id: Some(id),
            reason,
        },
        None => Consumption::Refused {
            id: None,
            reason: RefusalReason::Unknown,
        },
    })
}

fn summary(row: &Row<'_>, now: OffsetDateTime) -> rusqlite::Result<SourceTokenSummary> {
    let expires_at = time(row, 5)?;
    let state = if row.get::<_, Option<i64>>(6)?.is_some() {
        SourceTokenState::Used
    } else if row.get::<_, Option<i64>>(7)?.is_some() {
        SourceTokenState::Revoked
    } else if expires_at <= now {
        SourceTokenState::Expired
    } else {
        SourceTokenState::Active
    };
    Ok(SourceTokenSummary {
        id: row.get(0)?,
        audience: checked(row, 1, |id| {
            SpiffeId::parse(&id)
                .map_err(|e| e.to_string())
                .and_then(|id| Name::parse(id.path()).map_err(|e| e.to_string()))
        })?,
        htm: checked(row, 2, |text| method(&text))?,
        htu: checked(row, 3, TokenPath::parse)?,
        state,
        issued_at: time(row, 4)?,
        expires_at,
    })
}

fn method(text: &str) -> Result<TokenMethod, String> {
    use TokenMethod::{Delete, Get, Post, Put};
    [Get, Post, Put, Delete]
        .into_iter()
        .find(|method| method.as_str() == text)
        .ok_or_else(|| "not a method".to_owned())
}

/// A column that was valid when it was written; if it no longer is, the row is not used.
fn checked<T, E: ToString>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(String) -> Result<T, E>,
) -> rusqlite::Result<T> {
    parse(row.get(column)?).map_err(|error| {
        let error = error.to_string().into();
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error)
    })
}

fn uuid(row: &Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    checked(row, column, |text| Uuid::parse_str(&text))
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<OffsetDateTime> {
    let millis: i64 = row.get(column)?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, error.into())
    })
}

fn millis(time: OffsetDateTime) -> i64 {
    // i64 holds 292 million years of milliseconds.
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
