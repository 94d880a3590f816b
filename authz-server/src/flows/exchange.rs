//! Token exchange: who may, for what, and how far it shrinks.

use std::time::Duration;

use crate::testing::{Tokens, World};

const SCOPE: &str = "openid profile orders:read orders:write";

#[tokio::test]
async fn r10_exchange_gives_a_short_token_for_one_audience_with_the_actor() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let reply = world.exchange(&tokens.access, &[]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!(
        body["issued_token_type"],
        "urn:ietf:params:oauth:token-type:access_token"
    );
    assert_eq!(body["expires_in"], 60);
    assert_eq!(body["scope"], "orders:read orders:write");
    let seen = world
        .introspect(body["access_token"].as_str().unwrap())
        .await;
    let user = world.introspect(&tokens.access).await;
    assert_eq!(seen["aud"], "payments");
    assert_eq!(seen["act"]["sub"], "orders");
    assert_eq!(seen["client_id"], "orders");
    assert_eq!((&seen["sub"], &seen["sid"]), (&user["sub"], &user["sid"]));
}

#[tokio::test]
async fn r10_an_exchanged_token_never_outlives_its_subject() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    world.advance(Duration::from_secs(280));
    assert_eq!(
        world.exchange(&tokens.access, &[]).await.json()["expires_in"],
        20
    );
    world.advance(Duration::from_secs(20));
    assert_eq!(
        world.exchange(&tokens.access, &[]).await.error(),
        "invalid_request"
    );
}

#[tokio::test]
async fn r10_exchange_for_undeclared_audiences_is_refused() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    for change in [
        [("audience", "inventory"), ("x", "")],
        [("audience", ""), ("x", "")],
        [("audience", "payments"), ("resource", "payments")],
    ] {
        let reply = world.exchange(&tokens.access, &change).await;
        assert_eq!(reply.error(), "invalid_target", "{change:?}");
    }
}

#[tokio::test]
async fn r10_exchange_needs_the_grant_and_a_subject_token_for_the_client() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let parts = |client: &'static str| {
        vec![
            (
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            ("client_id", client),
            ("subject_token", tokens.access.as_str()),
            (
                "subject_token_type",
                "urn:ietf:params:oauth:token-type:access_token",
            ),
            ("audience", "payments"),
        ]
    };
    let reply = world.post("payments", "/token", &parts("payments")).await;
    assert_eq!(reply.error(), "unauthorized_client");
    // A token for payments is not meant for orders: it cannot be exchanged again.
    let exchanged = world.exchange(&tokens.access, &[]).await.json();
    let exchanged = exchanged["access_token"].as_str().unwrap();
    assert_eq!(
        world.exchange(exchanged, &[]).await.error(),
        "invalid_request"
    );
}

#[tokio::test]
async fn r10_other_tokens_cannot_be_exchanged() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    for wrong in [tokens.id.as_str(), tokens.refresh.as_str(), "garbage"] {
        assert_eq!(world.exchange(wrong, &[]).await.error(), "invalid_request");
    }
    for change in [
        (
            "subject_token_type",
            "urn:ietf:params:oauth:token-type:id_token",
        ),
        (
            "requested_token_type",
            "urn:ietf:params:oauth:token-type:refresh_token",
        ),
        ("actor_token", "x"),
    ] {
        assert_eq!(
            world.exchange(&tokens.access, &[change]).await.error(),
            "invalid_request"
        );
    }
}

#[tokio::test]
async fn r10_the_scope_of_an_exchange_only_shrinks() {
    let world = World::start().await;
    let tokens = world.tokens("alice", "openid orders:read").await;
    let wider = world
        .exchange(&tokens.access, &[("scope", "orders:write")])
        .await;
    assert_eq!(wider.error(), "invalid_scope");
    let identity = world.exchange(&tokens.access, &[("scope", "openid")]).await;
    assert_eq!(identity.error(), "invalid_scope");
    let same = world
        .exchange(&tokens.access, &[("scope", "orders:read")])
        .await;
    assert_eq!(same.json()["scope"], "orders:read");
}

#[tokio::test]
async fn r54_a_user_without_access_to_the_target_cannot_be_carried_there() {
    let world = World::start().await;
    let tokens = world.tokens("mallory", "openid orders:read").await;
    assert_eq!(
        world.exchange(&tokens.access, &[]).await.error(),
        "invalid_target"
    );
}

#[tokio::test]
async fn r10_revoking_the_family_ends_exchanged_tokens() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let exchanged = world.exchange(&tokens.access, &[]).await.json();
    let exchanged = exchanged["access_token"].as_str().unwrap();
    assert!(world.is_active(exchanged).await);
    let parts = [
        ("client_id", "spa-proxy"),
        ("token", tokens.refresh.as_str()),
    ];
    assert_eq!(world.post("spa-proxy", "/revoke", &parts).await.status, 200);
    assert!(!world.is_active(exchanged).await);
    assert_eq!(
        world.exchange(&tokens.access, &[]).await.error(),
        "invalid_request"
    );
}

#[tokio::test]
async fn r10_exchange_works_for_clients_that_act_for_themselves() {
    let world = World::start().await;
    let token = world.client_token("demo-cli", &[]).await.json();
    let reply = world
        .exchange(token["access_token"].as_str().unwrap(), &[])
        .await;
    let seen = world.introspect(&Tokens::of(&reply).access).await;
    assert_eq!(
        (seen["sub"].as_str(), seen["act"]["sub"].as_str()),
        (Some("demo-cli"), Some("orders"))
    );
}
