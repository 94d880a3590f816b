//! A look at unverified claims, for one purpose: to learn which client's key must verify an
//! assertion. Nothing else may be decided from it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

const MAX_BYTES: usize = 8 * 1024;

/// Unverified issuer and audience.
#[derive(Deserialize)]
pub(crate) struct Hint {
    pub(crate) iss: Option<String>,
    pub(crate) aud: Option<String>,
}

/// The payload of a compact JWS, if it has the shape of one.
pub(crate) fn claims(token: &str) -> Option<Hint> {
    if token.len() > MAX_BYTES {
        return None;
    }
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_and_wrong_types_are_nothing() {
        assert!(claims("").is_none());
        assert!(claims("a.b.c").is_none());
        let array = URL_SAFE_NO_PAD.encode(r#"{"iss":["a"]}"#);
        assert!(claims(&format!("h.{array}.s")).is_none());
        let fine = URL_SAFE_NO_PAD.encode(r#"{"iss":"a"}"#);
        assert_eq!(
            claims(&format!("h.{fine}.s")).unwrap().iss.as_deref(),
            Some("a")
        );
    }
}
