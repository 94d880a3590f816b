//! JWT-SVIDs: got from the control plane and kept until half of their life; checked for callers.
//!
//! Owns: the cache, and the rules of JWT-SVID §5 on top of the signature
//! (<https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md>).
//! Must not: log a token.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use ringwall_identity::SpiffeId;
use ringwall_token::{MAX_TOKEN_BYTES, verify_bytes};
use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::error::AgentError;
use crate::renewal::Renewals;
use crate::trust::Trust;

/// Tokens that are kept.
const MOST: usize = 1024;
/// Audiences that one token may have, and the length of each.
const MAX_AUDIENCES: usize = 8;
const MAX_AUDIENCE_BYTES: usize = 256;
/// How far clocks may differ.
const LEEWAY_SECONDS: u64 = 5;

/// The tokens of this node's workloads.
pub(crate) struct JwtSvids {
    renewals: Arc<Renewals>,
    kept: Mutex<HashMap<(String, Vec<String>), Kept>>,
}

#[derive(Clone)]
struct Kept {
    token: Arc<str>,
    renew_at: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl JwtSvids {
    pub(crate) fn new(renewals: Arc<Renewals>) -> Self {
        Self {
            renewals,
            kept: Mutex::default(),
        }
    }

    /// A token of `workload` for `audience`: the kept one until half of its life, and beyond that
    /// while the control plane is away.
    pub(crate) async fn get(
        &self,
        workload: &str,
        audience: &[String],
    ) -> Result<Arc<str>, AgentError> {
        let mut audience = audience.to_vec();
        audience.sort();
        audience.dedup();
        let now = self.renewals.clock.now();
        let key = (workload.to_owned(), audience);
        let kept = self.kept.lock().get(&key).cloned();
        if let Some(kept) = &kept
            && now < kept.renew_at
        {
            return Ok(Arc::clone(&kept.token));
        }
        let issued = match self.renewals.issuer().jwt(workload, &key.1).await {
            Ok(issued) => issued,
            Err(error @ AgentError::Away(_)) => {
                return match kept.filter(|kept| now < kept.not_after) {
                    Some(kept) => Ok(kept.token),
                    None => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        let not_after = OffsetDateTime::from_unix_timestamp(issued.not_after)
            .map_err(|_| AgentError::Answer("a JWT that ends at no time"))?;
        let fresh = Kept {
            token: issued.token.into(),
            renew_at: now + (not_after - now) / 2,
            not_after,
        };
        let token = Arc::clone(&fresh.token);
        let mut all = self.kept.lock();
        if all.len() >= MOST {
            all.retain(|_, kept| now < kept.renew_at);
        }
        if all.len() < MOST {
            all.insert(key, fresh);
        }
        Ok(token)
    }
}

/// Whether these are audiences that somebody may ask for; why not.
pub(crate) fn check_audience(audience: &[String]) -> Result<(), &'static str> {
    let usable = |one: &String| !one.is_empty() && one.len() <= MAX_AUDIENCE_BYTES;
    match audience {
        [] => Err("audience must be specified"),
        many if many.len() > MAX_AUDIENCES => Err("more than 8 audiences"),
        many if !many.iter().all(usable) => Err("an audience is empty or longer than 256 bytes"),
        _ => Ok(()),
    }
}

/// Validates a token for `audience`: its subject and all of its claims.
pub(crate) fn validate(
    trust: &Trust,
    token: &str,
    audience: &str,
    now: OffsetDateTime,
) -> Result<(SpiffeId, Map<String, Value>), String> {
    let keys = trust.verifying_keys().ok_or("there are no keys")?;
    let verified =
        verify_bytes(token, keys, "JWT", MAX_TOKEN_BYTES).map_err(|error| error.to_string())?;
    let claims: Claims = serde_json::from_slice(&verified.payload)
        .map_err(|_| "sub, aud or exp is missing, of the wrong type, or stands twice")?;
    let all: Map<String, Value> =
        serde_json::from_slice(&verified.payload).map_err(|_| "the claims are no object")?;
    let now = u64::try_from(now.unix_timestamp()).unwrap_or(0);
    if now >= claims.exp.saturating_add(LEEWAY_SECONDS) {
        return Err("it has expired".into());
    }
    if claims
        .nbf
        .is_some_and(|nbf| nbf > now.saturating_add(LEEWAY_SECONDS))
    {
        return Err("it is not valid yet".into());
    }
    if !claims.aud.contains(audience) {
        return Err("it is for another audience".into());
    }
    let id = SpiffeId::parse(&claims.sub).map_err(|error| error.to_string())?;
    if id.trust_domain() != trust.domain() || !id.is_workload() {
        return Err("its subject is no workload of this trust domain".into());
    }
    if trust.is_revoked(&id) {
        return Err("its subject is revoked".into());
    }
    Ok((id, all))
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    exp: u64,
    nbf: Option<u64>,
}

/// RFC 7519 §4.1.3: one string, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Many(many) => many.iter().any(|one| one == wanted),
        }
    }
}
