//! The store of one replica: SQLite with group commit.
//!
//! Owns: its SQL. One process has the file, so it leads always.
//! Read next: `postgres.rs`, which does the same for many.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use ringwall_identity::intermediate::RevokedSerial;
use ringwall_identity::{Serial, SpiffeId};
use ringwall_store::rusqlite::{self, Connection, OptionalExtension, Row, named_params, params};
use ringwall_store::{Database, StoreError, StoreLimits};
use time::OffsetDateTime;

use super::model::{
    AuditEntry, Claim, Consumption, Document, Fence, IssuedCertificate, JoinRefusal, NewJoinToken,
    Recorded, Revisions, Revocation, RevocationState, Target, TokenHash,
};
use super::{IdentityStore, from_millis, millis, schema, signed};

/// Rows that one purge step removes from each table.
const PURGE_STEP: i64 = 500;

/// Clones share the file.
#[derive(Clone)]
pub(crate) struct Embedded {
    pub(super) database: Database,
}

impl Embedded {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            database: Database::open(path, schema::EMBEDDED, StoreLimits::default())?,
        })
    }
}

#[async_trait]
impl IdentityStore for Embedded {
    async fn ping(&self) -> Result<(), StoreError> {
        self.database.ping().await
    }

    async fn add_join_token(&self, token: &NewJoinToken) -> Result<bool, StoreError> {
        let token = token.clone();
        self.database
            .write(move |tx| {
                let added = tx
                    .prepare_cached(
                        "INSERT INTO join_tokens (hash, node, created_at, not_after)
                         VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![
                        token.hash.0,
                        token.node,
                        millis(token.created_at),
                        millis(token.not_after)
                    ])?;
                if added == 1 {
                    audit(tx, &token.audit_entry())?;
                }
                Ok(added == 1)
            })
            .await
    }

    async fn consume_join_token(
        &self,
        hash: &TokenHash,
        by: &[u8; 32],
        now: OffsetDateTime,
    ) -> Result<Consumption, StoreError> {
        let (hash, by) = (*hash, *by);
        self.database
            .write(move |tx| consume(tx, &hash, &by, now))
            .await
    }

    async fn record_issued(&self, issued: &IssuedCertificate) -> Result<Recorded, StoreError> {
        let issued = issued.clone();
        self.database.write(move |tx| record(tx, &issued)).await
    }

    async fn count_issued(&self) -> Result<u64, StoreError> {
        self.database
            .read(|tx| tx.query_row("SELECT count(*) FROM issued", [], |row| unsigned(row, 0)))
            .await
    }

    async fn revoke(&self, revocation: &Revocation, by: &str) -> Result<u64, StoreError> {
        let (revocation, by) = (revocation.clone(), by.to_owned());
        self.database
            .write(move |tx| {
                tx.prepare_cached(
                    "INSERT INTO revocations (kind, value, at, reason) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET reason = excluded.reason",
                )?
                .execute(params![
                    revocation.target.kind(),
                    revocation.target.value(),
                    millis(revocation.at),
                    revocation.reason
                ])?;
                audit(tx, &revocation.audit_entry(&by))?;
                next_revision(tx)
            })
            .await
    }

    async fn restore(
        &self,
        id: &SpiffeId,
        by: &str,
        now: OffsetDateTime,
    ) -> Result<Option<u64>, StoreError> {
        let (target, by) = (Target::SpiffeId(id.clone()), by.to_owned());
        self.database
            .write(move |tx| {
                let removed = tx
                    .prepare_cached("DELETE FROM revocations WHERE kind = ?1 AND value = ?2")?
                    .execute(params![target.kind(), target.value()])?;
                if removed == 0 {
                    return Ok(None);
                }
                audit(tx, &AuditEntry::restored(&target, &by, now))?;
                next_revision(tx).map(Some)
            })
            .await
    }

    async fn revocations(&self, now: OffsetDateTime) -> Result<RevocationState, StoreError> {
        self.database.read(move |tx| revocations(tx, now)).await
    }

    async fn revisions(&self) -> Result<Revisions, StoreError> {
        self.database
            .read(|tx| {
                let (revocations, jwt_keys) = tx
                    .prepare_cached(
                        "SELECT (SELECT revision FROM revisions WHERE name = ?1),
                                coalesce((SELECT revision FROM documents WHERE name = ?2), 0)",
                    )?
                    .query_row(params![schema::REVOCATIONS, schema::JWT_KEYS], |row| {
                        Ok((unsigned(row, 0)?, unsigned(row, 1)?))
                    })?;
                Ok(Revisions {
                    revocations,
                    jwt_keys,
                })
            })
            .await
    }

    async fn document(&self, name: &str) -> Result<Option<Document>, StoreError> {
        let name = name.to_owned();
        self.database
            .read(move |tx| {
                tx.prepare_cached("SELECT revision, content FROM documents WHERE name = ?1")?
                    .query_row([name], |row| {
                        Ok(Document {
                            revision: unsigned(row, 0)?,
                            content: row.get(1)?,
                        })
                    })
                    .optional()
            })
            .await
    }

    async fn replace_document(
        &self,
        name: &str,
        expected: u64,
        content: &[u8],
        _: Option<&Fence>,
    ) -> Result<bool, StoreError> {
        let (name, content) = (name.to_owned(), content.to_vec());
        self.database
            .write(move |tx| {
                let changed = if expected == 0 {
                    tx.prepare_cached(
                        "INSERT INTO documents (name, revision, content) VALUES (?1, 1, ?2)
                         ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![name, content])?
                } else {
                    tx.prepare_cached(
                        "UPDATE documents SET revision = revision + 1, content = ?2
                         WHERE name = ?1 AND revision = ?3",
                    )?
                    .execute(params![name, content, signed(expected)])?
                };
                Ok(changed == 1)
            })
            .await
    }

    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let entry = entry.clone();
        self.database.write(move |tx| audit(tx, &entry)).await
    }

    async fn audit_log(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.database
            .read(move |tx| {
                tx.prepare_cached(
                    "SELECT at, event, actor, subject, serial, reason FROM audit
                     ORDER BY id DESC LIMIT ?1",
                )?
                .query_map([limit], audit_row)?
                .collect()
            })
            .await
    }

    async fn purge(
        &self,
        now: OffsetDateTime,
        audit_before: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        self.database
            .write(move |tx| purge(tx, millis(now), millis(audit_before)))
            .await
    }

    /// There is nobody else.
    async fn lead(&self, holder: &str, ttl: Duration) -> Result<Claim, StoreError> {
        Ok(Claim {
            holder: holder.to_owned(),
            epoch: 1,
            mine: true,
            remaining: ttl,
        })
    }

    async fn resign(&self, _: &Fence) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The one use. Everything that makes a token good stands in the WHERE clause of the statement that
/// marks it used: there is no moment between the check and the mark.
fn consume(
    tx: &Connection,
    hash: &TokenHash,
    by: &[u8; 32],
    now: OffsetDateTime,
) -> rusqlite::Result<Consumption> {
    let won = tx
        .prepare_cached(
            "UPDATE join_tokens SET used_at = ?2, used_by = ?3
             WHERE hash = ?1 AND used_at IS NULL AND not_after > ?2
             RETURNING node",
        )?
        .query_row(params![hash.0, millis(now), by], |row| row.get(0))
        .optional()?;
    if let Some(node) = won {
        return Ok(Consumption::Won { node });
    }
    // Why it changed nothing: for the audit log.
    let used = tx
        .prepare_cached("SELECT used_at IS NOT NULL FROM join_tokens WHERE hash = ?1")?
        .query_row([hash.0], |row| row.get(0))
        .optional()?;
    Ok(Consumption::Refused(match used {
        None => JoinRefusal::Unknown,
        Some(true) => JoinRefusal::Used,
        Some(false) => JoinRefusal::Expired,
    }))
}

fn record(tx: &Connection, issued: &IssuedCertificate) -> rusqlite::Result<Recorded> {
    let added = tx
        .prepare_cached(
            "INSERT INTO issued (serial, kind, spiffe_id, spki, issued_at, not_after)
             SELECT :serial, :kind, :id, :spki, :issued_at, :not_after
             WHERE NOT EXISTS (SELECT 1 FROM revocations
                 WHERE (kind = 'spiffe_id' AND value = CAST(:id AS BLOB))
                    OR (kind = 'spki' AND value = :spki))",
        )?
        .execute(named_params! {
            ":serial": issued.serial.as_bytes(),
            ":kind": issued.kind.as_str(),
            ":id": issued.holder.as_str(),
            ":spki": issued.spki,
            ":issued_at": millis(issued.issued_at),
            ":not_after": millis(issued.not_after),
        })?;
    if added == 0 {
        return Ok(Recorded::Revoked);
    }
    audit(tx, &issued.audit_entry())?;
    Ok(Recorded::Yes)
}

fn revocations(tx: &Connection, now: OffsetDateTime) -> rusqlite::Result<RevocationState> {
    let revision = tx
        .prepare_cached("SELECT revision FROM revisions WHERE name = ?1")?
        .query_row([schema::REVOCATIONS], |row| unsigned(row, 0))?;
    let entries = tx
        .prepare_cached("SELECT kind, value, at, reason FROM revocations ORDER BY at, kind, value")?
        .query_map([], |row| {
            let (kind, value): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
            Ok(Target::parse(&kind, &value).map(|target| (target, row.get(2), row.get(3))))
        })?
        .filter_map(Result::transpose)
        .map(|found| {
            let (target, at, reason) = found?;
            Ok(Revocation {
                target,
                at: from_millis(at?),
                reason: reason?,
            })
        })
        .collect::<rusqlite::Result<_>>()?;
    let serials = tx
        .prepare_cached(
            "SELECT value AS serial, min(at) FROM (
                 SELECT value, at FROM revocations WHERE kind = 'serial'
                 UNION ALL
                 SELECT i.serial, r.at FROM issued i JOIN revocations r
                     ON r.kind = 'spiffe_id' AND r.value = CAST(i.spiffe_id AS BLOB)
                     WHERE i.not_after > ?1
                 UNION ALL
                 SELECT i.serial, r.at FROM issued i JOIN revocations r
                     ON r.kind = 'spki' AND r.value = i.spki
                     WHERE i.not_after > ?1
             ) GROUP BY value ORDER BY value",
        )?
        .query_map([millis(now)], |row| {
            let (serial, at): (Vec<u8>, i64) = (row.get(0)?, row.get(1)?);
            Ok((Serial::from_bytes(&serial), from_millis(at)))
        })?
        .filter_map(|row| match row {
            Ok((Ok(serial), at)) => Some(Ok(RevokedSerial { serial, at })),
            Ok((Err(_), _)) => None,
            Err(error) => Some(Err(error)),
        })
        .collect::<rusqlite::Result<_>>()?;
    Ok(RevocationState {
        revision,
        entries,
        serials,
    })
}

fn next_revision(tx: &Connection) -> rusqlite::Result<u64> {
    tx.prepare_cached(
        "UPDATE revisions SET revision = revision + 1 WHERE name = ?1 RETURNING revision",
    )?
    .query_row([schema::REVOCATIONS], |row| unsigned(row, 0))
}

pub(super) fn audit(tx: &Connection, entry: &AuditEntry) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO audit (at, event, actor, subject, serial, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        millis(entry.at),
        entry.event,
        entry.actor,
        entry.subject,
        entry.serial.as_ref().map(Serial::as_bytes),
        entry.reason
    ])
    .map(|_| ())
}

fn audit_row(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    let serial: Option<Vec<u8>> = row.get(4)?;
    Ok(AuditEntry {
        at: from_millis(row.get(0)?),
        event: row.get(1)?,
        actor: row.get(2)?,
        subject: row.get(3)?,
        serial: serial.and_then(|bytes| Serial::from_bytes(&bytes).ok()),
        reason: row.get(5)?,
    })
}

/// Keeps a used token until its end, so that it is never taken for a new one. A revocation of a
/// certificate goes when that has certainly expired.
fn purge(tx: &Connection, now: i64, audit_before: i64) -> rusqlite::Result<bool> {
    let mut more = false;
    for (sql, before) in [
        (
            "DELETE FROM join_tokens WHERE rowid IN (
                 SELECT rowid FROM join_tokens WHERE not_after < ?1 LIMIT ?2)",
            now - super::model::TOKEN_GRACE_MILLIS,
        ),
        (
            "DELETE FROM issued WHERE rowid IN (
                 SELECT rowid FROM issued WHERE not_after < ?1 LIMIT ?2)",
            now - super::model::CERTIFICATE_GRACE_MILLIS,
        ),
        (
            "DELETE FROM revocations WHERE rowid IN (
                 SELECT rowid FROM revocations WHERE kind = 'serial' AND at < ?1 LIMIT ?2)",
            now - super::model::SERIAL_KEPT_MILLIS,
        ),
        (
            "DELETE FROM audit WHERE rowid IN (
                 SELECT rowid FROM audit WHERE at < ?1 LIMIT ?2)",
            audit_before,
        ),
    ] {
        let removed = tx
            .prepare_cached(sql)?
            .execute(params![before, PURGE_STEP])?;
        more |= i64::try_from(removed).is_ok_and(|removed| removed == PURGE_STEP);
    }
    Ok(more)
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    Ok(u64::try_from(number).unwrap_or(0))
}
