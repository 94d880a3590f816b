//! Signing out, from the page and from the authorization server.

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::fixture::{ISSUER, Platform, now, peer};
use crate::cookies::SESSION;

#[tokio::test]
async fn r44_sign_out_ends_everything_and_puts_no_token_into_a_url() {
    let platform = Platform::start().await;
    let mut browser = platform.signed_in().await;
    let id = browser.cookies[SESSION].clone();
    let answer = browser.post("/auth/logout", &json!({})).await;
    let location = answer.json()["location"].as_str().unwrap().to_owned();
    assert_eq!(
        location,
        format!(
            "{ISSUER}/logout?client_id=spa-proxy&post_logout_redirect_uri=https%3A%2F%2Fapp.localhost%3A8443%2F"
        )
    );
    assert!(browser.cookies.is_empty());
    {
        let state = platform.authority.state.lock();
        assert_eq!((state.revoked.len(), state.ended.len()), (1, 1));
        assert!(state.refresh_tokens.contains(&state.revoked[0]));
    }
    browser.cookies.insert(SESSION.into(), id);
    assert_eq!(
        browser.get("/api/orders").await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn signing_out_without_a_session_is_harmless() {
    let platform = Platform::start().await;
    let answer = platform.browser().post("/auth/logout", &json!({})).await;
    assert_eq!(answer.json()["location"], "/");
}

fn claims(replace: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": "spa-proxy", "iat": now(), "exp": now() + 120, "jti": "logout-1",
        "sub": "alice", "sid": "sid-of-alice",
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
    });
    for (name, value) in replace.as_object().unwrap() {
        match value {
            Value::Null => {
                claims.as_object_mut().unwrap().remove(name);
            }
            value => claims[name] = value.clone(),
        }
    }
    claims
}

async fn send(platform: &Platform, caller: &str, token: &str) -> StatusCode {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/auth/backchannel-logout")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .extension(peer(caller))
        .body(Body::from(format!("logout_token={token}")))
        .unwrap();
    platform
        .router
        .clone()
        .oneshot(request)
        .await
        .unwrap()
        .status()
}

#[tokio::test]
async fn r44_a_logout_token_ends_the_session_it_names_and_works_once() {
    let platform = Platform::start().await;
    let mut alice = platform.signed_in().await;
    let mut bob = platform.browser();
    platform.sign_in(&mut bob, "bob").await;

    let token = platform
        .authority
        .keys
        .sign("logout+jwt", &claims(&json!({})))
        .unwrap();
    assert_eq!(
        send(&platform, "gateway", &token).await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        send(&platform, "authz-server", &token).await,
        StatusCode::OK
    );
    assert_eq!(alice.get("/api/session").await.json()["signed_in"], false);
    assert_eq!(bob.get("/api/session").await.json()["signed_in"], true);

    platform.sign_in(&mut alice, "alice").await;
    assert_eq!(
        send(&platform, "authz-server", &token).await,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(alice.get("/api/session").await.json()["signed_in"], true);
}

#[tokio::test]
async fn r44_tokens_that_are_no_logout_tokens_end_nothing() {
    let platform = Platform::start().await;
    let mut alice = platform.signed_in().await;
    let keys = &platform.authority.keys;
    let foreign = ringwall_token::SigningKey::generate(ringwall_token::Algorithm::Es256).unwrap();
    let sign = |replace: Value| keys.sign("logout+jwt", &claims(&replace)).unwrap();
    let bad = [
        ("id token", keys.sign("JWT", &claims(&json!({}))).unwrap()),
        (
            "foreign key",
            foreign.sign("logout+jwt", &claims(&json!({}))).unwrap(),
        ),
        ("audience", sign(json!({ "aud": "demo-second" }))),
        ("issuer", sign(json!({ "iss": "https://evil.example" }))),
        ("no event", sign(json!({ "events": {} }))),
        ("nonce", sign(json!({ "nonce": "n" }))),
        ("nobody", sign(json!({ "sub": null, "sid": null }))),
        (
            "expired",
            sign(json!({ "exp": now() - 3_600, "iat": now() - 7_200 })),
        ),
        ("garbage", "garbage".to_owned()),
        ("empty", String::new()),
    ];
    for (what, token) in bad {
        assert_eq!(
            send(&platform, "authz-server", &token).await,
            StatusCode::BAD_REQUEST,
            "{what}"
        );
    }
    assert_eq!(alice.get("/api/session").await.json()["signed_in"], true);
}

#[tokio::test]
async fn r44_a_subject_without_a_session_id_ends_all_of_theirs() {
    let platform = Platform::start().await;
    let mut first = platform.signed_in().await;
    let mut second = platform.signed_in().await;
    let claims = claims(&json!({ "sid": null }));
    let token = platform.authority.keys.sign("logout+jwt", &claims).unwrap();
    assert_eq!(
        send(&platform, "authz-server", &token).await,
        StatusCode::OK
    );
    for browser in [&mut first, &mut second] {
        assert_eq!(browser.get("/api/session").await.json()["signed_in"], false);
    }
}
