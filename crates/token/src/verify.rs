//! Verification: one function, read top to bottom (RFC 8725).
//!
//! Owns: the order of the checks. Nothing of the payload is parsed before the signature holds.
//! Must not: have options that leave a check out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::jwk::VerifyingKey;
use crate::jws::{MAX_TOKEN_BYTES, Parts};
use crate::{TokenError, VerifyingKeys};

/// What a token must be to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Exact `iss`.
    pub issuer: String,
    /// Exact `aud`: one string, which is us. A list is refused, even with us in it.
    pub audience: String,
    /// Exact `typ` of the header (see [`crate::claims`] for ours).
    pub typ: &'static str,
    /// How far clocks may differ.
    pub leeway: Duration,
}

/// A payload whose signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBytes {
    /// The key that signed it. Whose key that is, the caller knows.
    pub kid: String,
    /// The payload's bytes.
    pub payload: Vec<u8>,
}

/// Verifies `token` and returns its claims.
///
/// Checked in this order: size; shape; header parameters; trusted key by `kid`; `alg` equals the
/// key's; `typ`; signature; claims of the right JSON types, each standing once; `iss`; `aud`; `exp`
/// (required), `nbf`, `iat`.
///
/// # Errors
/// [`TokenError`], one variant for each step.
pub fn verify<C: DeserializeOwned>(
    token: &str,
    keys: &VerifyingKeys,
    expectation: &Expectation,
    now: SystemTime,
) -> Result<C, TokenError> {
    let (_, payload) = verified_payload(token, keys, expectation.typ, MAX_TOKEN_BYTES)?;
    let claims = |error: serde_json::Error| TokenError::Claims(describe(&error));
    let registered: Registered = serde_json::from_slice(&payload).map_err(claims)?;
    registered.check(expectation, now)?;
    serde_json::from_slice(&payload).map_err(claims)
}

/// Verifies a JWS over any payload, for example an event, of at most `max_bytes` bytes.
///
/// The payload's meaning, age and audience are the caller's to check.
///
/// # Errors
/// [`TokenError`] as for [`verify`], without the steps that look at claims.
pub fn verify_bytes(
    token: &str,
    keys: &VerifyingKeys,
    typ: &'static str,
    max_bytes: usize,
) -> Result<VerifiedBytes, TokenError> {
    let (kid, payload) = verified_payload(token, keys, typ, max_bytes)?;
    Ok(VerifiedBytes { kid, payload })
}

fn verified_payload(
    token: &str,
    keys: &VerifyingKeys,
    typ: &'static str,
    max_bytes: usize,
) -> Result<(String, Vec<u8>), TokenError> {
    let parts = Parts::of(token, max_bytes)?;
    let key: &VerifyingKey = keys.get(&parts.header.kid).ok_or(TokenError::UnknownKey)?;
    // The key decides; a header that disagrees is an attack (`none`, HS256 with a public key, …).
    if parts.header.alg != key.algorithm.as_str() {
        return Err(TokenError::Algorithm);
    }
    if !parts.header.is_type(typ) {
        return Err(TokenError::Type { expected: typ });
    }
    key.verify(parts.signed, parts.signature)?;
    let payload = parts.payload()?;
    Ok((parts.header.kid, payload))
}

/// The claims that every token of ours has, with their JSON types. A string `exp` or a list in
/// `iss` or `aud` does not parse; nor does a claim that stands twice.
#[derive(Deserialize)]
struct Registered {
    iss: String,
    aud: String,
    exp: u64,
    nbf: Option<u64>,
    iat: Option<u64>,
}

impl Registered {
    fn check(&self, expectation: &Expectation, now: SystemTime) -> Result<(), TokenError> {
        if self.iss != expectation.issuer {
            return Err(TokenError::Issuer);
        }
        if self.aud != expectation.audience {
            return Err(TokenError::Audience);
        }
        // A clock before 1970 is broken; at zero no token of ours is valid yet.
        let now = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs();
        let leeway = expectation.leeway.as_secs();
        // RFC 7519 §4.1.4: on or after `exp`, the token must not be accepted.
        if now >= self.exp.saturating_add(leeway) {
            return Err(TokenError::Expired);
        }
        let latest = now.saturating_add(leeway);
        if self.nbf.is_some_and(|at| at > latest) || self.iat.is_some_and(|at| at > latest) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }
}

/// The kind of a JSON error without the offending value, which serde would quote into the log.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let quotes_value = text.starts_with("invalid type") || text.starts_with("invalid value");
    let kind = if quotes_value {
        "a claim has the wrong type"
    } else {
        text.as_str()
    };
    kind.chars().take(160).collect()
}
