//! Authorization requests under way: pushed ones (RFC 9126) and those that wait for a person.

use ringwall_store::StoreError;
use rusqlite::{OptionalExtension as _, Row, params};

use super::{Store, audit, json_column, to_json};
use crate::audit::{Event, Kind};
use crate::authorize::request::AuthorizationRequest;
use crate::clock::UnixTime;
use crate::ids::{ClientId, FamilyId, SessionId, Subject};
use crate::random::TokenHash;
use crate::tokens::Granted;

/// A request that waits for sign-in or consent, bound to one browser.
#[derive(Debug, Clone)]
pub(crate) struct Interaction {
    pub(crate) handle: TokenHash,
    pub(crate) request: AuthorizationRequest,
    /// The session of the sign-in that happened within this interaction.
    pub(crate) signed_in: Option<SessionId>,
    /// Who has consented within this interaction.
    pub(crate) consented_by: Option<Subject>,
}

/// What completes an interaction: the code that the client will redeem.
pub(crate) struct NewCode {
    pub(crate) code: TokenHash,
    pub(crate) family: FamilyId,
    pub(crate) granted: Granted,
    pub(crate) expires_at: UnixTime,
}

impl Store {
    pub(crate) async fn push_request(
        &self,
        handle: TokenHash,
        request: AuthorizationRequest,
        expires_at: UnixTime,
    ) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                c.prepare_cached("INSERT INTO pushed_requests VALUES (?1, ?2, ?3, ?4, NULL)")?
                    .execute(params![
                        handle,
                        request.client_id,
                        to_json(&request)?,
                        expires_at
                    ])?;
                Ok(())
            })
            .await
    }

    /// Takes a pushed request; only the first taker by the client that pushed it gets it
    /// (RFC 9126 §4).
    pub(crate) async fn consume_pushed_request(
        &self,
        handle: TokenHash,
        client: ClientId,
        now: UnixTime,
    ) -> Result<Option<AuthorizationRequest>, StoreError> {
        self.db
            .write(move |c| {
                c.prepare_cached(
                    "UPDATE pushed_requests SET used_at = ?3
                     WHERE handle_sha256 = ?1 AND client_id = ?2
                       AND used_at IS NULL AND expires_at > ?3
                     RETURNING request",
                )?
                .query_row(params![handle, client, now], |row| {
                    json_column(row, "request")
                })
                .optional()
            })
            .await
    }

    pub(crate) async fn open_interaction(
        &self,
        handle: TokenHash,
        browser: TokenHash,
        request: AuthorizationRequest,
        now: UnixTime,
        expires_at: UnixTime,
    ) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                c.prepare_cached(
                    "INSERT INTO interactions VALUES (?1, ?2, ?3, ?4, ?5, NULL, NULL)",
                )?
                .execute(params![
                    handle,
                    browser,
                    to_json(&request)?,
                    now,
                    expires_at
                ])?;
                Ok(())
            })
            .await
    }

    /// The interaction, if this browser began it and there is time left.
    pub(crate) async fn interaction(
        &self,
        handle: TokenHash,
        browser: TokenHash,
        now: UnixTime,
    ) -> Result<Option<Interaction>, StoreError> {
        self.db
            .read(move |c| {
                c.prepare_cached(
                    "SELECT request, signed_in, consented_by FROM interactions
                     WHERE handle_sha256 = ?1 AND browser_sha256 = ?2 AND expires_at > ?3",
                )?
                .query_row(params![handle, browser, now], |row| from_row(handle, row))
                .optional()
            })
            .await
    }

    /// Ends the interaction without a code; `false` when it had ended already.
    pub(crate) async fn close_interaction(
        &self,
        handle: TokenHash,
        event: Option<Event>,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.db
            .write(move |c| {
                let gone = c.execute(
                    "DELETE FROM interactions WHERE handle_sha256 = ?1",
                    params![handle],
                )?;
                if let Some(event) = event.filter(|_| gone == 1) {
                    audit::append(c, &event, now)?;
                }
                Ok(gone == 1)
            })
            .await
    }

    /// Ends the interaction with a code. Deleting the row decides: a form that is sent twice
    /// yields one code.
    pub(crate) async fn complete_interaction(
        &self,
        interaction: Interaction,
        code: NewCode,
    ) -> Result<bool, StoreError> {
        self.db
            .write(move |c| {
                let gone = c.execute(
                    "DELETE FROM interactions WHERE handle_sha256 = ?1",
                    params![interaction.handle],
                )?;
                if gone == 1 {
                    insert_code(c, &interaction.request, &code)?;
                }
                Ok(gone == 1)
            })
            .await
    }

    /// A code without an interaction: the user was signed in and nothing had to be asked.
    pub(crate) async fn grant_code(
        &self,
        request: AuthorizationRequest,
        code: NewCode,
    ) -> Result<(), StoreError> {
        self.db
            .write(move |c| insert_code(c, &request, &code))
            .await
    }
}

fn from_row(handle: TokenHash, row: &Row<'_>) -> rusqlite::Result<Interaction> {
    Ok(Interaction {
        handle,
        request: json_column(row, "request")?,
        signed_in: row.get("signed_in")?,
        consented_by: row.get("consented_by")?,
    })
}

fn insert_code(
    c: &rusqlite::Connection,
    request: &AuthorizationRequest,
    new: &NewCode,
) -> rusqlite::Result<()> {
    c.prepare_cached("INSERT INTO codes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, NULL)")?
        .execute(params![
            new.code,
            request.client_id,
            request.redirect_uri,
            request.code_challenge,
            new.family,
            to_json(&new.granted)?,
            new.expires_at
        ])?;
    c.prepare_cached("INSERT OR IGNORE INTO session_clients VALUES (?1, ?2)")?
        .execute(params![new.granted.session, request.client_id])?;
    Ok(())
}

/// The audit event of a refused consent.
pub(crate) fn denied(sub: &Subject, client: &ClientId) -> Event {
    Event::new(Kind::ConsentDenied).subject(sub).client(client)
}
