//! Why a token is refused or cannot be made.
//!
//! The text is for logs and tests. Answer clients with `invalid_token` and nothing more.

/// Every refusal of this crate but those of API keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than the bound for its kind.
    #[error("token is longer than {limit_bytes} bytes")]
    TooLong {
        /// The bound.
        limit_bytes: usize,
    },
    /// Not `header.payload.signature` in unpadded base64url (RFC 7515 §7.1).
    #[error("token is malformed: {0}")]
    Malformed(&'static str),
    /// A header parameter that is not allowed (RFC 7515 §4.1).
    #[error("token header is refused: {0}")]
    Header(&'static str),
    /// No trusted key has this key id.
    #[error("no trusted key has the token's kid")]
    UnknownKey,
    /// The header names another algorithm than the key's own (RFC 8725 §3.1).
    #[error("token's alg is not the one of its key")]
    Algorithm,
    /// The header's `typ` is not the expected one (RFC 8725 §3.11).
    #[error("token's typ is not {expected:?}")]
    Type {
        /// The type that was expected.
        expected: &'static str,
    },
    /// The signature does not match.
    #[error("token's signature does not match")]
    Signature,
    /// The claims are not of the expected shape; the reason names no value.
    #[error("token's claims are refused: {0}")]
    Claims(String),
    /// Another issuer than the expected one.
    #[error("token is from another issuer")]
    Issuer,
    /// Not meant for us alone (RFC 8725 §3.9).
    #[error("token is for another audience")]
    Audience,
    /// `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("token is not valid yet")]
    NotYetValid,
    /// A key cannot be used.
    #[error("key is refused: {0}")]
    Key(&'static str),
    /// A key set cannot be used.
    #[error("key set is refused: {0}")]
    KeySet(String),
    /// The key set cannot be fetched, and none is at hand that is fresh enough.
    #[error("key set is not available: {0}")]
    KeySetUnavailable(String),
    /// Signing failed, or the claims cannot be written as JSON.
    #[error("token could not be made: {0}")]
    Sign(String),
}
