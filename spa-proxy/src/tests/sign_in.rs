//! Signing in: the order of its steps, and each way to break it.

use http::{StatusCode, header};
use serde_json::{Value, json};

use super::fixture::{Browser, ISSUER, Platform, now};
use crate::cookies::{SESSION, SIGN_IN_PREFIX};

fn has_session(browser: &Browser) -> bool {
    browser.cookies.contains_key(SESSION)
}

#[tokio::test]
async fn r17_the_code_flow_ends_in_a_session_and_no_token_reaches_the_browser() {
    let platform = Platform::start().await;
    let mut browser = platform.browser();

    let start = browser.get("/auth/login?return_to=/orders").await;
    assert_eq!(start.status, StatusCode::SEE_OTHER);
    assert!(
        start
            .location()
            .starts_with(&format!("{ISSUER}/authorize?"))
    );
    assert!(!has_session(&browser));

    let callback = platform.approve(start.location(), "alice");
    let end = browser.get(&callback).await;
    assert_eq!(
        (end.status, end.location()),
        (StatusCode::SEE_OTHER, "/orders")
    );
    assert!(has_session(&browser));
    assert!(
        !browser
            .cookies
            .keys()
            .any(|name| name.starts_with(SIGN_IN_PREFIX))
    );

    let session = browser.get("/api/session").await;
    let expected = json!({ "signed_in": true,
        "user": { "sub": "alice", "name": "Alice", "roles": ["customer"] } });
    assert_eq!(session.json(), expected);

    let state = platform.authority.state.lock();
    let everything = format!("{:?}{:?}{}", browser.cookies, end.headers, session.body);
    for secret in state.active.keys().chain(&state.refresh_tokens) {
        assert!(!everything.contains(secret.as_str()));
    }
}

#[tokio::test]
async fn r18_the_session_id_is_new_at_every_sign_in_and_the_old_one_ends() {
    let platform = Platform::start().await;
    let mut browser = platform.browser();
    browser
        .cookies
        .insert(SESSION.into(), "planted-by-an-attacker".into());
    platform.sign_in(&mut browser, "alice").await;
    let first = browser.cookies[SESSION].clone();
    assert_ne!(first, "planted-by-an-attacker");

    platform.sign_in(&mut browser, "bob").await;
    assert_ne!(browser.cookies[SESSION], first);
    assert_eq!(
        browser.get("/api/session").await.json()["user"]["sub"],
        "bob"
    );
    browser.cookies.insert(SESSION.into(), first);
    assert_eq!(
        browser.get("/api/session").await.json(),
        json!({ "signed_in": false })
    );
}

#[tokio::test]
async fn r18_a_state_that_this_browser_did_not_start_is_refused() {
    let platform = Platform::start().await;
    let mut attacker = platform.browser();
    let start = attacker.get("/auth/login").await;
    let callback = platform.approve(start.location(), "mallory");

    let mut victim = platform.browser();
    for path in [
        callback.as_str(),
        "/auth/callback?code=x&state=invented&iss=https://auth.localhost:8443",
        "/auth/callback?code=x",
        "/auth/callback",
        "/auth/callback?state=a&state=b&code=c",
    ] {
        let answer = victim.get(path).await;
        assert_eq!(answer.location(), "/?sign_in=expired", "{path}");
        assert!(!has_session(&victim));
    }
    // The same answer is good in the browser that started it, once.
    attacker.get(&callback).await;
    assert!(has_session(&attacker));
    assert_eq!(
        attacker.get(&callback).await.location(),
        "/?sign_in=expired"
    );
}

#[tokio::test]
async fn r18_an_answer_from_another_issuer_is_a_mix_up() {
    let platform = Platform::start().await;
    for issuer in [
        "&iss=https://evil.example",
        "&iss=https://auth.localhost:8443/",
        "&iss=",
        "",
    ] {
        let mut browser = platform.browser();
        let start = browser.get("/auth/login").await;
        let callback = platform.approve(start.location(), "alice");
        let callback = callback.replace(&format!("&iss={ISSUER}"), issuer);
        assert_eq!(
            browser.get(&callback).await.location(),
            "/?sign_in=failed",
            "{issuer}"
        );
        assert!(!has_session(&browser));
    }
}

#[tokio::test]
async fn r18_an_id_token_for_somebody_or_something_else_is_refused() {
    let platform = Platform::start().await;
    let cases: [Value; 6] = [
        json!({ "nonce": "of-another-sign-in" }),
        json!({ "nonce": null }),
        json!({ "aud": "demo-second" }),
        json!({ "aud": ["spa-proxy", "demo-second"] }),
        json!({ "iss": "https://evil.example" }),
        json!({ "exp": now() - 3_600 }),
    ];
    for claims in cases {
        let mut browser = platform.browser();
        platform.authority.state.lock().id_claims = claims.clone();
        let answer = platform.sign_in(&mut browser, "alice").await;
        assert_eq!(answer.location(), "/?sign_in=failed", "{claims}");
        assert!(!has_session(&browser));
    }
}

#[tokio::test]
async fn r18_a_refusal_at_the_server_is_told_and_ends_the_started_sign_in() {
    let platform = Platform::start().await;
    let mut browser = platform.browser();
    let start = browser.get("/auth/login").await;
    let callback = platform.approve(start.location(), "alice");
    let state = callback.split("state=").nth(1).unwrap();
    let denied = browser
        .get(&format!("/auth/callback?error=access_denied&state={state}"))
        .await;
    assert_eq!(denied.location(), "/?sign_in=denied");
    assert!(browser.cookies.is_empty());
}

#[tokio::test]
async fn r18_parallel_tabs_do_not_disturb_each_other() {
    let platform = Platform::start().await;
    let mut browser = platform.browser();
    let mut callbacks = Vec::new();
    for _tab in 0..4 {
        let start = browser.get("/auth/login").await;
        callbacks.push(platform.approve(start.location(), "alice"));
    }
    for callback in callbacks.iter().rev() {
        assert_eq!(browser.get(callback).await.location(), "/");
        assert_eq!(browser.get("/api/session").await.json()["signed_in"], true);
    }
}

#[tokio::test]
async fn r18_a_planted_second_session_cookie_is_refused() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    let id = browser.cookies[SESSION].clone();
    for path in [
        "/api/session",
        "/api/orders",
        "/api/traces/0af7651916cd43dd8448eb211c80319c",
    ] {
        let request = browser.request(http::Method::GET, path);
        let request = request.header(header::COOKIE, format!("{SESSION}=planted; a=b"));
        let answer = browser
            .send(request.body(axum::body::Body::empty()).unwrap())
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
    }
    assert_eq!(browser.cookies[SESSION], id);
}

#[tokio::test]
async fn sign_in_without_an_authorization_server_says_so() {
    let platform = Platform::without_authority().await;
    let answer = platform.browser().get("/auth/login").await;
    assert_eq!(answer.location(), "/?sign_in=unavailable");
}
