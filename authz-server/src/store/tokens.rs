//! Refresh rotation, access token records and revocation.
//!
//! Rotation (R9): the first presentation of a refresh token spends it and stores the digest of its
//! successor. The successor's text is derived from the presented one, so within the retry window
//! the same client gets the same answer again; every other second presentation is a theft and
//! revokes the family (RFC 9700 §4.14.2).

use std::time::Duration;

use ringwall_proto::introspection::Actor;
use ringwall_store::StoreError;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::codes::revoke_family;
use super::{Store, audit, directory, json_column, to_json};
use crate::acl::Standing;
use crate::audit::{Event, Kind};
use crate::clock::UnixTime;
use crate::ids::{ClientId, FamilyId, SessionId, Subject, TokenId};
use crate::random::TokenHash;
use crate::scopes::Scopes;
use crate::tokens::{Granted, Mint, UserTokens};

/// What the server remembers of an access token; for a reference token, all that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessRecord {
    pub(crate) jti: TokenId,
    /// Digest of a reference token; JWTs are recognised by signature and `jti`.
    pub(crate) reference: Option<TokenHash>,
    pub(crate) family: Option<FamilyId>,
    pub(crate) client: ClientId,
    pub(crate) sub: Subject,
    /// Whether `sub` is a user; otherwise it is the client itself.
    pub(crate) user: bool,
    pub(crate) sid: Option<SessionId>,
    pub(crate) audience: String,
    pub(crate) scopes: Scopes,
    pub(crate) acr: Option<String>,
    pub(crate) auth_time: Option<UnixTime>,
    pub(crate) act: Option<Actor>,
    pub(crate) issued_at: UnixTime,
    pub(crate) expires_at: UnixTime,
}

/// A token that is usable now, with what its user is now.
#[derive(Debug, Clone)]
pub(crate) struct LiveToken {
    pub(crate) record: AccessRecord,
    pub(crate) standing: Standing,
}

/// What is presented to find an access token.
#[derive(Debug, Clone)]
pub(crate) enum Handle {
    Jwt(TokenId),
    Reference(TokenHash),
}

/// A presented refresh token and its derived successor.
pub(crate) struct Rotation {
    pub(crate) presented: TokenHash,
    pub(crate) successor: TokenHash,
    pub(crate) client: ClientId,
    pub(crate) retry_window: Duration,
    /// A narrower scope, if one was asked for; it must be inside what was granted.
    pub(crate) wanted: Option<Scopes>,
    pub(crate) mint: Mint,
}

/// The result of a rotation.
pub(crate) enum Rotated {
    /// Also the repeated answer within the retry window.
    Granted(Box<UserTokens>),
    /// Seen before, outside what a lost response explains: the family is revoked now.
    Replayed,
    /// The wanted scope is wider than what was granted; nothing was spent.
    TooWide,
    Refused,
}

impl Store {
    pub(crate) async fn rotate(
        &self,
        rotation: Rotation,
        now: UnixTime,
    ) -> Result<Rotated, StoreError> {
        self.db
            .write(move |c| {
                if asks_too_much(c, &rotation)? {
                    return Ok(Rotated::TooWide);
                }
                if spend(c, &rotation, now)? || is_lost_response(c, &rotation, now)? {
                    return issue(c, rotation);
                }
                explain_refusal(c, &rotation, now)
            })
            .await
    }

    /// Stores an access token, unless its family or session has ended meanwhile.
    pub(crate) async fn record_access(
        &self,
        record: AccessRecord,
        event: Option<Event>,
    ) -> Result<bool, StoreError> {
        self.db
            .write(move |c| {
                let stored = insert_access(c, &record)?;
                if let Some(event) = event.filter(|_| stored) {
                    audit::append(c, &event, record.issued_at)?;
                }
                Ok(stored)
            })
            .await
    }

    /// The token, if nothing has ended it: expiry, revocation, its family, its session, its user.
    pub(crate) async fn live_token(
        &self,
        handle: Handle,
        now: UnixTime,
    ) -> Result<Option<LiveToken>, StoreError> {
        self.db.read(move |c| live_token(c, &handle, now)).await
    }

    /// Revokes one access token of this client; `false` when it is not the client's (RFC 7009).
    pub(crate) async fn revoke_access(
        &self,
        handle: Handle,
        client: ClientId,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.db
            .write(move |c| {
                let (condition, key) = condition(&handle);
                let sql = format!(
                    "UPDATE access_tokens SET revoked_at = ?3
                     WHERE {condition} AND client_id = ?2 AND revoked_at IS NULL"
                );
                let revoked = c.prepare_cached(&sql)?.execute(params![key, client, now])?;
                if revoked == 1 {
                    audit::append(c, &Event::new(Kind::TokenRevoked).client(&client), now)?;
                }
                Ok(revoked == 1)
            })
            .await
    }

    /// Revokes the family of a refresh token of this client, spent or not.
    pub(crate) async fn revoke_refresh(
        &self,
        token: TokenHash,
        client: ClientId,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.db
            .write(move |c| {
                let family: Option<FamilyId> = c
                    .prepare_cached(
                        "SELECT family FROM refresh_tokens NATURAL JOIN families
                         WHERE token_sha256 = ?1 AND client_id = ?2",
                    )?
                    .query_row(params![token, client], |row| row.get(0))
                    .optional()?;
                let Some(family) = family else {
                    return Ok(false);
                };
                revoke_family(c, &family, "revoked by the client", now)?;
                let event = Event::new(Kind::TokenRevoked).client(&client);
                audit::append(c, &event.detail(format!("family {family}")), now)?;
                Ok(true)
            })
            .await
    }
}

fn asks_too_much(c: &Connection, rotation: &Rotation) -> rusqlite::Result<bool> {
    let Some(wanted) = &rotation.wanted else {
        return Ok(false);
    };
    let granted: Option<Granted> = c
        .prepare_cached(
            "SELECT granted FROM refresh_tokens JOIN families USING (family)
             WHERE token_sha256 = ?1 AND client_id = ?2",
        )?
        .query_row(params![rotation.presented, rotation.client], |row| {
            json_column(row, "granted")
        })
        .optional()?;
    Ok(granted.is_some_and(|granted| !wanted.is_subset(&granted.scopes)))
}

/// First presentation: the one conditional statement that spends the token.
fn spend(c: &Connection, rotation: &Rotation, now: UnixTime) -> rusqlite::Result<bool> {
    let family: Option<(FamilyId, UnixTime)> = c
        .prepare_cached(
            "UPDATE refresh_tokens SET used_at = ?3, successor_sha256 = ?4
             WHERE token_sha256 = ?1 AND used_at IS NULL AND expires_at > ?3
               AND family IN (SELECT family FROM families
                              WHERE client_id = ?2 AND revoked_at IS NULL)
             RETURNING family, expires_at",
        )?
        .query_row(
            params![rotation.presented, rotation.client, now, rotation.successor],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((family, expires_at)) = family else {
        return Ok(false);
    };
    // The family's end is absolute: the successor inherits it (R9).
    c.prepare_cached("INSERT INTO refresh_tokens VALUES (?1, ?2, ?3, NULL, NULL)")?
        .execute(params![rotation.successor, family, expires_at])?;
    Ok(true)
}

/// A second presentation by the same client, soon, while the successor is still unused: the first
/// response was lost, and the same successor is the answer.
fn is_lost_response(c: &Connection, rotation: &Rotation, now: UnixTime) -> rusqlite::Result<bool> {
    let window = i64::try_from(rotation.retry_window.as_secs()).unwrap_or(0);
    c.prepare_cached(
        "SELECT 1 FROM refresh_tokens old
         JOIN families ON families.family = old.family
         JOIN refresh_tokens new ON new.token_sha256 = old.successor_sha256
         WHERE old.token_sha256 = ?1 AND families.client_id = ?2
           AND families.revoked_at IS NULL AND old.expires_at > ?3
           AND old.used_at + ?4 >= ?3 AND new.used_at IS NULL",
    )?
    .exists(params![rotation.presented, rotation.client, now, window])
}

fn issue(c: &Connection, rotation: Rotation) -> rusqlite::Result<Rotated> {
    let (family, granted, expires_at): (FamilyId, Granted, UnixTime) = c
        .prepare_cached(
            "SELECT family, granted, families.expires_at AS ends
             FROM refresh_tokens JOIN families USING (family) WHERE token_sha256 = ?1",
        )?
        .query_row(params![rotation.presented], |row| {
            Ok((
                row.get("family")?,
                json_column(row, "granted")?,
                row.get("ends")?,
            ))
        })?;
    // Not an error but a refusal: the token stays spent, and the family can be used again when
    // the user may.
    let standing = directory::standing(c, &granted.subject)?;
    let Some(standing) = standing.filter(|s| s.may_reach(&granted.audience)) else {
        return Ok(Rotated::Refused);
    };
    let scopes = rotation.wanted.unwrap_or_else(|| granted.scopes.clone());
    let record = rotation.mint.record(family, &granted, scopes, expires_at);
    insert_access(c, &record)?;
    Ok(Rotated::Granted(Box::new(UserTokens {
        record,
        granted,
        standing,
    })))
}

fn explain_refusal(
    c: &Connection,
    rotation: &Rotation,
    now: UnixTime,
) -> rusqlite::Result<Rotated> {
    let known: Option<(FamilyId, bool, ClientId)> = c
        .prepare_cached(
            "SELECT family, used_at IS NOT NULL, client_id
             FROM refresh_tokens JOIN families USING (family)
             WHERE token_sha256 = ?1 AND refresh_tokens.expires_at > ?2 AND revoked_at IS NULL",
        )?
        .query_row(params![rotation.presented, now], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    // A token in another client's hands has leaked just as surely as one that is used twice.
    let Some((family, spent, owner)) = known else {
        return Ok(Rotated::Refused);
    };
    debug_assert!(
        spent || owner != rotation.client,
        "an unspent own token is spent above"
    );
    revoke_family(c, &family, "refresh token replayed", now)?;
    let event = Event::new(Kind::RefreshReplayed).client(&rotation.client);
    audit::append(c, &event.detail(format!("family {family} of {owner}")), now)?;
    Ok(Rotated::Replayed)
}

pub(super) fn insert_access(c: &Connection, record: &AccessRecord) -> rusqlite::Result<bool> {
    let act = record.act.as_ref().map(to_json).transpose()?;
    let stored = c
        .prepare_cached(
            "INSERT INTO access_tokens
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, NULL
             WHERE NOT EXISTS (SELECT 1 FROM families
                               WHERE family = ?3 AND revoked_at IS NOT NULL)
               AND NOT EXISTS (SELECT 1 FROM login_sessions
                               WHERE sid = ?7 AND ended_at IS NOT NULL)",
        )?
        .execute(params![
            record.jti,
            record.reference,
            record.family,
            record.client,
            record.sub,
            record.user,
            record.sid,
            record.audience,
            record.scopes,
            record.acr,
            record.auth_time,
            act,
            record.issued_at,
            record.expires_at
        ])?;
    Ok(stored == 1)
}

fn condition(handle: &Handle) -> (&'static str, &dyn rusqlite::ToSql) {
    match handle {
        // A reference token's jti is public (introspection shows it), so it must not be accepted
        // in place of the token.
        Handle::Jwt(jti) => ("jti = ?1 AND token_sha256 IS NULL", jti),
        Handle::Reference(hash) => ("token_sha256 = ?1", hash),
    }
}

fn live_token(
    c: &Connection,
    handle: &Handle,
    now: UnixTime,
) -> rusqlite::Result<Option<LiveToken>> {
    let (condition, key) = condition(handle);
    let sql = format!(
        "SELECT * FROM access_tokens AS token
         WHERE {condition} AND revoked_at IS NULL AND expires_at > ?2
           AND (family IS NULL OR EXISTS (SELECT 1 FROM families
                WHERE family = token.family AND revoked_at IS NULL))
           AND (sid IS NULL OR EXISTS (SELECT 1 FROM login_sessions
                WHERE sid = token.sid AND ended_at IS NULL))"
    );
    let Some(record) = c
        .prepare_cached(&sql)?
        .query_row(params![key, now], access_record)
        .optional()?
    else {
        return Ok(None);
    };
    if !record.user {
        return Ok(Some(LiveToken {
            record,
            standing: Standing::default(),
        }));
    }
    let standing = directory::standing(c, &record.sub)?;
    Ok(standing
        .filter(|standing| standing.may_reach(&record.audience))
        .map(|standing| LiveToken { record, standing }))
}

fn access_record(row: &Row<'_>) -> rusqlite::Result<AccessRecord> {
    let act: Option<String> = row.get("act")?;
    Ok(AccessRecord {
        jti: row.get("jti")?,
        reference: None,
        family: row.get("family")?,
        client: row.get("client_id")?,
        sub: row.get("sub")?,
        user: row.get("user")?,
        sid: row.get("sid")?,
        audience: row.get("audience")?,
        scopes: row.get("scope")?,
        acr: row.get("acr")?,
        auth_time: row.get("auth_time")?,
        act: act
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(super::damaged)?,
        issued_at: row.get("issued_at")?,
        expires_at: row.get("expires_at")?,
    })
}
