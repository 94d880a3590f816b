//! A bearer secret inside a message body. Owns its bounds and its silence: it prints as `WireToken(…)`
//! and is wiped on drop. It serialises, unlike `ringwall_secret::Secret`, since sending it is its purpose.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::ProtoError;

/// Largest token text that any contract carries, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Token text of 1 to 8192 characters of visible ASCII (RFC 6750 §2.1 allows fewer still).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WireToken(Zeroizing<String>);

impl WireToken {
    /// Checks the bounds.
    pub fn new(text: impl Into<String>) -> Result<Self, ProtoError> {
        let text = Zeroizing::new(text.into());
        let fits = !text.is_empty() && text.len() <= MAX_TOKEN_BYTES;
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text))
        } else {
            Err(ProtoError::Text {
                what: "token",
                expected: "1 to 8192 visible ASCII characters",
            })
        }
    }

    /// The text, for the one place that sends or checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for WireToken {
    type Error = ProtoError;
    fn try_from(text: String) -> Result<Self, ProtoError> {
        Self::new(text)
    }
}

impl From<WireToken> for String {
    fn from(token: WireToken) -> Self {
        token.expose().to_owned()
    }
}

impl fmt::Debug for WireToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WireToken(…)")
    }
}

impl JsonSchema for WireToken {
    fn schema_name() -> Cow<'static, str> {
        "WireToken".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX_TOKEN_BYTES })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let token = WireToken::new("rws_very-secret").unwrap();
        assert_eq!(format!("{token:?}"), "WireToken(…)");
        assert_eq!(
            serde_json::to_string(&token).unwrap(),
            "\"rws_very-secret\""
        );
    }

    #[test]
    fn empty_long_and_unprintable_tokens_are_refused() {
        for bad in [
            String::new(),
            "a b".into(),
            "a\nb".into(),
            "é".into(),
            "a".repeat(8193),
        ] {
            assert!(WireToken::new(bad).is_err());
        }
    }
}
