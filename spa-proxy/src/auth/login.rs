//! `GET /auth/login`: leaves for the authorization server (RFC 6749 §4.1.1, RFC 7636, RFC 9126).
//!
//! Owns: state, nonce and verifier of one sign-in, and the limit of started ones per browser.
//! Must not: put anything of them into the URL; the pushed request holds them.

use std::{sync::Arc, time::SystemTime};

use axum::{extract::State, response::Response};
use http::{HeaderMap, HeaderValue};
use ringwall_service::extract::Query;
use serde::Deserialize;

use super::{
    see_other,
    transaction::{Sealer, Transaction, expiry},
};
use crate::{
    app::Ringwall,
    authority::{AuthorityError, AuthorizationRequest},
    cookies::{self, Cookies},
    error::SignInError,
    random,
};

/// Started sign-ins that one browser may hold; the oldest gives way. Cookies must stay small.
const MAX_STARTED: usize = 5;
/// Longest path to come back to.
const MAX_RETURN_TO: usize = 256;

#[derive(Debug, Deserialize)]
pub(crate) struct LoginQuery {
    #[serde(default)]
    return_to: Option<String>,
}

pub(crate) async fn login(
    State(app): State<Arc<Ringwall>>,
    headers: HeaderMap,
    Query(query): Query<LoginQuery>,
) -> Response {
    let now = SystemTime::now();
    let transaction = Transaction {
        state: random::token(),
        nonce: random::token(),
        verifier: random::token(),
        issuer: app.authority.issuer.clone(),
        return_to: return_path(query.return_to.as_deref()).to_owned(),
        expires: expiry(now, app.limits.sign_in),
    };
    let request = AuthorizationRequest {
        state: &transaction.state,
        nonce: &transaction.nonce,
        code_challenge: &random::sha256_base64url(&transaction.verifier),
    };
    match app.authority.authorize_url(&request).await {
        Ok(location) => {
            let mut set = make_room(&app.sealer, &Cookies::read(&headers));
            let name = Transaction::cookie_name(&transaction.state);
            let value = app.sealer.seal(&name, &transaction);
            set.push(cookies::set(&name, &value, Some(app.limits.sign_in)));
            see_other(&location, set)
        }
        Err(error) => {
            tracing::warn!(%error, "sign-in cannot start");
            let reason = match error {
                AuthorityError::NoAnswer(_) => SignInError::Unreachable,
                AuthorityError::Refused(_) => SignInError::ServerError,
            };
            see_other(&format!("/?sign_in={}", reason.word()), Vec::new())
        }
    }
}

/// A path of this application, or the start page: never another host (open redirect).
fn return_path(wanted: Option<&str>) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_".contains(&byte);
    match wanted {
        Some(path)
            if path.len() <= MAX_RETURN_TO
                && path.starts_with('/')
                && !path.starts_with("//")
                && path.bytes().all(plain) =>
        {
            path
        }
        _ => "/",
    }
}

/// Removals for started sign-ins beyond the limit, and for those that cannot be read any more.
fn make_room(sealer: &Sealer, cookies: &Cookies<'_>) -> Vec<HeaderValue> {
    let mut readable = Vec::new();
    let mut removals = Vec::new();
    for (name, value) in cookies.with_prefix(cookies::SIGN_IN_PREFIX) {
        match sealer.open(name, value) {
            Some(transaction) => readable.push((transaction.expires, name)),
            // A name with odd characters cannot have come from here, and is not echoed.
            None if is_own_name(name) => removals.push(cookies::remove(name)),
            None => {}
        }
    }
    readable.sort_unstable();
    let surplus = (readable.len() + 1).saturating_sub(MAX_STARTED);
    removals.extend(
        readable
            .iter()
            .take(surplus)
            .map(|(_, name)| cookies::remove(name)),
    );
    removals.truncate(2 * MAX_STARTED);
    removals
}

fn is_own_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    name.len() <= 64 && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::header::COOKIE;

    use super::*;

    #[test]
    fn r18_return_paths_stay_on_this_site() {
        for good in [
            "/",
            "/orders",
            "/orders/0190c5a2-7b1e",
            "/what-happened/0af7",
        ] {
            assert_eq!(return_path(Some(good)), good);
        }
        let long = format!("/{}", "a".repeat(MAX_RETURN_TO));
        for bad in [
            "",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "orders",
            "/a?b=c",
            "/%2f/evil.example",
            "/a\r\nSet-Cookie:x",
            "/@evil.example",
            "/.",
            &long,
        ] {
            assert_eq!(return_path(Some(bad)), "/", "{bad}");
        }
        assert_eq!(return_path(None), "/");
    }

    #[test]
    fn the_oldest_started_sign_ins_give_way() {
        let sealer = Sealer::new();
        let cookie = |n: u64| {
            let state = format!("state-{n}");
            let name = Transaction::cookie_name(&state);
            let transaction = Transaction {
                state,
                nonce: String::new(),
                verifier: String::new(),
                issuer: String::new(),
                return_to: "/".into(),
                expires: expiry(UNIX_EPOCH, Duration::from_secs(n)),
            };
            let value = sealer.seal(&name, &transaction);
            (name.clone(), format!("{name}={value}"))
        };
        let all: Vec<(String, String)> = (0..6).map(cookie).collect();
        let field = all
            .iter()
            .map(|(_, pair)| pair.as_str())
            .collect::<Vec<_>>()
            .join("; ");
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(&field).unwrap());

        let removed = make_room(&sealer, &Cookies::read(&headers));
        assert_eq!(removed.len(), 2);
        for (field, (name, _)) in removed.iter().zip(&all) {
            assert!(field.to_str().unwrap().starts_with(name.as_str()));
        }
    }
}
