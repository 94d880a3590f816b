//! The same in PostgreSQL, for several replicas.

use std::collections::BTreeMap;

use async_trait::async_trait;
use ringwall_policy::mesh::PolicyUse;
use ringwall_policy::mesh::administration::Version;
use ringwall_store::StoreError;
use ringwall_store::postgres::tokio_postgres::Row;
use time::OffsetDateTime;

use super::embedded::bounded;
use super::{KEPT_VERSIONS, NewVersion, PolicyStore, StoredVersion, Uses};
use crate::store::model::Fence;
use crate::store::postgres::{Postgresql, audit, unsigned};
use crate::store::{from_millis, millis, signed};

const COLUMNS: &str = "version, digest, author, identity, at, note, previous, rollback_of";

#[async_trait]
impl PolicyStore for Postgresql {
    async fn newest_version(&self) -> Result<Option<StoredVersion>, StoreError> {
        let sql =
            format!("SELECT {COLUMNS}, bundle FROM policy_versions ORDER BY version DESC LIMIT 1");
        let client = self.postgres.client().await?;
        let found = client.query_opt(&sql, &[]).await?;
        found.as_ref().map(stored).transpose()
    }

    async fn version(&self, version: u64) -> Result<Option<StoredVersion>, StoreError> {
        let sql = format!("SELECT {COLUMNS}, bundle FROM policy_versions WHERE version = $1");
        let client = self.postgres.client().await?;
        let found = client.query_opt(&sql, &[&signed(version)]).await?;
        found.as_ref().map(stored).transpose()
    }

    async fn versions(&self, before: Option<u64>, limit: u32) -> Result<Vec<Version>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM policy_versions WHERE version < $1
             ORDER BY version DESC LIMIT $2"
        );
        let before = signed(before.unwrap_or(u64::MAX));
        let client = self.postgres.client().await?;
        let found = client.query(&sql, &[&before, &i64::from(limit)]).await?;
        found.iter().map(row).collect()
    }

    async fn add_version(&self, new: &NewVersion, fence: &Fence) -> Result<bool, StoreError> {
        let mut client = self.postgres.client().await?;
        let tx = client.transaction().await?;
        if !Self::holds(&tx, fence).await? {
            return Ok(false);
        }
        let version = &new.version;
        let added = tx
            .execute(
                "INSERT INTO policy_versions (version, digest, author, identity, at, note,
                                              previous, rollback_of, seed, bundle)
                 SELECT $1::bigint + 1, $2::text, $3::text, $4::text, $5::bigint, $6::text, $1::bigint,
                        $7::bigint, $8::text, $9::text
                 WHERE (SELECT coalesce(max(version), 0) FROM policy_versions) = $1::bigint
                 ON CONFLICT DO NOTHING",
                &[
                    &signed(version.previous),
                    &version.digest,
                    &version.author,
                    &version.identity,
                    &millis(version.at),
                    &version.note,
                    &version.rollback_of.map(signed),
                    &new.seed,
                    &new.bundle,
                ],
            )
            .await?;
        if added == 0 {
            return Ok(false);
        }
        audit(&tx, &new.audit_entry()).await?;
        tx.execute(
            "DELETE FROM policy_versions WHERE version + $2::bigint <= $1::bigint",
            &[&signed(version.previous + 1), &signed(KEPT_VERSIONS)],
        )
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn last_seed(&self) -> Result<Option<String>, StoreError> {
        let client = self.postgres.client().await?;
        let found = client
            .query_opt(
                "SELECT seed FROM policy_versions WHERE seed IS NOT NULL
                 ORDER BY version DESC LIMIT 1",
                &[],
            )
            .await?;
        Ok(found.map(|row| row.try_get(0)).transpose()?)
    }

    async fn expect_uses(
        &self,
        names: &[String],
        anew: &[String],
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let mut client = self.postgres.client().await?;
        let tx = client.transaction().await?;
        tx.execute(
            "DELETE FROM policy_uses WHERE name <> ALL($1) OR name = ANY($2)",
            &[&names, &anew],
        )
        .await?;
        tx.execute(
            "INSERT INTO policy_uses (name, permitted, forbidden, dry_run, since)
             SELECT name, 0, 0, 0, $2::bigint FROM unnest($1::text[]) AS name ON CONFLICT DO NOTHING",
            &[&names, &millis(now)],
        )
        .await?;
        tx.commit().await?;
        Ok(())
    }

    async fn add_uses(&self, uses: &BTreeMap<String, PolicyUse>) -> Result<(), StoreError> {
        let column = |count: fn(&PolicyUse) -> u64| -> Vec<i64> {
            uses.values().map(|used| bounded(count(used))).collect()
        };
        let names: Vec<&String> = uses.keys().collect();
        let client = self.postgres.client().await?;
        client
            .execute(
                "UPDATE policy_uses AS known
                 SET permitted = known.permitted + new.permitted,
                     forbidden = known.forbidden + new.forbidden,
                     dry_run = known.dry_run + new.dry_run
                 FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
                      AS new (name, permitted, forbidden, dry_run)
                 WHERE known.name = new.name",
                &[
                    &names,
                    &column(|used| used.permitted),
                    &column(|used| used.forbidden),
                    &column(|used| used.dry_run),
                ],
            )
            .await?;
        Ok(())
    }

    async fn uses(&self) -> Result<Uses, StoreError> {
        let client = self.postgres.client().await?;
        let found = client
            .query(
                "SELECT name, permitted, forbidden, dry_run, since FROM policy_uses",
                &[],
            )
            .await?;
        let uses = found.iter().map(|row| {
            let used = PolicyUse {
                permitted: unsigned(row, 1)?,
                forbidden: unsigned(row, 2)?,
                dry_run: unsigned(row, 3)?,
            };
            Ok((row.try_get(0)?, (used, from_millis(row.try_get(4)?))))
        });
        uses.collect()
    }
}

fn stored(columns: &Row) -> Result<StoredVersion, StoreError> {
    Ok(StoredVersion {
        version: row(columns)?,
        bundle: columns.try_get(8)?,
    })
}

fn row(columns: &Row) -> Result<Version, StoreError> {
    let rollback_of: Option<i64> = columns.try_get(7)?;
    Ok(Version {
        version: unsigned(columns, 0)?,
        digest: columns.try_get(1)?,
        author: columns.try_get(2)?,
        identity: columns.try_get(3)?,
        at: from_millis(columns.try_get(4)?),
        note: columns.try_get(5)?,
        previous: unsigned(columns, 6)?,
        rollback_of: rollback_of.and_then(|of| u64::try_from(of).ok()),
    })
}
