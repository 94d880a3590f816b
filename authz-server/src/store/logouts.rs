//! The end of a session: its tokens, and the logout tokens that clients are still owed.

use ringwall_store::StoreError;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Store, audit};
use crate::audit::{Event, Kind};
use crate::clock::UnixTime;
use crate::ids::{ClientId, SessionId, Subject};

/// A logout token to be delivered (OpenID Connect Back-Channel Logout §2.5).
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) id: i64,
    pub(crate) client: ClientId,
    pub(crate) sub: Subject,
    pub(crate) sid: SessionId,
    pub(crate) attempts: u32,
}

impl Store {
    /// Ends a session, everything that was issued in it included, and queues a delivery for each
    /// client that took part. `false` when it had ended already.
    pub(crate) async fn end_session(
        &self,
        sid: SessionId,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.db.write(move |c| end_session(c, &sid, now)).await
    }

    pub(crate) async fn due_deliveries(
        &self,
        now: UnixTime,
        most: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.db
            .read(move |c| {
                let mut statement = c.prepare_cached(
                    "SELECT id, client_id, sub, sid, attempts FROM logout_deliveries
                     WHERE next_at <= ?1 ORDER BY next_at LIMIT ?2",
                )?;
                let rows = statement.query_map(params![now, most], |row| {
                    Ok(Delivery {
                        id: row.get(0)?,
                        client: row.get(1)?,
                        sub: row.get(2)?,
                        sid: row.get(3)?,
                        attempts: row.get(4)?,
                    })
                })?;
                rows.collect()
            })
            .await
    }

    pub(crate) async fn delivered(&self, id: i64) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                c.execute("DELETE FROM logout_deliveries WHERE id = ?1", params![id])
                    .map(drop)
            })
            .await
    }

    pub(crate) async fn retry_delivery(&self, id: i64, at: UnixTime) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                c.execute(
                    "UPDATE logout_deliveries SET attempts = attempts + 1, next_at = ?2
                     WHERE id = ?1",
                    params![id, at],
                )
                .map(drop)
            })
            .await
    }
}

/// Ends a session inside a transaction of the caller.
///
/// Refresh tokens with `offline_access` end too: stricter than Back-Channel Logout §2.7 asks, so
/// that "sign out" means that nothing acts for the user any more.
pub(super) fn end_session(
    c: &Connection,
    sid: &SessionId,
    now: UnixTime,
) -> rusqlite::Result<bool> {
    let sub: Option<Subject> = c
        .prepare_cached(
            "UPDATE login_sessions SET ended_at = ?2 WHERE sid = ?1 AND ended_at IS NULL
             RETURNING sub",
        )?
        .query_row(params![sid, now], |row| row.get(0))
        .optional()?;
    let Some(sub) = sub else {
        return Ok(false);
    };
    c.execute(
        "UPDATE families SET revoked_at = ?2, revoked_because = 'signed out'
         WHERE sid = ?1 AND revoked_at IS NULL",
        params![sid, now],
    )?;
    c.execute(
        "INSERT INTO logout_deliveries (client_id, sub, sid, created_at, next_at)
         SELECT client_id, ?2, sid, ?3, ?3 FROM session_clients WHERE sid = ?1",
        params![sid, sub, now],
    )?;
    audit::append(c, &Event::new(Kind::SignedOut).subject(&sub), now)?;
    Ok(true)
}
