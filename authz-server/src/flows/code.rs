//! The authorization code flow: PKCE, PAR, redirect URIs, and what happens to codes.

use std::time::Duration;

use crate::audit::Kind;
use crate::testing::{API, CALLBACK, ISSUER, Tokens, World, authorize_path, challenge, query_of};

#[tokio::test]
async fn r07_code_flow_with_pkce_and_iss_in_the_response() {
    let world = World::start().await;
    let (_, query) = world.code("alice", "openid profile orders:read").await;
    assert_eq!(query["iss"], ISSUER);
    assert_eq!(query["state"], "af0ifjsldkj");
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    let seen = world.introspect(&tokens.access).await;
    assert_eq!(seen["active"], true);
    assert_eq!(seen["aud"], API);
    assert_eq!(seen["username"], "alice");
    assert_eq!(seen["roles"][0], "customer");
    assert_eq!(seen["scope"], "openid orders:read profile");
    assert!(!tokens.refresh.is_empty() && !tokens.id.is_empty());
}

#[tokio::test]
async fn r07_code_replay_revokes_the_family() {
    let world = World::start().await;
    let (_, query) = world.code("alice", "openid orders:read").await;
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    assert!(world.is_active(&tokens.access).await);
    let replay = world.redeem(&query["code"]).await;
    assert_eq!(
        (replay.status.as_u16(), replay.error().as_str()),
        (400, "invalid_grant")
    );
    assert!(!world.is_active(&tokens.access).await);
    assert_eq!(
        world.refresh(&tokens.refresh).await.error(),
        "invalid_grant"
    );
    assert_eq!(world.server.store.audit_events(Kind::CodeReplayed).await, 1);
}

#[tokio::test]
async fn r07_code_replay_after_a_restart_is_still_a_replay() {
    let mut world = World::start().await;
    let (_, query) = world.code("alice", "openid orders:read").await;
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    world.restart().await;
    assert!(
        world.is_active(&tokens.access).await,
        "tokens survive a restart"
    );
    assert_eq!(world.redeem(&query["code"]).await.error(), "invalid_grant");
    assert!(!world.is_active(&tokens.access).await);
}

#[tokio::test]
async fn r07_a_code_lives_60_s() {
    let world = World::start().await;
    let (_, query) = world.code("alice", "openid").await;
    world.advance(Duration::from_secs(60));
    assert_eq!(world.redeem(&query["code"]).await.error(), "invalid_grant");
}

#[tokio::test]
async fn r07_wrong_verifier_client_or_redirect_is_refused_and_does_not_burn_the_code() {
    let world = World::start().await;
    let (_, query) = world.code("alice", "openid").await;
    let code = &query["code"];
    let wrong = "x".repeat(43);
    assert_eq!(
        world
            .redeem_with(code, &[("code_verifier", &wrong)])
            .await
            .error(),
        "invalid_grant"
    );
    assert_eq!(
        world
            .redeem_with(code, &[("code_verifier", "short")])
            .await
            .error(),
        "invalid_grant"
    );
    assert_eq!(
        world
            .redeem_with(code, &[("code_verifier", "")])
            .await
            .error(),
        "invalid_request"
    );
    let elsewhere = [("redirect_uri", "https://app.localhost:8443/auth/other")];
    assert_eq!(
        world.redeem_with(code, &elsewhere).await.error(),
        "invalid_grant"
    );
    let other_client = [("client_id", "demo-native")];
    assert_eq!(
        world.redeem_with(code, &other_client).await.error(),
        "invalid_grant"
    );
    assert_eq!(world.redeem(code).await.status, 200);
}

#[tokio::test]
async fn r07_bad_client_or_redirect_is_a_page_and_never_a_redirect() {
    let world = World::start().await;
    for change in [
        ("client_id", "nobody"),
        ("client_id", ""),
        ("client_id", "demo-cli"),
        ("redirect_uri", "https://evil.example/callback"),
        (
            "redirect_uri",
            "https://app.localhost:8443/auth/callback/../x",
        ),
        ("redirect_uri", ""),
        ("request_uri", "https://evil.example/request"),
        ("request_uri", "urn:ietf:params:oauth:request_uri:unknown"),
    ] {
        let reply = world.browser().get(&authorize_path(&[change])).await;
        assert_eq!(reply.status, 400, "{change:?}");
        assert!(reply.location().is_none(), "{change:?}");
        assert!(reply.text().contains("<h1>"), "{change:?}");
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'"));
    }
}

#[tokio::test]
async fn r07_other_mistakes_go_back_to_the_client_with_iss_and_state() {
    let world = World::start().await;
    for (change, error) in [
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("code_challenge_method", ""), "invalid_request"),
        (("response_type", "token"), "unsupported_response_type"),
        (
            ("response_type", "code id_token"),
            "unsupported_response_type",
        ),
        (("response_mode", "fragment"), "invalid_request"),
        (("scope", "openid admin"), "invalid_scope"),
        (("scope", ""), "invalid_request"),
        (("resource", "payments"), "invalid_target"),
        (("request", "x.y.z"), "request_not_supported"),
        (("registration", "{}"), "registration_not_supported"),
        (("prompt", "none login"), "invalid_request"),
        (("max_age", "-5"), "invalid_request"),
        (("id_token_hint", "garbage"), "invalid_request"),
        (("prompt", "none"), "login_required"),
    ] {
        let reply = world.browser().get(&authorize_path(&[change])).await;
        assert_eq!(reply.status, 303, "{change:?}");
        let location = reply.location().unwrap();
        assert!(location.starts_with(&format!("{CALLBACK}?")), "{location}");
        let query = query_of(&location);
        assert_eq!(query["error"], error, "{change:?}");
        assert_eq!(
            (query["iss"].as_str(), query["state"].as_str()),
            (ISSUER, "af0ifjsldkj")
        );
    }
}

#[tokio::test]
async fn r07_duplicate_parameters_are_refused() {
    let world = World::start().await;
    let path = format!("{}&client_id=demo-native", authorize_path(&[]));
    assert_eq!(world.browser().get(&path).await.status, 400);
}

fn pushed<'a>(challenge: &'a str, changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut parts = vec![
        ("client_id", "spa-proxy"),
        ("response_type", "code"),
        ("redirect_uri", CALLBACK),
        ("scope", "openid orders:read"),
        ("state", "pushed"),
        ("code_challenge", challenge),
        ("code_challenge_method", "S256"),
    ];
    for (name, value) in changes {
        parts.retain(|(known, _)| known != name);
        parts.push((*name, *value));
    }
    parts
}

#[tokio::test]
async fn r07_a_pushed_request_works_once_for_its_client() {
    let world = World::start().await;
    let challenge = challenge();
    let reply = world
        .post("spa-proxy", "/par", &pushed(&challenge, &[]))
        .await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.json()["expires_in"], 60);
    let uri = reply.json()["request_uri"].as_str().unwrap().to_owned();
    let path = |client: &str| {
        format!(
            "/authorize?{}",
            crate::testing::form(&[("client_id", client), ("request_uri", &uri)])
        )
    };
    assert_eq!(world.browser().get(&path("demo-native")).await.status, 400);

    let mut browser = world.browser();
    let reply = browser.get(&path("spa-proxy")).await;
    let done = world.sign_in(&mut browser, reply, "alice").await;
    let query = query_of(&done.location().unwrap());
    assert_eq!(query["state"], "pushed");
    assert_eq!(world.redeem(&query["code"]).await.status, 200);

    assert_eq!(
        world.browser().get(&path("spa-proxy")).await.status,
        400,
        "used once"
    );
}

#[tokio::test]
async fn r07_a_pushed_request_expires() {
    let world = World::start().await;
    let challenge = challenge();
    let reply = world
        .post("spa-proxy", "/par", &pushed(&challenge, &[]))
        .await;
    let uri = reply.json()["request_uri"].as_str().unwrap().to_owned();
    world.advance(Duration::from_secs(60));
    let parts = [("client_id", "spa-proxy"), ("request_uri", uri.as_str())];
    let path = format!("/authorize?{}", crate::testing::form(&parts));
    assert_eq!(world.browser().get(&path).await.status, 400);
}

#[tokio::test]
async fn r07_pushing_needs_authentication_and_a_valid_request() {
    let world = World::start().await;
    let challenge = challenge();
    let reply = world
        .post("gateway", "/par", &pushed(&challenge, &[]))
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.error().as_str()),
        (401, "invalid_client")
    );
    for (change, error) in [
        (("redirect_uri", "https://evil.example/"), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("scope", "admin"), "invalid_scope"),
        (("request_uri", "urn:x"), "invalid_request"),
    ] {
        let reply = world
            .post("spa-proxy", "/par", &pushed(&challenge, &[change]))
            .await;
        assert_eq!(
            (reply.status.as_u16(), reply.error().as_str()),
            (400, error),
            "{change:?}"
        );
    }
}

#[tokio::test]
async fn r07_a_client_that_must_push_cannot_ask_directly() {
    let world = World::start_with(|config| {
        config.clients[0].require_pushed_requests = true;
    })
    .await;
    let reply = world.browser().get(&authorize_path(&[])).await;
    assert_eq!(reply.status, 400);
    assert!(reply.location().is_none());
}

#[tokio::test]
async fn r07_native_client_with_a_loopback_port_of_its_own() {
    let world = World::start().await;
    let redirect = "http://127.0.0.1:49152/callback";
    let mut browser = world.browser();
    let path = authorize_path(&[
        ("client_id", "demo-native"),
        ("redirect_uri", redirect),
        ("scope", "openid orders:read"),
    ]);
    let reply = browser.get(&path).await;
    let page = world.sign_in(&mut browser, reply, "alice").await;
    assert!(
        page.text().contains("Allow access?"),
        "a third party asks: {}",
        page.text()
    );
    let reply = browser
        .submit(&page, "/consent", &[("decision", "allow")])
        .await;
    let done = browser.follow(reply).await;
    let location = done.location().unwrap();
    assert!(
        location.starts_with("http://127.0.0.1:49152/callback?code="),
        "{location}"
    );
    let code = &query_of(&location)["code"];
    let public = [("client_id", "demo-native"), ("redirect_uri", redirect)];
    let other_port = [
        ("client_id", "demo-native"),
        ("redirect_uri", "http://127.0.0.1:1/callback"),
    ];
    assert_eq!(
        world.redeem_with(code, &other_port).await.error(),
        "invalid_grant"
    );
    assert_eq!(world.redeem_with(code, &public).await.status, 200);
}

#[tokio::test]
async fn r54_a_user_without_access_to_the_audience_gets_no_code() {
    let world = World::start().await;
    let (_, query) = world.code("outsider", "openid").await;
    assert_eq!(query["error"], "access_denied");
    assert!(!query.contains_key("code"));
}
