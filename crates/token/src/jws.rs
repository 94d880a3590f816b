//! The compact serialisation of a signed token (RFC 7515 §7.1), taken apart strictly.
//!
//! Owns: size bounds, the three parts, and the header parameters that are let through.
//! Must not: verify. What comes out of here is untrusted but well-formed.
//! Read next: `verify.rs`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::TokenError;

/// Longest token that [`crate::verify`] looks at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Longest key id, in bytes. A kid is an opaque name, looked up among keys that we have.
const MAX_KID_BYTES: usize = 128;

/// A signature algorithm. Each key has exactly one (RFC 8725 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256 (RFC 7518 §3.4). The default.
    #[serde(rename = "ES256")]
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 §3.3).
    #[serde(rename = "RS256")]
    Rs256,
    /// Ed25519 (RFC 8037 §3.1).
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// The name in `alg`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Es256, Self::Rs256, Self::EdDsa]
            .into_iter()
            .find(|alg| alg.as_str() == name)
    }
}

/// A header as it is written: the three parameters that every token of ours has.
#[derive(Serialize)]
pub(crate) struct HeaderOut<'a> {
    pub(crate) alg: Algorithm,
    pub(crate) typ: &'a str,
    pub(crate) kid: &'a str,
}

/// A header as it is read. Parameters that bring or point to keys are refused and not ignored: no
/// honest issuer of ours sends one, and nothing is ever fetched on a token's word (RFC 8725 §3.10).
/// Serde refuses a parameter of this list that stands twice. Unlisted ones are ignored (RFC 7515 §4).
#[derive(Deserialize)]
pub(crate) struct Header {
    pub(crate) alg: String,
    pub(crate) typ: Option<String>,
    pub(crate) kid: String,
    crit: Option<IgnoredAny>,
    jwk: Option<IgnoredAny>,
    jku: Option<IgnoredAny>,
    x5u: Option<IgnoredAny>,
    x5c: Option<IgnoredAny>,
    zip: Option<IgnoredAny>,
    enc: Option<IgnoredAny>,
    b64: Option<IgnoredAny>,
}

/// A token in parts, not verified.
pub(crate) struct Parts<'a> {
    pub(crate) header: Header,
    /// `header.payload`, which the signature covers.
    pub(crate) signed: &'a str,
    pub(crate) signature: &'a str,
    payload: &'a str,
}

impl<'a> Parts<'a> {
    /// Takes `token` apart.
    pub(crate) fn of(token: &'a str, limit_bytes: usize) -> Result<Self, TokenError> {
        if token.len() > limit_bytes {
            return Err(TokenError::TooLong { limit_bytes });
        }
        const SHAPE: TokenError = TokenError::Malformed("not three parts");
        let (signed, signature) = token.rsplit_once('.').ok_or(SHAPE)?;
        let (header, payload) = signed.split_once('.').ok_or(SHAPE)?;
        if payload.contains('.') {
            return Err(SHAPE);
        }
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(TokenError::Malformed("a part is empty"));
        }
        let header = Header::parse(&decode(header)?)?;
        Ok(Self {
            header,
            signed,
            signature,
            payload,
        })
    }

    /// The payload's bytes. Call it after the signature has been verified.
    pub(crate) fn payload(&self) -> Result<Vec<u8>, TokenError> {
        decode(self.payload)
    }
}

impl Header {
    fn parse(json: &[u8]) -> Result<Self, TokenError> {
        let header: Self = serde_json::from_slice(json)
            .map_err(|_| TokenError::Header("alg and kid must be strings that stand once"))?;
        let refused = [
            (
                header.crit.is_some(),
                "crit: no extension is understood here",
            ),
            (header.jwk.is_some(), "jwk: keys do not come with tokens"),
            (
                header.jku.is_some(),
                "jku: keys are not fetched on a token's word",
            ),
            (
                header.x5u.is_some(),
                "x5u: keys are not fetched on a token's word",
            ),
            (header.x5c.is_some(), "x5c: keys do not come with tokens"),
            (header.zip.is_some(), "zip: compressed content"),
            (header.enc.is_some(), "enc: encrypted content"),
            (header.b64.is_some(), "b64: unencoded content"),
        ];
        if let Some((_, why)) = refused.into_iter().find(|(present, _)| *present) {
            return Err(TokenError::Header(why));
        }
        check_kid(&header.kid)?;
        Ok(header)
    }

    /// Whether `typ` is the expected media type: compared without case and without the prefix
    /// `application/` (RFC 7515 §4.1.9).
    pub(crate) fn is_type(&self, expected: &str) -> bool {
        const PREFIX: &str = "application/";
        let Some(seen) = &self.typ else { return false };
        let short = match seen.get(..PREFIX.len()) {
            Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => seen.get(PREFIX.len()..),
            _ => Some(seen.as_str()),
        };
        short.is_some_and(|name| name.eq_ignore_ascii_case(expected))
    }
}

/// The key id that a token names, without verifying anything: for asking a key set cache.
///
/// # Errors
/// As for a malformed token in [`crate::verify`].
pub fn peek_kid(token: &str) -> Result<String, TokenError> {
    Parts::of(token, MAX_TOKEN_BYTES).map(|parts| parts.header.kid)
}

/// A kid is bounded and has no character that means anything to a path, a query or a log.
pub(crate) fn check_kid(kid: &str) -> Result<(), TokenError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    if (1..=MAX_KID_BYTES).contains(&kid.len()) && kid.bytes().all(allowed) {
        Ok(())
    } else {
        Err(TokenError::Header(
            "kid must be 1 to 128 of A-Z, a-z, 0-9, '-', '_', '.' and '~'",
        ))
    }
}

/// Strict unpadded base64url: no padding, no white space, no loose trailing bits (RFC 7515 §2).
pub(crate) fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed("not base64url"))
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
