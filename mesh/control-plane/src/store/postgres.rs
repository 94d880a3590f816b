//! The store of several replicas: PostgreSQL.
//!
//! Owns: its SQL. What must be decided once is decided by one statement; what only the leader may
//! write, is written in a transaction that holds the leadership's row.
//! Read next: `embedded.rs`, which does the same for one replica.

use std::time::Duration;

use async_trait::async_trait;
use ringwall_identity::intermediate::RevokedSerial;
use ringwall_identity::{Serial, SpiffeId};
use ringwall_store::StoreError;
use ringwall_store::postgres::tokio_postgres::Row;
use ringwall_store::postgres::{Postgres, Transaction};
use time::OffsetDateTime;

use super::model::{
    AuditEntry, CERTIFICATE_GRACE_MILLIS, Claim, Consumption, Document, Fence, IssuedCertificate,
    JoinRefusal, NewJoinToken, Recorded, Revisions, Revocation, RevocationState,
    SERIAL_KEPT_MILLIS, TOKEN_GRACE_MILLIS, Target, TokenHash,
};
use super::{IdentityStore, from_millis, millis, schema, signed};

/// Rows that one purge step removes from each table.
const PURGE_STEP: i64 = 500;

/// Clones share the pool.
#[derive(Clone)]
pub(crate) struct Postgresql {
    pub(super) postgres: Postgres,
}

impl Postgresql {
    /// Brings the schema up to date.
    pub(crate) async fn open(postgres: Postgres) -> Result<Self, StoreError> {
        postgres.migrate(schema::POSTGRES).await?;
        Ok(Self { postgres })
    }

    /// Whether the fence's holder leads, until `tx` ends: a successor waits for the row.
    pub(super) async fn holds(tx: &Transaction<'_>, fence: &Fence) -> Result<bool, StoreError> {
        let found = tx
            .query_opt(
                "SELECT 1 FROM leadership WHERE name = $1 AND holder = $2 AND epoch = $3 FOR SHARE",
                &[&schema::LEADERSHIP, &fence.holder, &signed(fence.epoch)],
            )
            .await?;
        Ok(found.is_some())
    }
}

#[async_trait]
impl IdentityStore for Postgresql {
    async fn ping(&self) -> Result<(), StoreError> {
        self.postgres.ping().await
    }

    async fn add_join_token(&self, token: &NewJoinToken) -> Result<bool, StoreError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(
                "WITH added AS (
                     INSERT INTO join_tokens (hash, node, created_at, not_after)
                     VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING hash)
                 INSERT INTO audit (at, event, actor, subject, reason)
                 SELECT $3, $5, $6, $7, $8 FROM added",
            )
            .await?;
        let entry = token.audit_entry();
        let added = client
            .execute(
                &statement,
                &[
                    &token.hash.0.as_slice(),
                    &token.node,
                    &millis(token.created_at),
                    &millis(token.not_after),
                    &entry.event,
                    &entry.actor,
                    &entry.subject,
                    &entry.reason,
                ],
            )
            .await?;
        Ok(added == 1)
    }

    /// The one use, as in `embedded.rs`: the row's lock makes callers of all replicas take turns, and
    /// the second one finds the condition false.
    async fn consume_join_token(
        &self,
        hash: &TokenHash,
        by: &[u8; 32],
        now: OffsetDateTime,
    ) -> Result<Consumption, StoreError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(
                "UPDATE join_tokens SET used_at = $2, used_by = $3
                 WHERE hash = $1 AND used_at IS NULL AND not_after > $2
                 RETURNING node",
            )
            .await?;
        let hash = hash.0.as_slice();
        let won = client
            .query_opt(&statement, &[&hash, &millis(now), &by.as_slice()])
            .await?;
        if let Some(row) = won {
            return Ok(Consumption::Won {
                node: row.try_get(0)?,
            });
        }
        let found = client
            .query_opt(
                "SELECT used_at IS NOT NULL FROM join_tokens WHERE hash = $1",
                &[&hash],
            )
            .await?;
        Ok(Consumption::Refused(match found {
            None => JoinRefusal::Unknown,
            Some(row) if row.try_get(0)? => JoinRefusal::Used,
            Some(_) => JoinRefusal::Expired,
        }))
    }

    async fn record_issued(&self, issued: &IssuedCertificate) -> Result<Recorded, StoreError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(
                "WITH added AS (
                     INSERT INTO issued (serial, kind, spiffe_id, spki, issued_at, not_after)
                     SELECT $1, $2, $3, $4, $5, $6
                     WHERE NOT EXISTS (SELECT 1 FROM revocations
                         WHERE (kind = 'spiffe_id' AND value = convert_to($3, 'UTF8'))
                            OR (kind = 'spki' AND value = $4))
                     RETURNING serial)
                 INSERT INTO audit (at, event, actor, subject, serial, reason)
                 SELECT $5, $7, $8, $3, serial, $9 FROM added",
            )
            .await?;
        let entry = issued.audit_entry();
        let added = client
            .execute(
                &statement,
                &[
                    &issued.serial.as_bytes(),
                    &issued.kind.as_str(),
                    &issued.holder.as_str(),
                    &issued.spki.as_slice(),
                    &millis(issued.issued_at),
                    &millis(issued.not_after),
                    &entry.event,
                    &entry.actor,
                    &entry.reason,
                ],
            )
            .await?;
        Ok(if added == 1 {
            Recorded::Yes
        } else {
            Recorded::Revoked
        })
    }

    async fn count_issued(&self) -> Result<u64, StoreError> {
        let client = self.postgres.client().await?;
        let row = client.query_one("SELECT count(*) FROM issued", &[]).await?;
        unsigned(&row, 0)
    }

    async fn revoke(&self, revocation: &Revocation, by: &str) -> Result<u64, StoreError> {
        let mut client = self.postgres.client().await?;
        let tx = client.transaction().await?;
        tx.execute(
            "INSERT INTO revocations (kind, value, at, reason) VALUES ($1, $2, $3, $4)
             ON CONFLICT (kind, value) DO UPDATE SET reason = excluded.reason",
            &[
                &revocation.target.kind(),
                &revocation.target.value(),
                &millis(revocation.at),
                &revocation.reason,
            ],
        )
        .await?;
        audit(&tx, &revocation.audit_entry(by)).await?;
        let revision = next_revision(&tx).await?;
        tx.commit().await?;
        Ok(revision)
    }

    async fn restore(
        &self,
        id: &SpiffeId,
        by: &str,
        now: OffsetDateTime,
    ) -> Result<Option<u64>, StoreError> {
        let target = Target::SpiffeId(id.clone());
        let mut client = self.postgres.client().await?;
        let tx = client.transaction().await?;
        let removed = tx
            .execute(
                "DELETE FROM revocations WHERE kind = $1 AND value = $2",
                &[&target.kind(), &target.value()],
            )
            .await?;
        if removed == 0 {
            return Ok(None);
        }
        audit(&tx, &AuditEntry::restored(&target, by, now)).await?;
        let revision = next_revision(&tx).await?;
        tx.commit().await?;
        Ok(Some(revision))
    }

    async fn revocations(&self, now: OffsetDateTime) -> Result<RevocationState, StoreError> {
        let client = self.postgres.client().await?;
        // The revision first: rows may be newer than it, never older, and then it is asked again.
        let row = client
            .query_one(
                "SELECT revision FROM revisions WHERE name = $1",
                &[&schema::REVOCATIONS],
            )
            .await?;
        let revision = unsigned(&row, 0)?;
        let entries = client
            .query(
                "SELECT kind, value, at, reason FROM revocations ORDER BY at, kind, value",
                &[],
            )
            .await?
            .iter()
            .filter_map(|row| revocation(row).transpose())
            .collect::<Result<_, _>>()?;
        let serials = client
            .query(
                "SELECT value, min(at) FROM (
                     SELECT value, at FROM revocations WHERE kind = 'serial'
                     UNION ALL
                     SELECT i.serial, r.at FROM issued i JOIN revocations r
                         ON r.kind = 'spiffe_id' AND r.value = convert_to(i.spiffe_id, 'UTF8')
                         WHERE i.not_after > $1
                     UNION ALL
                     SELECT i.serial, r.at FROM issued i JOIN revocations r
                         ON r.kind = 'spki' AND r.value = i.spki
                         WHERE i.not_after > $1
                 ) ended GROUP BY value ORDER BY value",
                &[&millis(now)],
            )
            .await?
            .iter()
            .filter_map(|row| revoked_serial(row).transpose())
            .collect::<Result<_, _>>()?;
        Ok(RevocationState {
            revision,
            entries,
            serials,
        })
    }

    async fn revisions(&self) -> Result<Revisions, StoreError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT (SELECT revision FROM revisions WHERE name = $1),
                        coalesce((SELECT revision FROM documents WHERE name = $2), 0)",
            )
            .await?;
        let row = client
            .query_one(&statement, &[&schema::REVOCATIONS, &schema::JWT_KEYS])
            .await?;
        Ok(Revisions {
            revocations: unsigned(&row, 0)?,
            jwt_keys: unsigned(&row, 1)?,
        })
    }

    async fn document(&self, name: &str) -> Result<Option<Document>, StoreError> {
        let client = self.postgres.client().await?;
        let found = client
            .query_opt(
                "SELECT revision, content FROM documents WHERE name = $1",
                &[&name],
            )
            .await?;
        let Some(row) = found else { return Ok(None) };
        Ok(Some(Document {
            revision: unsigned(&row, 0)?,
            content: row.try_get(1)?,
        }))
    }

    async fn replace_document(
        &self,
        name: &str,
        expected: u64,
        content: &[u8],
        fence: Option<&Fence>,
    ) -> Result<bool, StoreError> {
        let mut client = self.postgres.client().await?;
        let tx = client.transaction().await?;
        if let Some(fence) = fence
            && !Self::holds(&tx, fence).await?
        {
            return Ok(false);
        }
        let changed = if expected == 0 {
            tx.execute(
                "INSERT INTO documents (name, revision, content) VALUES ($1, 1, $2)
                 ON CONFLICT DO NOTHING",
                &[&name, &content],
            )
            .await?
        } else {
            tx.execute(
                "UPDATE documents SET revision = revision + 1, content = $2
                 WHERE name = $1 AND revision = $3",
                &[&name, &content, &signed(expected)],
            )
            .await?
        };
        tx.commit().await?;
        Ok(changed == 1)
    }

    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let mut client = self.postgres.client().await?;
        let tx = client.transaction().await?;
        audit(&tx, entry).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn audit_log(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let client = self.postgres.client().await?;
        client
            .query(
                "SELECT at, event, actor, subject, serial, reason FROM audit
                 ORDER BY id DESC LIMIT $1",
                &[&i64::from(limit)],
            )
            .await?
            .iter()
            .map(audit_row)
            .collect()
    }

    async fn purge(
        &self,
        now: OffsetDateTime,
        audit_before: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let client = self.postgres.client().await?;
        let now = millis(now);
        let mut more = false;
        for (sql, before) in [
            (
                "DELETE FROM join_tokens WHERE hash IN (
                     SELECT hash FROM join_tokens WHERE not_after < $1 LIMIT $2)",
                now - TOKEN_GRACE_MILLIS,
            ),
            (
                "DELETE FROM issued WHERE serial IN (
                     SELECT serial FROM issued WHERE not_after < $1 LIMIT $2)",
                now - CERTIFICATE_GRACE_MILLIS,
            ),
            (
                "DELETE FROM revocations WHERE kind = 'serial' AND value IN (
                     SELECT value FROM revocations WHERE kind = 'serial' AND at < $1 LIMIT $2)",
                now - SERIAL_KEPT_MILLIS,
            ),
            (
                "DELETE FROM audit WHERE id IN (
                     SELECT id FROM audit WHERE at < $1 LIMIT $2)",
                millis(audit_before),
            ),
        ] {
            let removed = client.execute(sql, &[&before, &PURGE_STEP]).await?;
            more |= signed(removed) == PURGE_STEP;
        }
        Ok(more)
    }

    /// By the database's clock alone: replicas need not agree about the time. The epoch grows when
    /// the holder changes, and never otherwise.
    async fn lead(&self, holder: &str, ttl: Duration) -> Result<Claim, StoreError> {
        let client = self.postgres.client().await?;
        let statement = client
            .prepare_cached(
                "INSERT INTO leadership AS l (name, holder, epoch, expires_at)
                 VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 millisecond')
                 ON CONFLICT (name) DO UPDATE SET
                     holder = excluded.holder,
                     epoch = l.epoch + CASE WHEN l.holder = excluded.holder THEN 0 ELSE 1 END,
                     expires_at = excluded.expires_at
                 WHERE l.holder = excluded.holder OR l.expires_at < clock_timestamp()",
            )
            .await?;
        let ttl = f64::from(u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX));
        client
            .execute(&statement, &[&schema::LEADERSHIP, &holder, &ttl])
            .await?;
        let statement = client
            .prepare_cached(
                "SELECT holder, epoch,
                        greatest(0, extract(epoch FROM expires_at - clock_timestamp()) * 1000)::bigint
                 FROM leadership WHERE name = $1",
            )
            .await?;
        let row = client.query_one(&statement, &[&schema::LEADERSHIP]).await?;
        let leader: String = row.try_get(0)?;
        Ok(Claim {
            mine: leader == holder,
            holder: leader,
            epoch: unsigned(&row, 1)?,
            remaining: Duration::from_millis(unsigned(&row, 2)?),
        })
    }

    async fn resign(&self, fence: &Fence) -> Result<(), StoreError> {
        let client = self.postgres.client().await?;
        client
            .execute(
                "UPDATE leadership SET expires_at = clock_timestamp()
                 WHERE name = $1 AND holder = $2 AND epoch = $3",
                &[&schema::LEADERSHIP, &fence.holder, &signed(fence.epoch)],
            )
            .await?;
        Ok(())
    }
}

async fn next_revision(tx: &Transaction<'_>) -> Result<u64, StoreError> {
    let row = tx
        .query_one(
            "UPDATE revisions SET revision = revision + 1 WHERE name = $1 RETURNING revision",
            &[&schema::REVOCATIONS],
        )
        .await?;
    unsigned(&row, 0)
}

pub(super) async fn audit(tx: &Transaction<'_>, entry: &AuditEntry) -> Result<(), StoreError> {
    let serial = entry.serial.as_ref().map(Serial::as_bytes);
    tx.execute(
        "INSERT INTO audit (at, event, actor, subject, serial, reason)
         VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            &millis(entry.at),
            &entry.event,
            &entry.actor,
            &entry.subject,
            &serial,
            &entry.reason,
        ],
    )
    .await?;
    Ok(())
}

fn revocation(row: &Row) -> Result<Option<Revocation>, StoreError> {
    let (kind, value): (&str, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
    let Some(target) = Target::parse(kind, value) else {
        return Ok(None);
    };
    Ok(Some(Revocation {
        target,
        at: from_millis(row.try_get(2)?),
        reason: row.try_get(3)?,
    }))
}

fn revoked_serial(row: &Row) -> Result<Option<RevokedSerial>, StoreError> {
    let (serial, at): (&[u8], i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Serial::from_bytes(serial).ok().map(|serial| RevokedSerial {
        serial,
        at: from_millis(at),
    }))
}

fn audit_row(row: &Row) -> Result<AuditEntry, StoreError> {
    let serial: Option<&[u8]> = row.try_get(4)?;
    Ok(AuditEntry {
        at: from_millis(row.try_get(0)?),
        event: row.try_get(1)?,
        actor: row.try_get(2)?,
        subject: row.try_get(3)?,
        serial: serial.and_then(|bytes| Serial::from_bytes(bytes).ok()),
        reason: row.try_get(5)?,
    })
}

pub(super) fn unsigned(row: &Row, column: usize) -> Result<u64, StoreError> {
    let number: i64 = row.try_get(column)?;
    Ok(u64::try_from(number).unwrap_or(0))
}
