//! Which parts of a message's head are shown to an operator.
//!
//! Owns: the rule that a tap shows no credential (R69). It errs on the side of hiding: a name that sounds like a
//! secret, a value that looks like a token, and every query are replaced by their length.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

/// Longest value that is shown, in bytes.
const MAX_VALUE: usize = 1024;
/// Most fields that are shown of one message.
const MAX_FIELDS: usize = 128;

/// Parts of names whose values are credentials, with `_` read as `-`.
const TELLING: [&str; 15] = [
    "auth",
    "cookie",
    "token",
    "secret",
    "passw",
    "credential",
    "session",
    "api-key",
    "apikey",
    "signature",
    "private",
    "jwt",
    "csrf",
    "user-context",
    "loopback",
];
/// Names that contain one of these and are no credentials.
const HARMLESS: [&str; 2] = ["www-authenticate", "proxy-authenticate"];
/// Schemes whose values are credentials wherever they stand (RFC 9110 §11.4).
const SCHEMES: [&str; 5] = ["bearer ", "basic ", "dpop ", "digest ", "negotiate "];

/// What is hidden.
#[derive(Debug)]
pub(crate) struct Redaction {
    hidden: Vec<String>,
}

impl Redaction {
    /// `hidden` are names of the configuration, beside those that are always hidden.
    pub(crate) fn new(hidden: &[String]) -> Self {
        let hidden = hidden.iter().map(|name| plain(name).into_owned()).collect();
        Self { hidden }
    }

    /// Header fields as JSON: a text, or a list where a name stands more than once.
    pub(crate) fn headers(&self, headers: &HeaderMap) -> Map<String, Value> {
        let mut shown = Map::new();
        for (name, value) in headers.iter().take(MAX_FIELDS) {
            let value = Value::String(self.value(name, value));
            match shown.get_mut(name.as_str()) {
                None => {
                    shown.insert(name.as_str().to_owned(), value);
                }
                Some(Value::Array(list)) => list.push(value),
                Some(first) => *first = Value::Array(vec![first.take(), value]),
            }
        }
        if headers.len() > MAX_FIELDS {
            let more = format!("{} more fields are not shown", headers.len() - MAX_FIELDS);
            shown.insert("…".to_owned(), Value::String(more));
        }
        shown
    }

    fn value(&self, name: &HeaderName, value: &HeaderValue) -> String {
        let Ok(text) = value.to_str() else {
            return redacted(value.len());
        };
        if value.is_sensitive() || self.is_hidden(name.as_str()) || is_credential(text) {
            return redacted(text.len());
        }
        let shown = without_query(text);
        if shown.len() <= MAX_VALUE {
            return shown.into_owned();
        }
        let end = shown.floor_char_boundary(MAX_VALUE);
        format!("{}…", shown.get(..end).unwrap_or_default())
    }

    fn is_hidden(&self, name: &str) -> bool {
        let name = plain(name);
        if self.hidden.iter().any(|hidden| *hidden == *name) {
            return true;
        }
        !HARMLESS.contains(&&*name) && TELLING.iter().any(|part| name.contains(part))
    }
}

/// A request's target without what its query says.
pub(crate) fn target(path_and_query: &str) -> Cow<'_, str> {
    match path_and_query.split_once('?') {
        None => Cow::Borrowed(path_and_query),
        Some((path, query)) => Cow::Owned(format!("{path}?{}", redacted(query.len()))),
    }
}

fn redacted(bytes: usize) -> String {
    format!("[redacted {bytes} bytes]")
}

fn plain(name: &str) -> Cow<'_, str> {
    if name
        .bytes()
        .any(|byte| byte == b'_' || byte.is_ascii_uppercase())
    {
        Cow::Owned(name.to_ascii_lowercase().replace('_', "-"))
    } else {
        Cow::Borrowed(name)
    }
}

/// A value that is a credential whatever its name: a scheme with its token, or a JWS in whatever place.
fn is_credential(text: &str) -> bool {
    let schemed = SCHEMES.iter().any(|scheme| {
        let head = text.trim_start().get(..scheme.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(scheme))
    });
    // `eyJ` is `{"` in base64url, with which every JOSE header begins (RFC 7515 §3.1); PASETO names its version.
    schemed
        || text.contains("eyJ")
        || [
            "v2.local.",
            "v3.local.",
            "v4.local.",
            "v2.public.",
            "v3.public.",
            "v4.public.",
        ]
        .iter()
        .any(|prefix| text.contains(prefix))
}

/// URLs in `location`, `referer`, `link` and others carry codes and tokens in queries and fragments.
fn without_query(text: &str) -> Cow<'_, str> {
    let Some((url, rest)) = text.find(['?', '#']).map(|at| text.split_at(at)) else {
        return Cow::Borrowed(text);
    };
    let is_url = text.starts_with(['/', '<']) || text.contains("://") || rest.contains('=');
    match is_url {
        true => {
            let mark = rest.get(..1).unwrap_or_default();
            Cow::Owned(format!(
                "{url}{mark}{}",
                redacted(rest.len().saturating_sub(1))
            ))
        }
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CANARY: &str = "canary-7f3a";

    fn shown(name: &str, value: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.append(
            name.parse::<HeaderName>().unwrap(),
            value.parse::<HeaderValue>().unwrap(),
        );
        let redaction = Redaction::new(&["X_Partner-Id".to_owned()]);
        Value::Object(redaction.headers(&headers)).to_string()
    }

    #[test]
    fn r69_credentials_are_replaced_by_their_length() {
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "x_api_key",
            "x-auth-token",
            "x-ringwall-user-context",
            "x-ringwall-loopback",
            "x-ringwall-csrf",
            "x-amz-security-token",
            "x-hub-signature-256",
            "x-partner-id",
            "x_partner_id",
        ] {
            let text = shown(name, CANARY);
            assert_eq!(text, format!("{{\"{name}\":\"[redacted 11 bytes]\"}}"));
        }
        for value in [
            format!("Bearer {CANARY}"),
            format!("bearer {CANARY}"),
            format!("eyJhbGciOiJFUzI1NiJ9.{CANARY}.x"),
            format!("v4.public.{CANARY}"),
            format!("https://app.localhost/callback?code={CANARY}"),
            format!("/callback#{CANARY}"),
            format!("callback?code={CANARY}"),
            format!("</next?cursor={CANARY}>; rel=next"),
        ] {
            let text = shown("x-anything", &value);
            assert!(!text.contains(CANARY), "{text}");
        }
    }

    #[test]
    fn what_helps_to_find_a_fault_is_shown() {
        assert_eq!(shown("accept", "*/*"), "{\"accept\":\"*/*\"}");
        assert_eq!(
            shown("content-type", "application/json"),
            "{\"content-type\":\"application/json\"}"
        );
        assert!(shown("www-authenticate", "DPoP").contains("DPoP"));
        assert!(shown("sec-ch-ua-mobile", "?1").contains("?1"));
        assert!(shown("location", "/v1/orders/7").contains("/v1/orders/7"));
        assert_eq!(
            target("/v1/orders?token=x"),
            "/v1/orders?[redacted 7 bytes]"
        );
        assert_eq!(target("/v1/orders"), "/v1/orders");
    }

    #[test]
    fn repeated_fields_and_limits() {
        let mut headers = HeaderMap::new();
        for value in ["1", "2", "3"] {
            headers.append("accept", HeaderValue::from_static(value));
        }
        headers.append("x-long", "a".repeat(5000).parse().unwrap());
        let shown = Redaction::new(&[]).headers(&headers);
        assert_eq!(shown["accept"], serde_json::json!(["1", "2", "3"]));
        assert!(shown["x-long"].as_str().unwrap().len() < 1100);
        for index in 0..200 {
            let name: HeaderName = format!("x-{index}").parse().unwrap();
            headers.append(name, HeaderValue::from_static("v"));
        }
        assert!(Redaction::new(&[]).headers(&headers).len() <= MAX_FIELDS + 1);
    }

    proptest! {
        #[test]
        fn r69_no_spelling_of_a_telling_name_is_shown(
            before in "[a-z]{0,4}[-_]?",
            part in proptest::sample::select(&TELLING[..]),
            after in "[-_]?[a-z]{0,4}",
            twin in any::<bool>(),
        ) {
            let part = if twin { part.replace('-', "_") } else { part.to_owned() };
            let name = format!("{before}{part}{after}");
            prop_assume!(!HARMLESS.contains(&name.as_str()));
            prop_assert!(!shown(&name, CANARY).contains(CANARY), "{}", name);
        }

        #[test]
        fn any_bytes_are_shown_or_hidden_without_a_panic(value in proptest::collection::vec(32_u8..=255, 0..2000)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let mut headers = HeaderMap::new();
                headers.append("x-any", value);
                let _ = Redaction::new(&[]).headers(&headers);
            }
        }
    }
}
