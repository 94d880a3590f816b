//! The pages that people see: templates, their security headers, and the static files beside them.
//!
//! No page has a script. `form-action` names the application's origin too, because browsers apply
//! it to the redirects that follow a form.

use askama::Template;
use axum::extract::{Path, RawQuery};
use axum::response::{Html, IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use url::Url;

use crate::error::Error;
use crate::random::base64url_sha256;

const STYLE: &str = include_str!("../assets/style.css");
const MARK: &str = include_str!("../assets/mark.svg");

#[derive(Template)]
#[template(path = "login.html")]
pub(crate) struct Login<'a> {
    pub(crate) stylesheet: &'a str,
    pub(crate) origin: &'a str,
    pub(crate) client: &'a str,
    pub(crate) message: Option<&'a str>,
    pub(crate) username: &'a str,
    pub(crate) interaction: &'a str,
    pub(crate) csrf: &'a str,
    pub(crate) cancel_csrf: &'a str,
}

#[derive(Template)]
#[template(path = "consent.html")]
pub(crate) struct Consent<'a> {
    pub(crate) stylesheet: &'a str,
    pub(crate) origin: &'a str,
    pub(crate) client: &'a str,
    pub(crate) user: &'a str,
    pub(crate) scopes: Vec<ScopeLine<'a>>,
    pub(crate) destination: &'a str,
    pub(crate) interaction: &'a str,
    pub(crate) csrf: &'a str,
}

/// One line of the consent page.
pub(crate) struct ScopeLine<'a> {
    pub(crate) name: &'a str,
    pub(crate) title: &'a str,
}

#[derive(Template)]
#[template(path = "logout.html")]
pub(crate) struct Logout<'a> {
    pub(crate) stylesheet: &'a str,
    pub(crate) origin: &'a str,
    pub(crate) user: &'a str,
    pub(crate) csrf: &'a str,
    pub(crate) carried: Vec<(&'a str, &'a str)>,
}

#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    stylesheet: &'a str,
    origin: &'a str,
    is_error: bool,
    title: &'a str,
    text: &'a str,
    code: Option<&'a str>,
}

/// Renders a page. `returns_to` is the redirect URI that a form of the page may end at.
pub(crate) fn show(
    status: StatusCode,
    page: &impl Template,
    returns_to: Option<&str>,
) -> Result<Response, Error> {
    let mut response = (status, Html(page.render()?)).into_response();
    protect(response.headers_mut(), returns_to);
    Ok(response)
}

/// A page that says what went wrong. It cannot fail: without the template, text must do.
pub(crate) fn error(status: StatusCode, code: &str, text: &str) -> Response {
    let title = if status.is_server_error() {
        "Something went wrong"
    } else {
        "This did not work"
    };
    let stylesheet = stylesheet();
    let text = &sentence(text);
    let code = Some(code);
    let page = Message {
        stylesheet: &stylesheet,
        origin: "",
        is_error: true,
        title,
        text,
        code,
    };
    show(status, &page, None).unwrap_or_else(|_| (status, text.to_owned()).into_response())
}

/// Descriptions are written as fragments, for the JSON of RFC 6749; a page says them properly.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters
        .next()
        .map(|c| c.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}

/// A page that says what was done.
pub(crate) fn done(origin: &str, title: &str, text: &str) -> Result<Response, Error> {
    let stylesheet = stylesheet();
    let page = Message {
        stylesheet: &stylesheet,
        origin,
        is_error: false,
        title,
        text,
        code: None,
    };
    show(StatusCode::OK, &page, None)
}

/// Address of the style sheet; it changes with the content, so that it can be cached for ever.
pub(crate) fn stylesheet() -> String {
    format!("/assets/style.css?v={}", fingerprint(STYLE))
}

/// `GET /assets/{name}`.
pub(crate) async fn asset(
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let (content, kind) = match name.as_str() {
        "style.css" => (STYLE, "text/css; charset=utf-8"),
        "mark.svg" => (MARK, "image/svg+xml"),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let tag = fingerprint(content);
    let etag = format!("\"{tag}\"");
    let caching = if query.is_some_and(|q| q == format!("v={tag}")) {
        "public, max-age=31536000, immutable"
    } else {
        "public, max-age=3600"
    };
    let known = headers
        .get(http::header::IF_NONE_MATCH)
        .is_some_and(|v| *v == etag);
    let fixed = [
        (CACHE_CONTROL, caching.to_owned()),
        (ETAG, etag),
        (CONTENT_TYPE, kind.to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    (fixed, content).into_response()
}

fn fingerprint(content: &str) -> String {
    base64url_sha256(content).chars().take(16).collect()
}

fn protect(headers: &mut HeaderMap, returns_to: Option<&str>) {
    let target = returns_to.and_then(form_target).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'{target}; \
         frame-ancestors 'none'; base-uri 'none'"
    );
    let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static(
        "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // `no-referrer` would make browsers send `Origin: null` with our own forms.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        "cross-origin-opener-policy",
        HeaderValue::from_static("same-origin"),
    );
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("same-origin"),
    );
}

/// A redirect URI as a source expression of CSP: its origin, or its scheme for private-use ones.
fn form_target(uri: &str) -> Option<String> {
    let url = Url::parse(uri).ok()?;
    let source = if matches!(url.scheme(), "http" | "https") {
        url.origin().ascii_serialization()
    } else {
        format!("{}:", url.scheme())
    };
    Some(format!(" {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cannot_be_framed_and_forms_end_only_where_they_should() {
        let mut headers = HeaderMap::new();
        protect(
            &mut headers,
            Some("https://app.localhost:8443/auth/callback?x"),
        );
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'"));
        assert!(
            policy.contains("form-action 'self' https://app.localhost:8443;"),
            "{policy}"
        );
        assert!(policy.starts_with("default-src 'none'"));
        assert!(!policy.contains("script"));
        assert_eq!(headers[X_FRAME_OPTIONS], "DENY");
    }

    #[test]
    fn text_from_outside_is_escaped() {
        let page = error(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "<script>alert(1)</script>",
        );
        assert_eq!(page.status(), StatusCode::BAD_REQUEST);
        let message = Message {
            stylesheet: "",
            origin: "",
            is_error: true,
            title: "x",
            text: "<script>",
            code: None,
        };
        assert!(!message.render().unwrap().contains("<script>"));
    }
}
