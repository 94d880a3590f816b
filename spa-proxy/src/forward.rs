//! API calls of the page, passed on to the gateway's API host with the session's access token.
//!
//! Owns: the table of what may be called. A request that is not in it finds no route, and nothing
//! that a client sends chooses a host, a scheme or a path outside it: this is no open proxy.
//! Must not: pass on a cookie, a client's own identity headers, or anything else but the lists below.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{RawPathParams, Request, State},
    response::Response,
    routing::{MethodFilter, on},
};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use ringwall_http_io::body::{self, BodyError, BoxBody};
use ringwall_proto::{WireToken, headers, paths};
use ringwall_service::{Transport, telemetry};
use url::form_urlencoded;

use crate::{app::Ringwall, auth::CurrentSession, error::Error, sessions::Session};

/// Largest request body: an order has at most 20 short lines.
const MAX_BODY: usize = 16 * 1024;
/// An event stream is cut after this long, so that the browser comes back and is checked again.
const STREAM_LIFE: Duration = Duration::from_secs(5 * 60);

/// What of the page's request reaches the API.
const REQUEST_HEADERS: [HeaderName; 5] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_TYPE,
    HeaderName::from_static(headers::IDEMPOTENCY_KEY),
    HeaderName::from_static(headers::LAST_EVENT_ID),
];

/// What of the API's answer reaches the page.
const RESPONSE_HEADERS: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::RETRY_AFTER,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];

/// One call that the page may make.
#[derive(Debug)]
struct ApiRoute {
    method: MethodFilter,
    path: &'static str,
    target: &'static str,
    /// Query parameters that pass, each at most once.
    query: &'static [&'static str],
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    /// Has a JSON body, and its trace may be looked at by who caused it.
    Order,
    /// Server-sent events (WHATWG HTML §9.2).
    Stream,
}

static ROUTES: [ApiRoute; 6] = [
    route(
        MethodFilter::GET,
        "/api/catalogue",
        paths::CATALOGUE,
        &[],
        Kind::Read,
    ),
    route(
        MethodFilter::GET,
        "/api/orders",
        paths::ORDERS,
        &["limit", "before"],
        Kind::Read,
    ),
    route(
        MethodFilter::POST,
        "/api/orders",
        paths::ORDERS,
        &[],
        Kind::Order,
    ),
    route(
        MethodFilter::GET,
        "/api/orders/{id}",
        "/v1/orders/{id}",
        &[],
        Kind::Read,
    ),
    route(
        MethodFilter::GET,
        "/api/notifications",
        paths::NOTIFICATIONS,
        &["limit"],
        Kind::Read,
    ),
    route(
        MethodFilter::GET,
        "/api/notifications/stream",
        paths::NOTIFICATIONS_STREAM,
        &[],
        Kind::Stream,
    ),
];

const fn route(
    method: MethodFilter,
    path: &'static str,
    target: &'static str,
    query: &'static [&'static str],
    kind: Kind,
) -> ApiRoute {
    ApiRoute {
        method,
        path,
        target,
        query,
        kind,
    }
}

/// The routes of the table.
pub(crate) fn router() -> Router<Arc<Ringwall>> {
    ROUTES.iter().fold(Router::new(), |router, route| {
        let handler = move |state: State<Arc<Ringwall>>,
                            session: CurrentSession,
                            parameters: RawPathParams,
                            request: Request| {
            forward(route, state, session, parameters, request)
        };
        router.route(route.path, on(route.method, handler))
    })
}

async fn forward(
    route: &'static ApiRoute,
    State(app): State<Arc<Ringwall>>,
    CurrentSession(session): CurrentSession,
    parameters: RawPathParams,
    request: Request,
) -> Result<Response, Error> {
    let target = target(route, &parameters, request.uri().query())?;
    let token = app.access_token(&session).await?;
    if route.kind == Kind::Order
        && let Some(trace_id) = telemetry::current_trace_id()
    {
        app.traces.claim(&trace_id, &session.user.sub);
    }
    let permit = match route.kind {
        Kind::Stream => {
            let permit = Arc::clone(&session.streams).try_acquire_owned();
            Some(permit.map_err(|_| Error::TooManyStreams)?)
        }
        Kind::Read | Kind::Order => None,
    };
    let outbound = outbound(route, &target, &token, request).await?;
    let answer = app.api.send(outbound).await;
    let answer = answer.map_err(|error| Error::ApiUnreachable(error.to_string()))?;
    let (parts, body) = answer.into_parts();
    if parts.status == StatusCode::UNAUTHORIZED || parts.status.is_redirection() {
        return Err(Error::ApiRefusedToken);
    }
    let body = match permit {
        Some(permit) => until_the_end(&session, permit, body::boxed(body)),
        None => Body::new(body),
    };
    Ok(inbound(parts.status, &parts.headers, body))
}

/// Path and query to call, built from the table; only checked pieces of the request go in.
fn target(
    route: &ApiRoute,
    parameters: &RawPathParams,
    query: Option<&str>,
) -> Result<String, Error> {
    let mut target = route.target.to_owned();
    for (name, value) in parameters {
        if !is_identifier(value) {
            return Err(Error::NotFound);
        }
        target = target.replace(&format!("{{{name}}}"), value);
    }
    let query = allowed_query(route, query.unwrap_or(""))?;
    Ok(if query.is_empty() {
        target
    } else {
        format!("{target}?{query}")
    })
}

/// Ids are short and plain: no dot, slash, percent sign or control character gets into a path.
fn is_identifier(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}

fn allowed_query(route: &ApiRoute, query: &str) -> Result<String, Error> {
    let mut checked = form_urlencoded::Serializer::new(String::new());
    let mut seen = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let known = route.query.iter().find(|allowed| **allowed == name);
        let known = known.ok_or(Error::BadRequest("an unknown query parameter"))?;
        if seen.contains(known) || !is_identifier(&value) {
            return Err(Error::BadRequest(
                "a query parameter occurs twice or is malformed",
            ));
        }
        seen.push(known);
        checked.append_pair(known, &value);
    }
    Ok(checked.finish())
}

async fn outbound(
    route: &ApiRoute,
    target: &str,
    token: &WireToken,
    request: Request,
) -> Result<http::Request<BoxBody>, Error> {
    let (parts, incoming) = request.into_parts();
    let body = match route.kind {
        Kind::Order => body::full(read_json(&parts.headers, incoming).await?),
        Kind::Read | Kind::Stream => body::empty(),
    };
    let method = if route.kind == Kind::Order {
        Method::POST
    } else {
        Method::GET
    };
    let mut outbound = http::Request::new(body);
    *outbound.method_mut() = method;
    *outbound.uri_mut() = target.parse().map_err(|_| Error::NotFound)?;
    copy(&REQUEST_HEADERS, &parts.headers, outbound.headers_mut());
    if route.kind != Kind::Order {
        outbound.headers_mut().remove(header::CONTENT_TYPE);
    }
    outbound
        .headers_mut()
        .insert(header::AUTHORIZATION, bearer(token)?);
    Ok(outbound)
}

fn bearer(token: &WireToken) -> Result<HeaderValue, Error> {
    let mut field = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| Error::SessionOver("its access token cannot be sent"))?;
    field.set_sensitive(true);
    Ok(field)
}

/// Only JSON: a form could be sent by a foreign page without a preflight.
async fn read_json(headers: &HeaderMap, body: Body) -> Result<bytes::Bytes, Error> {
    let media = headers
        .get(header::CONTENT_TYPE)
        .and_then(|field| field.to_str().ok());
    let essence = media
        .and_then(|media| media.split(';').next())
        .map(str::trim);
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Err(Error::UnsupportedMediaType);
    }
    body::collect(body, MAX_BODY)
        .await
        .map_err(|error| match error {
            BodyError::TooLarge { limit } => Error::BodyTooLarge(limit),
            BodyError::Read(_) => Error::BadRequest("the body broke off"),
        })
}

/// Copies what is listed; of a field that occurs twice, nothing.
fn copy(names: &[HeaderName], from: &HeaderMap, to: &mut HeaderMap) {
    for name in names {
        let mut values = from.get_all(name).iter();
        if let (Some(value), None) = (values.next(), values.next()) {
            to.insert(name, value.clone());
        }
    }
}

fn inbound(status: StatusCode, headers: &HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    copy(&RESPONSE_HEADERS, headers, response.headers_mut());
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The stream, until it ends by itself, the session ends, or its time is over.
fn until_the_end(
    session: &Session,
    permit: tokio::sync::OwnedSemaphorePermit,
    incoming: BoxBody,
) -> Body {
    let ended = session.ended();
    let over = async move {
        let _ = tokio::time::timeout(STREAM_LIFE, ended).await;
    };
    let stream = http_body_util::BodyDataStream::new(incoming).take_until(Box::pin(over));
    Body::from_stream(stream.map(move |item| {
        // The permit lives as long as the stream.
        let _held = &permit;
        item
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r18_identifiers_cannot_leave_their_place_in_the_path() {
        assert!(is_identifier("0190c5a2-7b1e-7c3a-9d70-1a2b3c4d5e6f"));
        let long = "a".repeat(65);
        for bad in [
            "", "..", ".", "a/b", "a%2fb", "a?b", "a#b", "a b", "a\r\nb", "é", &long,
        ] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }

    #[test]
    fn r18_only_listed_query_parameters_pass_and_each_once() {
        let orders = &ROUTES[1];
        assert_eq!(
            allowed_query(orders, "limit=10&before=a-b").unwrap(),
            "limit=10&before=a-b"
        );
        assert_eq!(allowed_query(orders, "").unwrap(), "");
        for bad in [
            "limit=1&limit=2",
            "user=bob",
            "limit=1%0d%0a",
            "before=../x",
            "limit",
        ] {
            assert!(allowed_query(orders, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_repeated_header_is_not_passed_on() {
        let mut from = HeaderMap::new();
        from.append(header::ACCEPT, HeaderValue::from_static("a"));
        from.append(header::ACCEPT, HeaderValue::from_static("b"));
        from.append(header::COOKIE, HeaderValue::from_static("secret=1"));
        let mut to = HeaderMap::new();
        copy(&REQUEST_HEADERS, &from, &mut to);
        assert!(to.is_empty());
    }
}
