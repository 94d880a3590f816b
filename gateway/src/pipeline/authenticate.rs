//! Step 3: who asks (R5).
//!
//! Owns: [`Authenticated`], the reading of the `Authorization` field (RFC 6750 §2.1), and the use of the
//! worker's cache of verified tokens. Next: `tokens.rs`, which verifies.

use std::sync::Arc;

use http::{HeaderMap, header};

use super::admit::Admitted;
use super::route::Routed;
use crate::access_log::Exchange;
use crate::config::AuthConfig;
use crate::refusal::Refusal;
use crate::snapshot::Route;
use crate::token_cache::{TokenKey, VerifiedToken};
use crate::worker::Worker;

/// Evidence: the route's way of authentication was met.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(super) routed: Routed,
    pub(super) token: Option<Arc<VerifiedToken>>,
    pub(super) method: http::Method,
}

pub(crate) async fn authenticate(
    worker: &Worker,
    routed: Routed,
    admitted: &Admitted,
    exchange: &mut Exchange,
) -> Result<Authenticated, Refusal> {
    let method = admitted.request.method().clone();
    let token = match routed.route().auth {
        AuthConfig::None => None,
        AuthConfig::Bearer => {
            let text = bearer(admitted.request.headers())?;
            let token = verified(worker, routed.route(), text, exchange).await?;
            exchange.token = Some(Arc::clone(&token));
            check_scopes(routed.route(), &token)?;
            Some(token)
        }
    };
    Ok(Authenticated {
        routed,
        token,
        method,
    })
}

/// The token of the one `Authorization: Bearer` field.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next().ok_or(Refusal::TokenMissing)?;
    if fields.next().is_some() {
        return Err(Refusal::Malformed("repeated-authorization"));
    }
    let text = field
        .to_str()
        .map_err(|_| Refusal::TokenInvalid("token-malformed"))?;
    let (scheme, token) = text.split_once(' ').ok_or(Refusal::TokenMissing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::TokenMissing);
    }
    let token = token.trim_matches(' ');
    if token.is_empty() || token.len() > ringwall_token::MAX_TOKEN_BYTES || token.contains(' ') {
        return Err(Refusal::TokenInvalid("token-malformed"));
    }
    Ok(token)
}

async fn verified(
    worker: &Worker,
    route: &Route,
    text: &str,
    exchange: &Exchange,
) -> Result<Arc<VerifiedToken>, Refusal> {
    let audience = route.audience.as_deref().unwrap_or_default();
    let key = TokenKey::of(text);
    let cached = worker.tokens.lock().get(&key, exchange.now);
    let token = match cached {
        Some(token) => token,
        None => {
            let shared = &worker.shared;
            let tokens = shared.tokens.load_full();
            let tokens = tokens
                .as_ref()
                .ok_or_else(|| Refusal::Internal("no issuer is configured".into()))?;
            let claims = Box::pin(tokens.verify(text, audience, exchange.now)).await?;
            let token = Arc::new(VerifiedToken::new(claims, |text| shared.hash(text)));
            worker.tokens.lock().insert(key, Arc::clone(&token));
            token
        }
    };
    // A cached token was verified for the audience of some route; this route may have another.
    if *token.audience != *audience {
        return Err(Refusal::TokenInvalid("token-audience"));
    }
    Ok(token)
}

fn check_scopes(route: &Route, token: &VerifiedToken) -> Result<(), Refusal> {
    if route.scopes.iter().all(|scope| token.has_scope(scope)) {
        return Ok(());
    }
    let wanted: Vec<&str> = route.scopes.iter().map(AsRef::as_ref).collect();
    Err(Refusal::ScopeMissing(Arc::from(wanted.join(" "))))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(fields: &[&'static str]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(field));
        }
        bearer(&headers)
            .map(str::to_owned)
            .map_err(|refusal| refusal.name())
    }

    #[test]
    fn one_bearer_token_is_read() {
        assert_eq!(read(&["Bearer abc"]).as_deref(), Ok("abc"));
        assert_eq!(read(&["bearer  abc"]).as_deref(), Ok("abc"));
    }

    #[test]
    fn r05_anything_else_is_refused() {
        assert_eq!(read(&[]), Err("token-missing"));
        assert_eq!(read(&["Basic abc"]), Err("token-missing"));
        assert_eq!(read(&["Bearer"]), Err("token-missing"));
        assert_eq!(read(&["Bearer "]), Err("token-malformed"));
        assert_eq!(read(&["Bearer a b"]), Err("token-malformed"));
        assert_eq!(
            read(&["Bearer a", "Bearer a"]),
            Err("repeated-authorization")
        );
    }
}
