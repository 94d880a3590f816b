//! Redemption of authorization codes: once, by the client and with the verifier they were made for.

use ringwall_store::StoreError;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Store, audit, directory, json_column, to_json, tokens};
use crate::audit::{Event, Kind};
use crate::clock::UnixTime;
use crate::ids::{ClientId, FamilyId};
use crate::random::TokenHash;
use crate::tokens::{Granted, Mint, UserTokens};

/// What a client presents (RFC 6749 §4.1.3, RFC 7636 §4.5).
pub(crate) struct Redemption {
    pub(crate) code: TokenHash,
    pub(crate) client: ClientId,
    pub(crate) redirect_uri: String,
    /// S256 of the presented verifier.
    pub(crate) code_challenge: String,
    /// When the family that begins here ends for good.
    pub(crate) family_expires_at: UnixTime,
    /// Digest of the first refresh token, for clients that get one.
    pub(crate) refresh: Option<TokenHash>,
    pub(crate) mint: Mint,
}

/// The result of a redemption.
pub(crate) enum Redeemed {
    Granted(Box<UserTokens>),
    /// The code was spent before: its family is revoked now.
    Replayed,
    Refused,
}

impl Store {
    pub(crate) async fn redeem_code(
        &self,
        presented: Redemption,
        now: UnixTime,
    ) -> Result<Redeemed, StoreError> {
        self.db
            .write(move |c| match consume(c, &presented, now)? {
                Some((family, granted)) => begin_family(c, &presented, family, granted),
                None => explain_refusal(c, &presented, now),
            })
            .await
    }
}

/// The one statement that decides: everything that must hold stands in its condition, so that a
/// wrong verifier does not burn the code and a second redemption cannot succeed.
fn consume(
    c: &Connection,
    presented: &Redemption,
    now: UnixTime,
) -> rusqlite::Result<Option<(FamilyId, Granted)>> {
    c.prepare_cached(
        "UPDATE codes SET used_at = ?5
         WHERE code_sha256 = ?1 AND client_id = ?2 AND redirect_uri = ?3 AND code_challenge = ?4
           AND used_at IS NULL AND expires_at > ?5
         RETURNING family, granted",
    )?
    .query_row(
        params![
            presented.code,
            presented.client,
            presented.redirect_uri,
            presented.code_challenge,
            now
        ],
        |row| Ok((row.get("family")?, json_column(row, "granted")?)),
    )
    .optional()
}

fn begin_family(
    c: &Connection,
    presented: &Redemption,
    family: FamilyId,
    granted: Granted,
) -> rusqlite::Result<Redeemed> {
    let session_ended = !c
        .prepare_cached("SELECT 1 FROM login_sessions WHERE sid = ?1 AND ended_at IS NULL")?
        .exists(params![granted.session])?;
    let standing = directory::standing(c, &granted.subject)?;
    let Some(standing) = standing.filter(|s| !session_ended && s.may_reach(&granted.audience))
    else {
        return Ok(Redeemed::Refused);
    };
    c.prepare_cached("INSERT INTO families VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL, NULL)")?
        .execute(params![
            family,
            presented.client,
            granted.subject,
            granted.session,
            to_json(&granted)?,
            presented.family_expires_at
        ])?;
    if let Some(refresh) = presented.refresh {
        c.prepare_cached("INSERT INTO refresh_tokens VALUES (?1, ?2, ?3, NULL, NULL)")?
            .execute(params![refresh, family, presented.family_expires_at])?;
    }
    let scopes = granted.scopes.clone();
    let record = presented
        .mint
        .record(family, &granted, scopes, presented.family_expires_at);
    tokens::insert_access(c, &record)?;
    Ok(Redeemed::Granted(Box::new(UserTokens {
        record,
        granted,
        standing,
    })))
}

/// RFC 6749 §4.1.2: a code used twice is a theft; whatever was issued from it is revoked, whoever
/// presents it.
fn explain_refusal(
    c: &Connection,
    presented: &Redemption,
    now: UnixTime,
) -> rusqlite::Result<Redeemed> {
    let spent: Option<FamilyId> = c
        .prepare_cached("SELECT family FROM codes WHERE code_sha256 = ?1 AND used_at IS NOT NULL")?
        .query_row(params![presented.code], |row| row.get(0))
        .optional()?;
    let Some(family) = spent else {
        return Ok(Redeemed::Refused);
    };
    revoke_family(c, &family, "code replayed", now)?;
    let event = Event::new(Kind::CodeReplayed).client(&presented.client);
    audit::append(c, &event.detail(format!("family {family}")), now)?;
    Ok(Redeemed::Replayed)
}

/// Revokes a family: with it, every refresh token and every access token of it is dead, because
/// each check joins the family.
pub(super) fn revoke_family(
    c: &Connection,
    family: &FamilyId,
    because: &str,
    now: UnixTime,
) -> rusqlite::Result<()> {
    c.prepare_cached(
        "UPDATE families SET revoked_at = ?2, revoked_because = ?3
         WHERE family = ?1 AND revoked_at IS NULL",
    )?
    .execute(params![family, now, because])?;
    Ok(())
}
