//! Clients that live in the database (the demo ones), and the single use of client assertions.

use ringwall_store::StoreError;
use rusqlite::params;

use super::{Store, audit, json_column, to_json};
use crate::audit::{Event, Kind};
use crate::clock::UnixTime;
use crate::config::clients::ClientDeclaration;
use crate::ids::ClientId;
use crate::random::TokenHash;

/// A stored client with the digest of its secret.
pub(crate) struct StoredClient {
    pub(crate) declaration: ClientDeclaration,
    pub(crate) secret_sha256: Option<Vec<u8>>,
}

impl Store {
    pub(crate) async fn stored_clients(&self) -> Result<Vec<StoredClient>, StoreError> {
        self.db
            .read(|c| {
                let mut statement = c.prepare("SELECT declaration, secret_sha256 FROM clients")?;
                let rows = statement.query_map([], |row| {
                    Ok(StoredClient {
                        declaration: json_column(row, "declaration")?,
                        secret_sha256: row.get("secret_sha256")?,
                    })
                })?;
                rows.collect()
            })
            .await
    }

    /// Replaces the demo clients by the given ones.
    pub(crate) async fn seed_clients(&self, clients: Vec<StoredClient>) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                c.execute("DELETE FROM clients WHERE origin = 'demo'", [])?;
                for client in &clients {
                    c.execute(
                        "INSERT INTO clients VALUES (?1, ?2, ?3, 'demo')",
                        params![
                            client.declaration.id,
                            to_json(&client.declaration)?,
                            client.secret_sha256
                        ],
                    )?;
                }
                Ok(())
            })
            .await
    }

    /// Takes the `jti` of a client assertion; `false` when it was taken before (RFC 7523 §3,
    /// item 7).
    pub(crate) async fn consume_assertion(
        &self,
        client: ClientId,
        jti: TokenHash,
        expires_at: UnixTime,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.db
            .write(move |c| {
                let taken = c
                    .prepare_cached("INSERT OR IGNORE INTO assertions VALUES (?1, ?2, ?3)")?
                    .execute(params![client, jti, expires_at])?;
                if taken == 0 {
                    audit::append(c, &Event::new(Kind::AssertionReplayed).client(&client), now)?;
                }
                Ok(taken == 1)
            })
            .await
    }
}
