//! Opaque tokens: 256 random bits for the bearer, a SHA-256 digest for the database.
//!
//! A digest without salt or work factor is enough because the preimage has full entropy; a stolen
//! database therefore yields nothing that can be presented (R63).

use aws_lc_rs::{digest, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringwall_secret::SecretString;

use crate::error::Error;

/// Prefix of reference access tokens (RFC 7662), so that scanners and the gateway know one.
pub(crate) const REFERENCE_PREFIX: &str = "rwr_";
const REFRESH_PREFIX: &str = "rwt_";
const TOKEN_BYTES: usize = 32;

/// A bearer value that exists in clear only between its making and the response.
#[derive(Clone)]
pub(crate) struct OpaqueToken(SecretString);

impl OpaqueToken {
    /// A value without prefix: codes, session cookies, request handles.
    pub(crate) fn random() -> Result<Self, Error> {
        Self::with_prefix("")
    }

    pub(crate) fn reference() -> Result<Self, Error> {
        Self::with_prefix(REFERENCE_PREFIX)
    }

    pub(crate) fn refresh() -> Result<Self, Error> {
        Self::with_prefix(REFRESH_PREFIX)
    }

    fn with_prefix(prefix: &str) -> Result<Self, Error> {
        Ok(Self::encode(prefix, &random_bytes()?))
    }

    fn encode(prefix: &str, bytes: &[u8]) -> Self {
        Self(SecretString::new(format!(
            "{prefix}{}",
            URL_SAFE_NO_PAD.encode(bytes)
        )))
    }

    pub(crate) fn text(&self) -> &str {
        self.0.expose()
    }

    pub(crate) fn hash(&self) -> TokenHash {
        TokenHash::of(self.text())
    }
}

/// SHA-256 of a presented value: the only form that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) fn of(text: &str) -> Self {
        Self(sha256(text.as_bytes()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The server's own key for values that it must be able to make twice: refresh successors and
/// form tokens. It lives in the sealed key file, never in the database.
#[derive(Clone)]
pub(crate) struct DerivationKey(hmac::Key);

impl DerivationKey {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The one successor of a refresh token. A client that lost the response can ask again and
    /// gets the same text, although the server keeps only digests (R9).
    pub(crate) fn refresh_successor(&self, presented: &str) -> OpaqueToken {
        OpaqueToken::encode(REFRESH_PREFIX, &self.mac("refresh-successor", &[presented]))
    }

    /// Token of a form: bound to the browser (cookie value) and to what the form is about.
    pub(crate) fn form_token(&self, browser: &str, purpose: &str, about: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.mac("form", &[browser, purpose, about]))
    }

    fn mac(&self, domain: &str, parts: &[&str]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(domain.as_bytes());
        for part in parts {
            // Length first: ("ab", "c") and ("a", "bc") must differ.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.sign().as_ref().to_vec()
    }
}

pub(crate) fn random_bytes() -> Result<[u8; TOKEN_BYTES], Error> {
    let mut bytes = [0_u8; TOKEN_BYTES];
    rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0_u8; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// `code_challenge` of a verifier (RFC 7636 §4.2, method S256), and the shape of `at_hash`.
pub(crate) fn base64url_sha256(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(sha256(text.as_bytes()))
}

/// Left half of the digest, base64url: `at_hash` of OpenID Connect Core §3.1.3.6 for ES256.
pub(crate) fn left_half_hash(text: &str) -> String {
    let digest = sha256(text.as_bytes());
    let (left, _) = digest.split_at(digest.len() / 2);
    URL_SAFE_NO_PAD.encode(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_carry_256_bits_and_their_kind() {
        let token = OpaqueToken::reference().unwrap();
        assert!(token.text().starts_with("rwr_"));
        assert_eq!(token.text().len(), 4 + 43);
        assert_ne!(token.text(), OpaqueToken::reference().unwrap().text());
        assert_eq!(token.hash(), TokenHash::of(token.text()));
    }

    #[test]
    fn a_successor_is_reproducible_only_with_the_key() {
        let key = DerivationKey::new(&[1; 32]);
        let other = DerivationKey::new(&[2; 32]);
        let first = key.refresh_successor("rwt_a");
        assert_eq!(first.text(), key.refresh_successor("rwt_a").text());
        assert_ne!(first.text(), other.refresh_successor("rwt_a").text());
        assert_ne!(first.text(), key.refresh_successor("rwt_b").text());
    }

    #[test]
    fn form_tokens_separate_their_parts() {
        let key = DerivationKey::new(&[1; 32]);
        assert_ne!(
            key.form_token("ab", "c", "d"),
            key.form_token("a", "bc", "d")
        );
    }

    #[test]
    fn challenge_matches_the_example_of_rfc_7636_appendix_b() {
        assert_eq!(
            base64url_sha256("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }
}
