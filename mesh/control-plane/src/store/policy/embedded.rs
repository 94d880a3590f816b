//! The same in the embedded database. There is one replica, so that a fence says nothing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use ringwall_policy::mesh::PolicyUse;
use ringwall_policy::mesh::administration::Version;
use ringwall_store::StoreError;
use ringwall_store::rusqlite::{self, OptionalExtension, Row, params};
use time::OffsetDateTime;

use super::{KEPT_VERSIONS, NewVersion, PolicyStore, StoredVersion, Uses};
use crate::store::embedded::{Embedded, audit, unsigned};
use crate::store::model::Fence;
use crate::store::{from_millis, millis, signed};

const COLUMNS: &str = "version, digest, author, identity, at, note, previous, rollback_of";

#[async_trait]
impl PolicyStore for Embedded {
    async fn newest_version(&self) -> Result<Option<StoredVersion>, StoreError> {
        self.database
            .read(|tx| {
                let sql = format!(
                    "SELECT {COLUMNS}, bundle FROM policy_versions ORDER BY version DESC LIMIT 1"
                );
                tx.prepare_cached(&sql)?.query_row([], stored).optional()
            })
            .await
    }

    async fn version(&self, version: u64) -> Result<Option<StoredVersion>, StoreError> {
        self.database
            .read(move |tx| {
                let sql =
                    format!("SELECT {COLUMNS}, bundle FROM policy_versions WHERE version = ?1");
                tx.prepare_cached(&sql)?
                    .query_row([signed(version)], stored)
                    .optional()
            })
            .await
    }

    async fn versions(&self, before: Option<u64>, limit: u32) -> Result<Vec<Version>, StoreError> {
        let before = signed(before.unwrap_or(u64::MAX));
        self.database
            .read(move |tx| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM policy_versions WHERE version < ?1
                     ORDER BY version DESC LIMIT ?2"
                );
                tx.prepare_cached(&sql)?
                    .query_map(params![before, limit], row)?
                    .collect()
            })
            .await
    }

    async fn add_version(&self, new: &NewVersion, _: &Fence) -> Result<bool, StoreError> {
        let new = new.clone();
        self.database
            .write(move |tx| {
                let version = &new.version;
                let added = tx
                    .prepare_cached(
                        "INSERT INTO policy_versions (version, digest, author, identity, at, note,
                                                      previous, rollback_of, seed, bundle)
                         SELECT ?1 + 1, ?2, ?3, ?4, ?5, ?6, ?1, ?7, ?8, ?9
                         WHERE (SELECT coalesce(max(version), 0) FROM policy_versions) = ?1",
                    )?
                    .execute(params![
                        signed(version.previous),
                        version.digest,
                        version.author,
                        version.identity,
                        millis(version.at),
                        version.note,
                        version.rollback_of.map(signed),
                        new.seed,
                        new.bundle,
                    ])?;
                if added == 0 {
                    return Ok(false);
                }
                audit(tx, &new.audit_entry())?;
                tx.prepare_cached("DELETE FROM policy_versions WHERE version + ?2 <= ?1")?
                    .execute(params![signed(version.previous + 1), signed(KEPT_VERSIONS)])?;
                Ok(true)
            })
            .await
    }

    async fn last_seed(&self) -> Result<Option<String>, StoreError> {
        self.database
            .read(|tx| {
                tx.query_row(
                    "SELECT seed FROM policy_versions WHERE seed IS NOT NULL
                     ORDER BY version DESC LIMIT 1",
                    [],
                    |row| row.get(0),
                )
                .optional()
            })
            .await
    }

    async fn expect_uses(
        &self,
        names: &[String],
        anew: &[String],
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let (names, anew) = (names.to_vec(), anew.to_vec());
        self.database
            .write(move |tx| {
                let known: Vec<String> = tx
                    .prepare_cached("SELECT name FROM policy_uses")?
                    .query_map([], |row| row.get(0))?
                    .collect::<rusqlite::Result<_>>()?;
                for name in known
                    .iter()
                    .filter(|name| !names.contains(name))
                    .chain(&anew)
                {
                    tx.prepare_cached("DELETE FROM policy_uses WHERE name = ?1")?
                        .execute([name])?;
                }
                for name in &names {
                    tx.prepare_cached(
                        "INSERT INTO policy_uses (name, permitted, forbidden, dry_run, since)
                         VALUES (?1, 0, 0, 0, ?2) ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![name, millis(now)])?;
                }
                Ok(())
            })
            .await
    }

    async fn add_uses(&self, uses: &BTreeMap<String, PolicyUse>) -> Result<(), StoreError> {
        let uses = uses.clone();
        self.database
            .write(move |tx| {
                let mut add = tx.prepare_cached(
                    "UPDATE policy_uses SET permitted = permitted + ?2,
                            forbidden = forbidden + ?3, dry_run = dry_run + ?4
                     WHERE name = ?1",
                )?;
                for (name, used) in &uses {
                    let [permitted, forbidden, dry_run] =
                        [used.permitted, used.forbidden, used.dry_run].map(bounded);
                    add.execute(params![name, permitted, forbidden, dry_run])?;
                }
                Ok(())
            })
            .await
    }

    async fn uses(&self) -> Result<Uses, StoreError> {
        self.database
            .read(|tx| {
                tx.prepare_cached(
                    "SELECT name, permitted, forbidden, dry_run, since FROM policy_uses",
                )?
                .query_map([], |row| {
                    let used = PolicyUse {
                        permitted: unsigned(row, 1)?,
                        forbidden: unsigned(row, 2)?,
                        dry_run: unsigned(row, 3)?,
                    };
                    Ok((row.get(0)?, (used, from_millis(row.get(4)?))))
                })?
                .collect()
            })
            .await
    }
}

/// So small that a sum never overflows a column.
pub(super) fn bounded(count: u64) -> i64 {
    signed(count.min(1 << 40))
}

fn stored(columns: &Row<'_>) -> rusqlite::Result<StoredVersion> {
    Ok(StoredVersion {
        version: row(columns)?,
        bundle: columns.get(8)?,
    })
}

fn row(columns: &Row<'_>) -> rusqlite::Result<Version> {
    let rollback_of: Option<i64> = columns.get(7)?;
    Ok(Version {
        version: unsigned(columns, 0)?,
        digest: columns.get(1)?,
        author: columns.get(2)?,
        identity: columns.get(3)?,
        at: from_millis(columns.get(4)?),
        note: columns.get(5)?,
        previous: unsigned(columns, 6)?,
        rollback_of: rollback_of.and_then(|of| u64::try_from(of).ok()),
    })
}
