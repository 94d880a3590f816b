//! OpenID Connect Core and Discovery: assertions of the certification plan, rewritten as tests.

use std::time::Duration;

use ringwall_token::Expectation;
use ringwall_token::claims::IdToken;
use serde_json::json;

use crate::random::left_half_hash;
use crate::testing::{ISSUER, Tokens, World, authorize_path, query_of};

const SCOPE: &str = "openid profile email orders:read";

fn id_token(world: &World, text: &str) -> IdToken {
    let expected = Expectation {
        issuer: ISSUER.to_owned(),
        audience: "spa-proxy".to_owned(),
        typ: IdToken::TYP,
        leeway: Duration::ZERO,
    };
    let keys = world.server.keys.verifying();
    ringwall_token::verify(text, &keys, &expected, world.server.now().to_system()).unwrap()
}

#[tokio::test]
async fn r44_the_id_token_has_its_claims() {
    let world = World::start().await;
    let signed_in_at = world.now();
    let (_, query) = world.code("alice", SCOPE).await;
    world.advance(Duration::from_secs(20));
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    let claims = id_token(&world, &tokens.id);
    assert_eq!(claims.nonce.as_deref(), Some("n-0S6_WzA2Mj"));
    assert_eq!(claims.auth_time, Some(signed_in_at));
    assert_eq!(claims.acr.as_deref(), Some("urn:ringwall:acr:password"));
    assert_eq!(claims.at_hash, Some(left_half_hash(&tokens.access)));
    assert_eq!(claims.preferred_username.as_deref(), Some("alice"));
    assert_eq!(claims.email.as_deref(), Some("alice@example.org"));
    assert_eq!(claims.roles, ["customer"]);
    let seen = world.introspect(&tokens.access).await;
    assert_eq!(seen["sub"], json!(claims.sub));
    assert_eq!(seen["sid"], json!(claims.sid));
}

#[tokio::test]
async fn r44_claims_follow_the_scope() {
    let world = World::start().await;
    let bare = world.tokens("alice", "openid").await;
    let claims = id_token(&world, &bare.id);
    assert!(claims.name.is_none() && claims.email.is_none() && claims.roles.is_empty());
    let plain = world.tokens("alice", "orders:read").await;
    assert!(plain.id.is_empty(), "without openid there is no ID token");
}

#[tokio::test]
async fn r44_an_id_token_is_no_access_token() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let bearer = format!("Bearer {}", tokens.id);
    let reply = world.get("/userinfo", &[("authorization", &bearer)]).await;
    assert_eq!(
        (reply.status.as_u16(), reply.error().as_str()),
        (401, "invalid_token")
    );
}

#[tokio::test]
async fn r44_userinfo_answers_by_scope_and_refuses_properly() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let bearer = format!("Bearer {}", tokens.access);
    let info = world
        .get("/userinfo", &[("authorization", &bearer)])
        .await
        .json();
    assert_eq!(info["sub"], json!(id_token(&world, &tokens.id).sub));
    assert_eq!(info["preferred_username"], "alice");
    assert_eq!(info["email"], "alice@example.org");
    let posted = [("authorization", bearer.as_str())];
    assert_eq!(
        world
            .post_with("gateway", "/userinfo", &posted, &[])
            .await
            .json(),
        info
    );

    let missing = world.get("/userinfo", &[]).await;
    assert_eq!(missing.status, 401);
    assert_eq!(
        missing.headers["www-authenticate"],
        "Bearer realm=\"ringwall\""
    );
    let wrong = world
        .get("/userinfo", &[("authorization", "Bearer x")])
        .await;
    assert!(
        wrong.headers["www-authenticate"]
            .to_str()
            .unwrap()
            .contains("invalid_token")
    );
    let without = world.tokens("alice", "orders:read").await;
    let bearer = format!("Bearer {}", without.access);
    let reply = world.get("/userinfo", &[("authorization", &bearer)]).await;
    assert_eq!(
        (reply.status.as_u16(), reply.error().as_str()),
        (403, "insufficient_scope")
    );
    world.advance(Duration::from_secs(300));
    let bearer = format!("Bearer {}", tokens.access);
    assert_eq!(
        world
            .get("/userinfo", &[("authorization", &bearer)])
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn r44_prompt_none_and_login() {
    let world = World::start().await;
    let mut browser = world.browser();
    let silent = [("prompt", "none")];
    assert_eq!(
        world.code_in(&mut browser, "alice", &silent).await["error"],
        "login_required"
    );
    world.code_in(&mut browser, "alice", &[]).await;
    assert!(
        world
            .code_in(&mut browser, "alice", &silent)
            .await
            .contains_key("code")
    );

    world.advance(Duration::from_secs(10));
    let reply = browser.get(&authorize_path(&[("prompt", "login")])).await;
    let page = browser.follow(reply).await;
    assert!(
        page.text().contains("name=\"password\""),
        "a session is not enough"
    );
    let resume = format!(
        "/authorize?interaction={}",
        page.field("/login", "interaction")
    );
    let reply = browser.get(&resume).await;
    assert!(
        reply.location().unwrap().starts_with("/login"),
        "and cannot be skipped"
    );
}

#[tokio::test]
async fn r44_max_age_asks_again_and_auth_time_tells() {
    let world = World::start().await;
    let mut browser = world.browser();
    world.code_in(&mut browser, "alice", &[]).await;
    world.advance(Duration::from_secs(100));
    let fresh_enough = [("max_age", "100"), ("prompt", "none")];
    assert!(
        world
            .code_in(&mut browser, "alice", &fresh_enough)
            .await
            .contains_key("code")
    );
    world.advance(Duration::from_secs(1));
    let too_old = world.code_in(&mut browser, "alice", &fresh_enough).await;
    assert_eq!(too_old["error"], "login_required");
    let query = world
        .code_in(&mut browser, "alice", &[("max_age", "0")])
        .await;
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    assert_eq!(id_token(&world, &tokens.id).auth_time, Some(world.now()));
}

#[tokio::test]
async fn r44_login_hint_fills_the_form_and_is_escaped() {
    let world = World::start().await;
    let mut browser = world.browser();
    let reply = browser
        .get(&authorize_path(&[("login_hint", "al\"><script>")]))
        .await;
    let page = browser.follow(reply).await;
    assert!(!page.text().contains("<script>"));
    assert!(
        page.text().contains("al&#34;&#62;&#60;script&#62;"),
        "{}",
        page.text()
    );
}

#[tokio::test]
async fn r44_an_id_token_hint_of_somebody_else_is_not_answered_silently() {
    let world = World::start().await;
    let other = world.tokens("mallory", SCOPE).await;
    let (mut browser, query) = world.code("alice", SCOPE).await;
    let own = Tokens::of(&world.redeem(&query["code"]).await);
    let ask = |hint: &str| authorize_path(&[("prompt", "none"), ("id_token_hint", hint)]);
    let reply = browser.get(&ask(&other.id)).await;
    assert_eq!(
        query_of(&reply.location().unwrap())["error"],
        "login_required"
    );
    let aloud = world
        .code_in(&mut browser, "alice", &[("id_token_hint", &other.id)])
        .await;
    assert_eq!(
        aloud["error"], "access_denied",
        "nor after a sign-in of the wrong user"
    );
    let reply = browser.get(&ask(&own.id)).await;
    assert!(query_of(&reply.location().unwrap()).contains_key("code"));
}

#[tokio::test]
async fn r44_authorization_requests_may_be_posted() {
    let world = World::start().await;
    let mut browser = world.browser();
    browser.origin = Some("https://app.localhost:8443".to_owned());
    let path = authorize_path(&[]);
    let parts: Vec<(String, String)> = query_of(&path).into_iter().collect();
    let parts: Vec<(&str, &str)> = parts
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    let reply = browser.post("/authorize", &parts).await;
    assert!(
        browser
            .follow(reply)
            .await
            .text()
            .contains("name=\"password\"")
    );
}

#[tokio::test]
async fn r44_discovery_tells_what_is_served_and_no_more() {
    let world = World::start().await;
    let document = world
        .get("/.well-known/openid-configuration", &[])
        .await
        .json();
    let oauth = world
        .get("/.well-known/oauth-authorization-server", &[])
        .await
        .json();
    assert_eq!(document, oauth);
    assert_eq!(document["issuer"], ISSUER);
    assert_eq!(document["response_types_supported"], json!(["code"]));
    assert_eq!(
        document["code_challenge_methods_supported"],
        json!(["S256"])
    );
    assert_eq!(
        document["authorization_response_iss_parameter_supported"],
        true
    );
    let grants: Vec<&str> = document["grant_types_supported"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g.as_str().unwrap())
        .collect();
    for grant in &grants {
        assert!(world.server.grants.find(grant).is_some());
    }
    assert!(!grants.contains(&"password") && !grants.contains(&"implicit"));
    for name in document
        .as_object()
        .unwrap()
        .iter()
        .filter(|(k, _)| k.ends_with("_endpoint"))
    {
        let path = name.1.as_str().unwrap().strip_prefix(ISSUER).unwrap();
        let reply = world.get(path, &[]).await;
        assert_ne!(reply.status, 404, "{path}");
    }
}

#[tokio::test]
async fn r12_the_key_set_has_only_public_signing_keys() {
    let world = World::start().await;
    let keys = world.get("/jwks", &[]).await.json();
    for key in keys["keys"].as_array().unwrap() {
        assert_eq!(
            (key["alg"].as_str(), key["use"].as_str()),
            (Some("ES256"), Some("sig"))
        );
        assert!(key.get("d").is_none() && key.get("kid").is_some());
    }
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused() {
    let world = World::start().await;
    let big = "x".repeat(70 * 1024);
    let reply = world
        .post("gateway", "/token", &[("grant_type", &big)])
        .await;
    assert_eq!(reply.status, 413);
}
