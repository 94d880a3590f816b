//! Sign-ins: one row per browser and user, found by the digest of its cookie.

use std::time::Duration;

use ringwall_store::StoreError;
use rusqlite::{OptionalExtension as _, Row, params};

use super::{Store, audit};
use crate::audit::{Event, Kind};
use crate::clock::UnixTime;
use crate::ids::{SessionId, Subject};
use crate::random::TokenHash;

/// A sign-in that is usable now.
#[derive(Debug, Clone)]
pub(crate) struct LoginSession {
    pub(crate) sid: SessionId,
    pub(crate) sub: Subject,
    pub(crate) auth_time: UnixTime,
    pub(crate) acr: String,
}

/// A sign-in that has just succeeded.
pub(crate) struct NewSession {
    pub(crate) session: LoginSession,
    pub(crate) cookie: TokenHash,
    pub(crate) expires_at: UnixTime,
    /// Where it came from, for the audit log.
    pub(crate) address: String,
    /// The browser's former sign-in, which the new one takes over when it is the same user's.
    pub(crate) former: Option<SessionId>,
    /// Where the sign-in was asked for.
    pub(crate) interaction: TokenHash,
}

impl Store {
    /// Begins a session. A sign-in by the same user in the same browser (step-up, `prompt=login`)
    /// keeps the `sid`, so that one sign-out still ends everything, but gets a new cookie.
    pub(crate) async fn begin_session(&self, new: NewSession) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                let s = &new.session;
                c.execute(
                    "INSERT INTO login_sessions VALUES (?1, ?2, ?3, ?4, ?5, ?4, ?6, NULL)
                     ON CONFLICT (sid) DO UPDATE SET cookie_sha256 = excluded.cookie_sha256,
                       auth_time = excluded.auth_time, acr = excluded.acr,
                       last_used_at = excluded.last_used_at, expires_at = excluded.expires_at",
                    params![s.sid, new.cookie, s.sub, s.auth_time, s.acr, new.expires_at],
                )?;
                if let Some(former) = new.former.as_ref().filter(|former| **former != s.sid) {
                    super::logouts::end_session(c, former, s.auth_time)?;
                }
                c.execute(
                    "UPDATE interactions SET signed_in = ?2 WHERE handle_sha256 = ?1",
                    params![new.interaction, s.sid],
                )?;
                c.execute(
                    "UPDATE users SET last_login_at = ?2 WHERE sub = ?1",
                    params![s.sub, s.auth_time],
                )?;
                let event = Event::new(Kind::SignedIn)
                    .subject(&s.sub)
                    .detail(new.address);
                audit::append(c, &event, s.auth_time)
            })
            .await
    }

    /// The session of a cookie: not ended, not too old, not idle too long, user not disabled.
    pub(crate) async fn session(
        &self,
        cookie: TokenHash,
        idle: Duration,
        now: UnixTime,
    ) -> Result<Option<LoginSession>, StoreError> {
        let idle = i64::try_from(idle.as_secs()).unwrap_or(i64::MAX);
        self.db
            .read(move |c| {
                c.prepare_cached(
                    "SELECT sid, sub, auth_time, acr FROM login_sessions JOIN users USING (sub)
                     WHERE cookie_sha256 = ?1 AND ended_at IS NULL AND expires_at > ?2
                       AND last_used_at + ?3 > ?2 AND disabled = 0",
                )?
                .query_row(params![cookie, now, idle], session_row)
                .optional()
            })
            .await
    }

    /// Notes use, which puts off the idle end.
    pub(crate) async fn touch_session(
        &self,
        sid: SessionId,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                c.execute(
                    "UPDATE login_sessions SET last_used_at = ?2 WHERE sid = ?1",
                    params![sid, now],
                )
                .map(drop)
            })
            .await
    }
}

fn session_row(row: &Row<'_>) -> rusqlite::Result<LoginSession> {
    Ok(LoginSession {
        sid: row.get("sid")?,
        sub: row.get("sub")?,
        auth_time: row.get("auth_time")?,
        acr: row.get("acr")?,
    })
}
