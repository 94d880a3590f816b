//! Introspection, reference tokens, revocation, and how fast changes count.

use std::time::Duration;

use serde_json::json;

use crate::testing::{API, SECRET, World};

const SCOPE: &str = "openid profile orders:read";

async fn partner(world: &World) -> String {
    let body = world.client_token("demo-partner", &[]).await.json();
    body["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn r11_reference_tokens_mean_something_only_here() {
    let world = World::start().await;
    let token = partner(&world).await;
    assert!(token.starts_with("rwr_") && token.len() == 47);
    let seen = world.introspect(&token).await;
    assert_eq!(seen["active"], true);
    assert_eq!(
        (seen["aud"].as_str(), seen["client_id"].as_str()),
        (Some(API), Some("demo-partner"))
    );
    world.advance(Duration::from_secs(300));
    assert_eq!(world.introspect(&token).await, json!({ "active": false }));
}

#[tokio::test]
async fn r11_a_revoked_token_is_inactive_at_the_next_question() {
    let world = World::start().await;
    let token = partner(&world).await;
    let parts = [
        ("client_id", "demo-partner"),
        ("client_secret", SECRET),
        ("token", token.as_str()),
    ];
    assert_eq!(world.post("gateway", "/revoke", &parts).await.status, 200);
    assert_eq!(world.introspect(&token).await, json!({ "active": false }));
}

#[tokio::test]
async fn r11_a_revoked_jwt_is_inactive_although_its_signature_holds() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let parts = [
        ("client_id", "spa-proxy"),
        ("token", tokens.access.as_str()),
    ];
    assert_eq!(world.post("spa-proxy", "/revoke", &parts).await.status, 200);
    assert!(!world.is_active(&tokens.access).await);
    assert_eq!(
        world.refresh(&tokens.refresh).await.status,
        200,
        "the family lives on"
    );
}

#[tokio::test]
async fn r11_revoking_a_refresh_token_ends_its_family() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let parts = [
        ("client_id", "spa-proxy"),
        ("token", tokens.refresh.as_str()),
    ];
    assert_eq!(world.post("spa-proxy", "/revoke", &parts).await.status, 200);
    assert!(!world.is_active(&tokens.access).await);
    assert_eq!(
        world.refresh(&tokens.refresh).await.error(),
        "invalid_grant"
    );
}

#[tokio::test]
async fn r11_only_the_owner_revokes_and_nobody_learns_more() {
    let world = World::start().await;
    let token = partner(&world).await;
    let tokens = world.tokens("alice", SCOPE).await;
    for foreign in [token.as_str(), &tokens.access, &tokens.refresh, "unknown"] {
        let parts = [
            ("client_id", "demo-cli"),
            ("client_secret", SECRET),
            ("token", foreign),
        ];
        let reply = world.post("gateway", "/revoke", &parts).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
    }
    assert!(world.is_active(&token).await);
    assert!(world.is_active(&tokens.access).await);
    let parts = [
        ("client_id", "demo-cli"),
        ("client_secret", "wrong"),
        ("token", token.as_str()),
    ];
    assert_eq!(world.post("gateway", "/revoke", &parts).await.status, 401);
}

#[tokio::test]
async fn r11_introspection_is_for_registered_clients_and_their_audiences() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let token = ("token", tokens.access.as_str());
    let parts = [("client_id", "demo-cli"), ("client_secret", SECRET), token];
    let reply = world.post("gateway", "/introspect", &parts).await;
    assert_eq!(reply.error(), "unauthorized_client");
    assert_eq!(
        world.post("gateway", "/introspect", &[token]).await.error(),
        "invalid_request"
    );
    // payments may ask about tokens for payments; this one is for the API.
    let reply = world
        .post(
            "payments",
            "/introspect",
            &[("client_id", "payments"), token],
        )
        .await;
    assert_eq!(reply.json(), json!({ "active": false }));
    let reply = world
        .post(
            "spa-proxy",
            "/introspect",
            &[("client_id", "spa-proxy"), token],
        )
        .await;
    assert_eq!(reply.json()["active"], true);
}

#[tokio::test]
async fn r12_forged_and_confused_tokens_are_inactive() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let reference = partner(&world).await;
    let jti = world.introspect(&reference).await["jti"]
        .as_str()
        .unwrap()
        .to_owned();
    let keys = &world.server.keys;
    let claims = |iss: &str, jti: &str| {
        json!({ "iss": iss, "sub": "x", "aud": API, "exp": world.now() + 60, "iat": world.now(),
                "jti": jti, "client_id": "x" })
    };
    let own = crate::testing::ISSUER;
    let forged = [
        tokens.id.clone(),
        tokens.refresh.clone(),
        format!("{}x", tokens.access),
        "eyJhbGciOiJub25lIn0.e30.".to_owned(),
        "rwr_unknown".to_owned(),
        // Signed here, but never issued; issued elsewhere; the name of a reference token.
        keys.sign("at+jwt", &claims(own, "never-issued")).unwrap(),
        keys.sign("at+jwt", &claims("https://other.example", "x"))
            .unwrap(),
        keys.sign("at+jwt", &claims(own, &jti)).unwrap(),
        world.client_key.sign("at+jwt", &claims(own, "x")).unwrap(),
    ];
    for token in &forged {
        assert_eq!(
            world.introspect(token).await,
            json!({ "active": false }),
            "{token}"
        );
    }
}

#[tokio::test]
async fn r54_a_disabled_user_is_inactive_at_the_next_question() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    assert!(world.is_active(&tokens.access).await);
    world.server.store.set_disabled("alice", true).await;
    assert!(!world.is_active(&tokens.access).await);
    world.server.store.set_disabled("alice", false).await;
    assert!(world.is_active(&tokens.access).await);
}

#[tokio::test]
async fn r54_leaving_a_group_counts_at_the_next_question() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    assert_eq!(
        world.introspect(&tokens.access).await["roles"],
        json!(["customer"])
    );
    world.server.store.leave_groups("alice").await;
    assert!(!world.is_active(&tokens.access).await);
    assert_eq!(
        world.refresh(&tokens.refresh).await.error(),
        "invalid_grant"
    );
}

#[tokio::test]
async fn r54_a_user_without_roles_can_sign_in() {
    let world = World::start().await;
    let tokens = world.tokens("mallory", SCOPE).await;
    let seen = world.introspect(&tokens.access).await;
    assert_eq!(
        (seen["active"].clone(), seen.get("roles")),
        (json!(true), None)
    );
}

#[tokio::test]
async fn r12_tokens_signed_before_a_rotation_stay_valid() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    world.server.keys.rotate(world.server.now()).unwrap();
    assert!(world.is_active(&tokens.access).await);
    let fresh = world.tokens("alice", SCOPE).await;
    assert!(world.is_active(&fresh.access).await);
    let published = world.get("/jwks", &[]).await.json();
    assert_eq!(published["keys"].as_array().unwrap().len(), 2);
    assert!(!world.get("/jwks", &[]).await.text().contains("\"d\""));
}

#[tokio::test]
async fn expired_rows_are_purged_and_live_ones_are_not() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    world.server.store.purge(world.server.now()).await.unwrap();
    assert!(world.is_active(&tokens.access).await);
    world.advance(Duration::from_secs(3600));
    assert!(world.server.store.purge(world.server.now()).await.unwrap() >= 1);
    assert_eq!(world.refresh(&tokens.refresh).await.status, 200);
}
