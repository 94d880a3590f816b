//! A started sign-in, carried by the browser itself in a sealed cookie.
//!
//! Owns: what must be remembered between leaving for the authorization server and coming back, and
//! its protection: AES-256-GCM under a key that lives as long as this process, with the cookie's name
//! as associated data. So a flood of started sign-ins costs no memory, and several tabs may sign in
//! at the same time, each with its own cookie.
//! Must not: outlive its time, or be read under another name.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{cookies, random};

/// What belongs to one authorization request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transaction {
    pub(crate) state: String,
    pub(crate) nonce: String,
    /// PKCE code verifier (RFC 7636 §4.1).
    pub(crate) verifier: String,
    /// The issuer that was asked; another one's answer is a mix-up (RFC 9207 §2.4).
    pub(crate) issuer: String,
    /// A path of this application.
    pub(crate) return_to: String,
    /// Seconds since the epoch.
    pub(crate) expires: u64,
}

impl Transaction {
    pub(crate) fn is_over(&self, now: SystemTime) -> bool {
        seconds(now) >= self.expires
    }

    /// Name of the cookie for `state`: another state cannot find it.
    pub(crate) fn cookie_name(state: &str) -> String {
        let digest = random::sha256_base64url(state);
        let tag = digest.get(..16).unwrap_or(&digest);
        format!("{}{tag}", cookies::SIGN_IN_PREFIX)
    }
}

/// When something that starts `now` and may take `life` is over, in seconds since the epoch.
pub(crate) fn expiry(now: SystemTime, life: Duration) -> u64 {
    seconds(now) + life.as_secs()
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

/// Seals and opens transactions.
pub(crate) struct Sealer(LessSafeKey);

impl Sealer {
    /// A new key: after a restart, started sign-ins are simply started again.
    pub(crate) fn new() -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &random::bytes::<32>())
            .expect("AES-256 takes a key of 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// The value of the cookie `name`. Random nonces are safe here: far fewer than 2^32 sign-ins
    /// are started under one key (NIST SP 800-38D §8.3).
    pub(crate) fn seal(&self, name: &str, transaction: &Transaction) -> String {
        let nonce = random::bytes::<NONCE_LEN>();
        let mut sealed = nonce.to_vec();
        let mut text = serde_json::to_vec(transaction).expect("strings and a number serialise");
        let tag = self
            .0
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name.as_bytes()),
                &mut text,
            )
            .expect("a short text can be sealed");
        sealed.extend_from_slice(&text);
        sealed.extend_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// What was sealed under `name`; nothing for any other text.
    pub(crate) fn open(&self, name: &str, value: &str) -> Option<Transaction> {
        let mut sealed = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (nonce, text) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self
            .0
            .open_in_place(nonce, Aad::from(name.as_bytes()), text)
            .ok()?;
        serde_json::from_slice(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(expires: u64) -> Transaction {
        Transaction {
            state: "state".into(),
            nonce: "nonce".into(),
            verifier: "verifier".into(),
            issuer: "https://auth.localhost:8443".into(),
            return_to: "/orders".into(),
            expires,
        }
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_name_only() {
        let sealer = Sealer::new();
        let started = transaction(10);
        let name = Transaction::cookie_name(&started.state);
        let value = sealer.seal(&name, &started);
        assert_eq!(sealer.open(&name, &value), Some(started));
        assert_eq!(sealer.open("__Host-ringwall-login-other", &value), None);
        assert_eq!(Sealer::new().open(&name, &value), None);
    }

    #[test]
    fn r18_a_changed_or_invented_cookie_does_not_open() {
        let sealer = Sealer::new();
        let value = sealer.seal("name", &transaction(10));
        for at in [0, value.len() / 2, value.len() - 1] {
            let mut changed = value.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(
                sealer.open("name", std::str::from_utf8(&changed).unwrap()),
                None
            );
        }
        for bad in [
            "",
            "A",
            "AAAAAAAAAAAAAAAA",
            "not base64!",
            "eyJzdGF0ZSI6IngifQ",
        ] {
            assert_eq!(sealer.open("name", bad), None, "{bad}");
        }
    }

    #[test]
    fn it_is_over_at_its_end() {
        let started = transaction(100);
        assert!(!started.is_over(UNIX_EPOCH + Duration::from_secs(99)));
        assert!(started.is_over(UNIX_EPOCH + Duration::from_secs(100)));
    }
}
