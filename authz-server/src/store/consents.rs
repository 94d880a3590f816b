//! Remembered consents: which scopes a user has granted to a client.

use ringwall_store::StoreError;
use rusqlite::params;

#[cfg(test)]
use super::texts;
use super::{Store, audit};
use crate::audit::{Event, Kind};
use crate::clock::UnixTime;
use crate::ids::{ClientId, Subject};
use crate::random::TokenHash;
use crate::scopes::Scopes;

impl Store {
    pub(crate) async fn consented(
        &self,
        sub: Subject,
        client: ClientId,
    ) -> Result<Scopes, StoreError> {
        self.db
            .read(move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT scope FROM consents WHERE sub = ?1 AND client_id = ?2",
                )?;
                let rows = statement.query_map(params![sub, client], |row| row.get(0))?;
                rows.collect()
            })
            .await
    }

    /// Remembers the consent, and marks the interaction so that `prompt=consent` is satisfied.
    pub(crate) async fn consent(
        &self,
        sub: Subject,
        client: ClientId,
        scopes: Scopes,
        interaction: TokenHash,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                for scope in scopes.iter() {
                    c.execute(
                        "INSERT OR REPLACE INTO consents VALUES (?1, ?2, ?3, ?4)",
                        params![sub, client, scope, now],
                    )?;
                }
                c.execute(
                    "UPDATE interactions SET consented_by = ?2 WHERE handle_sha256 = ?1",
                    params![interaction, sub],
                )?;
                let event = Event::new(Kind::ConsentGranted)
                    .subject(&sub)
                    .client(&client);
                audit::append(c, &event.detail(scopes.to_string()), now)
            })
            .await
    }
}

/// Used by tests to look into the database.
#[cfg(test)]
impl Store {
    pub(crate) async fn audit_events(&self, kind: Kind) -> usize {
        self.db
            .read(move |c| texts(c, "SELECT event FROM audit WHERE event = ?1", kind.as_str()))
            .await
            .unwrap()
            .len()
    }
}
