//! API calls: what passes, what is stripped, and what is refused.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use futures_util::StreamExt;
use http::{Method, Request, StatusCode, header};
use ringwall_proto::headers::{CSRF, IDEMPOTENCY_KEY};
use serde_json::json;
use tower::ServiceExt;

use super::fixture::{ORIGIN, Platform, peer, signed_in};
use crate::cookies::SESSION;

#[tokio::test]
async fn r19_the_token_is_validated_before_the_call_and_travels_only_to_the_api() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    let answer = browser.get("/api/orders?limit=5").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(platform.authority.state.lock().introspections, 1);

    let seen = platform.api.seen.lock();
    let (method, target, headers, _) = &seen[0];
    assert_eq!(
        (method, target.as_str()),
        (&Method::GET, "/v1/orders?limit=5")
    );
    let bearer = headers[header::AUTHORIZATION]
        .to_str()
        .unwrap()
        .strip_prefix("Bearer ")
        .unwrap();
    assert!(platform.authority.state.lock().active.contains_key(bearer));
    let text = format!("{:?}{}", answer.headers, answer.body);
    assert!(!text.contains(bearer));
}

#[tokio::test]
async fn r19_without_an_authorization_server_every_call_is_denied() {
    let platform = Platform::without_authority().await;
    let mut browser = platform.browser();
    let id = platform
        .app
        .sessions
        .start(signed_in("alice"), SystemTime::now());
    browser.cookies.insert(SESSION.into(), id);
    let paths = [
        "/api/orders",
        "/api/catalogue",
        "/api/notifications",
        "/api/notifications/stream",
    ];
    for path in paths {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(answer.headers.contains_key(header::RETRY_AFTER));
    }
    assert!(platform.api.seen.lock().is_empty());
    // The person is still signed in: nothing is known against the session.
    assert_eq!(browser.get("/api/session").await.json()["signed_in"], true);
}

#[tokio::test]
async fn r19_a_revoked_token_ends_the_session_within_a_second() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    assert_eq!(browser.get("/api/orders").await.status, StatusCode::OK);
    platform.authority.state.lock().active.clear();
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(
        browser.get("/api/orders").await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(browser.get("/api/session").await.json()["signed_in"], false);
    assert_eq!(platform.api.seen.lock().len(), 1);
}

#[tokio::test]
async fn r19_a_token_of_another_person_or_use_is_refused() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    for sub in platform.authority.state.lock().active.values_mut() {
        "bob".clone_into(sub);
    }
    assert_eq!(
        browser.get("/api/orders").await.status,
        StatusCode::UNAUTHORIZED
    );
    assert!(platform.api.seen.lock().is_empty());
}

#[tokio::test]
async fn r19_nobody_calls_without_a_session() {
    let platform = Platform::start().await;
    for path in [
        "/api/orders",
        "/api/catalogue",
        "/api/notifications",
        "/api/notifications/stream",
    ] {
        let answer = platform.browser().get(path).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert!(platform.api.seen.lock().is_empty());
}

#[tokio::test]
async fn r18_open_proxy_matrix() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    for path in [
        "/api/admin",
        "/api/orders/../../jwks",
        "/api/orders/..%2f..%2fjwks",
        "/api/orders/a%00b",
        "/api/orders/http:%2f%2fevil.example",
        "/api/orders//evil.example",
        "/api//orders",
        "/api/v1/topics/order.placed/events",
        "/api/orders/1/2",
        "/api/orders?url=http://evil.example",
        "/api/orders?limit=1&limit=2",
        "/api/catalogue?x=1",
        "/v1/orders",
        "/api/http://evil.example/",
    ] {
        let answer = browser.get(path).await;
        let refused = [StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST].contains(&answer.status);
        assert!(refused, "{path}: {}", answer.status);
    }
    for method in [
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::CONNECT,
        Method::TRACE,
    ] {
        let request = browser
            .request(method.clone(), "/api/orders")
            .header(CSRF, "1");
        let request = request
            .header(header::ORIGIN, ORIGIN)
            .body(Body::empty())
            .unwrap();
        assert_eq!(
            browser.send(request).await.status,
            StatusCode::METHOD_NOT_ALLOWED,
            "{method}"
        );
    }
    let absolute = browser.request(Method::GET, "http://evil.example/api/orders");
    let answer = browser.send(absolute.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
    let seen = platform.api.seen.lock();
    assert!(
        seen.iter().all(|(_, target, ..)| target == "/v1/orders"),
        "{seen:?}"
    );
}

#[tokio::test]
async fn r18_only_listed_headers_pass_in_both_directions() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    let request = browser
        .request(Method::POST, "/api/orders")
        .header(CSRF, "1")
        .header(header::ORIGIN, ORIGIN)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, "Bearer forged")
        .header("x-ringwall-user-context", "forged")
        .header("x_ringwall_user_context", "forged")
        .header("x-api-key", "forged")
        .header("x-forwarded-for", "1.2.3.4")
        .header(header::HOST, "evil.example")
        .header(IDEMPOTENCY_KEY, "key-1")
        .body(Body::from(r#"{"lines":[]}"#))
        .unwrap();
    let answer = browser.send(request).await;
    assert_eq!(answer.headers[header::RETRY_AFTER], "7");
    assert!(!answer.headers.contains_key(header::SET_COOKIE));
    assert!(!answer.headers.contains_key("x-internal"));
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");

    let seen = platform.api.seen.lock();
    let (_, _, headers, body) = &seen[0];
    assert_eq!(headers[IDEMPOTENCY_KEY], "key-1");
    assert_eq!(body, r#"{"lines":[]}"#);
    assert!(!format!("{headers:?}").contains("forged"));
    for name in ["cookie", "x-forwarded-for", "origin", CSRF] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_ne!(headers[header::HOST], "evil.example");
}

#[tokio::test]
async fn r18_unsafe_calls_need_the_csrf_header_and_our_origin() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    for path in ["/api/orders", "/auth/logout", "/api/spans"] {
        for headers in [
            &[][..],
            &[("origin", ORIGIN)],
            &[(CSRF, "1")],
            &[(CSRF, "1"), ("origin", "https://evil.example")],
            &[
                (CSRF, "1"),
                ("origin", ORIGIN),
                ("sec-fetch-site", "cross-site"),
            ],
        ] {
            let mut request = browser.request(Method::POST, path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let answer = browser.send(request.body(Body::from("{}")).unwrap()).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {headers:?}");
            assert_eq!(answer.json()["type"], "urn:ringwall:problem:csrf-refused");
        }
    }
    assert!(platform.api.seen.lock().is_empty());
    assert_eq!(browser.get("/api/session").await.json()["signed_in"], true);
}

#[tokio::test]
async fn r18_large_bodies_and_other_media_types_are_refused() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    let large = json!({ "lines": "x".repeat(20_000) });
    let answer = browser.post("/api/orders", &large).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let form = browser
        .request(Method::POST, "/api/orders")
        .header(CSRF, "1");
    let form = form
        .header(header::ORIGIN, ORIGIN)
        .header(header::CONTENT_TYPE, "text/plain");
    let answer = browser.send(form.body(Body::from("{}")).unwrap()).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_refusal_of_the_api_is_passed_on_but_not_its_distrust_of_the_token() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    for (theirs, ours) in [(403, 403), (409, 409), (429, 429), (401, 502), (302, 502)] {
        *platform.api.status.lock() = StatusCode::from_u16(theirs).ok();
        assert_eq!(browser.get("/api/orders").await.status.as_u16(), ours);
    }
}

#[tokio::test]
async fn an_event_stream_flows_and_ends_with_the_session() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    let request = browser.request(Method::GET, "/api/notifications/stream");
    let response = browser.open(request.body(Body::empty()).unwrap()).await;
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/event-stream"
    );
    let mut stream = response.into_body().into_data_stream();
    assert_eq!(
        stream.next().await.unwrap().unwrap(),
        "event: order.confirmed\n\n"
    );

    browser.post("/auth/logout", &json!({})).await;
    let end = tokio::time::timeout(Duration::from_secs(5), stream.next()).await;
    assert!(end.expect("the stream ends with the session").is_none());
}

#[tokio::test]
async fn r18_a_session_has_a_limited_number_of_streams() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    let mut open = Vec::new();
    for n in 0..9 {
        let request = browser.request(Method::GET, "/api/notifications/stream");
        let response = browser.open(request.body(Body::empty()).unwrap()).await;
        let expected = if n < 8 {
            StatusCode::OK
        } else {
            StatusCode::TOO_MANY_REQUESTS
        };
        assert_eq!(response.status(), expected);
        open.push(response);
    }
    open.clear();
    let again = browser.request(Method::GET, "/api/notifications/stream");
    let again = browser.open(again.body(Body::empty()).unwrap()).await;
    assert_eq!(again.status(), StatusCode::OK);
}

#[tokio::test]
async fn r43_every_answer_carries_the_security_headers() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    for path in [
        "/",
        "/orders",
        "/assets/app-1.js",
        "/api/session",
        "/api/orders",
        "/nope",
    ] {
        let answer = browser.get(path).await;
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        for part in [
            "default-src 'self'",
            "frame-ancestors 'none'",
            "connect-src 'self'",
        ] {
            assert!(policy.contains(part), "{path}");
        }
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(answer.headers[header::REFERRER_POLICY], "no-referrer");
        assert!(
            answer
                .headers
                .contains_key(header::STRICT_TRANSPORT_SECURITY)
        );
        assert!(answer.headers.contains_key(header::CACHE_CONTROL), "{path}");
    }
}

#[tokio::test]
async fn r18_other_workloads_cannot_use_a_stolen_cookie() {
    let platform = Platform::start().await;
    let browser = platform.signed_in().await;
    for caller in [
        Some("orders"),
        Some("authz-server"),
        Some("spa-proxy"),
        None,
    ] {
        let mut request = Request::builder().uri("/api/session");
        if let Some(caller) = caller {
            request = request.extension(peer(caller));
        }
        let cookie = format!("{SESSION}={}", browser.cookies[SESSION]);
        let request = request
            .header(header::COOKIE, cookie)
            .body(Body::empty())
            .unwrap();
        let response = platform.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{caller:?}");
    }
}
