//! UserInfo (OpenID Connect Core §5.3): claims about the user of an access token with `openid`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{AUTHORIZATION, CACHE_CONTROL};
use serde::Serialize;

use crate::error::{Code, Error};
use crate::server::Server;
use crate::tokens;

#[derive(Serialize)]
struct UserInfo {
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<String>>,
}

/// `GET` and `POST /userinfo`, the token in the Authorization header only (RFC 6750 §2.1).
pub(crate) async fn userinfo(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let token = bearer_token(&headers)?;
    let invalid = || Error::refused(Code::InvalidToken, "the access token is not valid");
    let live = tokens::find_live(&server, token)
        .await?
        .ok_or_else(invalid)?;
    let record = &live.record;
    if !record.user || !record.scopes.contains("openid") {
        return Err(Error::refused(
            Code::InsufficientScope,
            "the scope openid is needed",
        ));
    }
    let profile = server
        .store
        .profile(record.sub.clone())
        .await?
        .ok_or_else(invalid)?;
    let with_profile = record.scopes.contains("profile");
    let info = UserInfo {
        sub: record.sub.to_string(),
        name: with_profile.then_some(profile.name),
        preferred_username: with_profile.then_some(profile.username),
        email: record.scopes.contains("email").then_some(profile.email),
        roles: with_profile.then_some(live.standing.roles),
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(info)).into_response())
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Error::BearerMissing);
    };
    let text = value.to_str().map_err(|_| Error::BearerMissing)?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Error::BearerMissing),
    }
}
