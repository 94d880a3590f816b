//! Authorization responses: 303 only, with `iss` in every one (RFC 9207), and only to a
//! [`ReturnPath`], which exists only for a validated redirect URI.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderValue, StatusCode};
use url::form_urlencoded::Serializer;

use super::request::ReturnPath;
use crate::error::{Code, Error};
use crate::server::Server;

/// `code`, `state`, `iss`.
pub(crate) fn code(server: &Server, to: &ReturnPath, code: &str) -> Result<Response, Error> {
    redirect(server, to, &[("code", code)])
}

/// `error`, `error_description`, `state`, `iss` (RFC 6749 §4.1.2.1).
pub(crate) fn error(
    server: &Server,
    to: &ReturnPath,
    code: Code,
    description: &str,
) -> Result<Response, Error> {
    tracing::info!(reason = %code, "authorization refused");
    redirect(
        server,
        to,
        &[("error", code.as_str()), ("error_description", description)],
    )
}

fn redirect(server: &Server, to: &ReturnPath, parts: &[(&str, &str)]) -> Result<Response, Error> {
    let mut query = Serializer::new(String::new());
    for (name, value) in parts {
        query.append_pair(name, value);
    }
    if let Some(state) = &to.state {
        query.append_pair("state", state);
    }
    query.append_pair("iss", &server.settings.issuer);
    let separator = if to.redirect_uri.contains('?') {
        '&'
    } else {
        '?'
    };
    see_other(&format!("{}{separator}{}", to.redirect_uri, query.finish()))
}

/// 303: the browser follows with GET and never repeats a form body elsewhere (RFC 9700 §4.12).
pub(crate) fn see_other(location: &str) -> Result<Response, Error> {
    let location = HeaderValue::from_str(location)
        .map_err(|_| Error::refused(Code::InvalidRequest, "the return address is malformed"))?;
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
