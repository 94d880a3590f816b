//! What a source token is: its text, its hash, and what it is bound to.
//!
//! Owns: these types. Must not: store or send them. Read next: `store.rs`.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SecureRandom;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringwall_identity::SpiffeId;
use ringwall_proto::WireToken;
use ringwall_proto::ids::{ClientId, Subject};
use ringwall_proto::tokenizer::{BodyDigest, SOURCE_TOKEN_PREFIX, TokenMethod, TokenPath};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::TokenizerError;

/// Random bytes in a token: 256 bits, so that guessing needs no limit of its own.
const TOKEN_BYTES: usize = 32;

/// Makes the text of a new token.
pub(crate) fn generate(random: &dyn SecureRandom) -> Result<WireToken, TokenizerError> {
    let mut bytes = [0; TOKEN_BYTES];
    random
        .fill(&mut bytes)
        .map_err(|_| TokenizerError::Random)?;
    let text = format!("{SOURCE_TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    Ok(WireToken::new(text).expect("a generated token is visible ASCII"))
}

/// SHA-256 of a token's text: all that is stored of it. The text has 256 bits of entropy, so a
/// plain hash cannot be searched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) fn of(token: &WireToken) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.expose().as_bytes()).as_ref());
        Self(hash)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The one request that a token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    /// Who makes the request.
    pub(crate) caller: SpiffeId,
    /// Who receives it and redeems the token.
    pub(crate) audience: SpiffeId,
    pub(crate) htm: TokenMethod,
    pub(crate) htu: TokenPath,
    pub(crate) body_digest: BodyDigest,
}

/// On whose behalf the caller acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OnBehalfOf {
    pub(crate) sub: Subject,
    pub(crate) client_id: ClientId,
}

/// A token as it is issued.
#[derive(Clone)]
pub(crate) struct NewToken {
    /// Names the token in lists and in the audit log; says nothing about its text.
    pub(crate) id: Uuid,
    pub(crate) hash: TokenHash,
    pub(crate) binding: Binding,
    pub(crate) user: OnBehalfOf,
    pub(crate) issued_at: OffsetDateTime,
    pub(crate) expires_at: OffsetDateTime,
}

/// Why a redemption was refused: for the audit log only, never for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalReason {
    Unknown,
    Used,
    Revoked,
    Expired,
    Audience,
    Caller,
    Method,
    Path,
    BodyDigest,
}

impl RefusalReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Used => "used",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Audience => "wrong_audience",
            Self::Caller => "wrong_caller",
            Self::Method => "wrong_method",
            Self::Path => "wrong_path",
            Self::BodyDigest => "wrong_body",
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;

    use super::*;

    #[test]
    fn tokens_are_recognisable_unlike_and_long() {
        let random = SystemRandom::new();
        let (one, two) = (generate(&random).unwrap(), generate(&random).unwrap());
        assert_eq!(one.expose().len(), SOURCE_TOKEN_PREFIX.len() + 43);
        assert!(one.expose().starts_with("rws_"));
        assert!(one != two);
        assert!(TokenHash::of(&one) != TokenHash::of(&two));
        assert!(TokenHash::of(&one) == TokenHash::of(&one.clone()));
    }
}
