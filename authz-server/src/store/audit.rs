//! The audit table: append-only by trigger, chained by hash so that an edited row shows (R55).

use aws_lc_rs::digest;
use ringwall_store::StoreError;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Store;
use crate::audit::Event;
use crate::clock::UnixTime;

const GENESIS: [u8; 32] = [0; 32];

impl Store {
    /// Appends one event and returns when it is on disk.
    pub(crate) async fn audit(&self, event: Event, now: UnixTime) -> Result<(), StoreError> {
        self.db.write(move |c| append(c, &event, now)).await
    }

    /// Recomputes the chain; the number of the first row that does not fit, if any.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the report over the log reads it")
    )]
    pub(crate) async fn audit_break(&self) -> Result<Option<i64>, StoreError> {
        self.db
            .read(|c| {
                let mut statement = c.prepare(
                    "SELECT seq, at, event, subject, client_id, detail, hash FROM audit
                     ORDER BY seq",
                )?;
                let mut rows = statement.query([])?;
                let mut previous = GENESIS.to_vec();
                while let Some(row) = rows.next()? {
                    let subject: Option<String> = row.get(3)?;
                    let client: Option<String> = row.get(4)?;
                    let event: String = row.get(2)?;
                    let detail: String = row.get(5)?;
                    let expected = link(
                        &previous,
                        row.get(1)?,
                        [
                            &event,
                            &subject.unwrap_or_default(),
                            &client.unwrap_or_default(),
                            &detail,
                        ],
                    );
                    let stored: Vec<u8> = row.get(6)?;
                    if stored != expected {
                        return row.get(0).map(Some);
                    }
                    previous = stored;
                }
                Ok(None)
            })
            .await
    }
}

/// Appends inside a transaction of the caller. The single writer makes the chain linear.
pub(super) fn append(c: &Connection, event: &Event, now: UnixTime) -> rusqlite::Result<()> {
    let previous: Option<Vec<u8>> = c
        .prepare_cached("SELECT hash FROM audit ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    let subject = event.subject.as_ref().map_or("", |s| s.as_str());
    let client = event.client.as_ref().map_or("", |s| s.as_str());
    let hash = link(
        previous.as_deref().unwrap_or(&GENESIS),
        now,
        [event.kind.as_str(), subject, client, &event.detail],
    );
    c.prepare_cached(
        "INSERT INTO audit (at, event, subject, client_id, detail, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        now,
        event.kind.as_str(),
        event.subject,
        event.client,
        event.detail,
        hash
    ])?;
    Ok(())
}

fn link(previous: &[u8], at: UnixTime, parts: [&str; 4]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(previous);
    context.update(&at.seconds().to_be_bytes());
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Kind;

    #[tokio::test]
    async fn r55_the_audit_log_cannot_be_edited_and_shows_tampering() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authz.db");
        let store = Store::open(&path).unwrap();
        for n in 0..3 {
            let event = Event::new(Kind::SignedIn).detail(format!("{n}"));
            store.audit(event, UnixTime::from_seconds(n)).await.unwrap();
        }
        assert_eq!(store.audit_break().await.unwrap(), None);
        let edit = "UPDATE audit SET detail = 'x' WHERE seq = 2";
        assert!(store.db.write(move |c| c.execute(edit, [])).await.is_err());
        assert!(
            store
                .db
                .write(|c| c.execute("DELETE FROM audit", []))
                .await
                .is_err()
        );
        // Somebody with the file itself can drop the trigger; the chain still shows the edit.
        store
            .db
            .write(move |c| {
                c.execute("DROP TRIGGER audit_is_append_only_update", [])?;
                c.execute(edit, [])
            })
            .await
            .unwrap();
        assert_eq!(store.audit_break().await.unwrap(), Some(2));
    }
}
