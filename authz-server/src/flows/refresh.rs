//! Refresh tokens: rotation, reuse, lost responses, absolute end.

use std::time::Duration;

use crate::audit::Kind;
use crate::testing::{Tokens, World};

const SCOPE: &str = "openid orders:read orders:write";

#[tokio::test]
async fn r09_each_refresh_rotates() {
    let world = World::start().await;
    let first = world.tokens("alice", SCOPE).await;
    let second = Tokens::of(&world.refresh(&first.refresh).await);
    assert_ne!(first.refresh, second.refresh);
    let third = Tokens::of(&world.refresh(&second.refresh).await);
    assert!(world.is_active(&third.access).await);
}

#[tokio::test]
async fn r09_refresh_replay_revokes_the_family() {
    let world = World::start().await;
    let first = world.tokens("alice", SCOPE).await;
    let second = Tokens::of(&world.refresh(&first.refresh).await);
    world.advance(Duration::from_secs(11));
    let replay = world.refresh(&first.refresh).await;
    assert_eq!(
        (replay.status.as_u16(), replay.error().as_str()),
        (400, "invalid_grant")
    );
    assert_eq!(
        world.refresh(&second.refresh).await.error(),
        "invalid_grant"
    );
    assert!(!world.is_active(&second.access).await);
    assert!(!world.is_active(&first.access).await);
    assert_eq!(
        world.server.store.audit_events(Kind::RefreshReplayed).await,
        1
    );
}

#[tokio::test]
async fn r09_lost_refresh_response_gets_the_same_successor_within_10_s() {
    let world = World::start().await;
    let first = world.tokens("alice", SCOPE).await;
    let lost = Tokens::of(&world.refresh(&first.refresh).await);
    world.advance(Duration::from_secs(10));
    let again = Tokens::of(&world.refresh(&first.refresh).await);
    assert_eq!(lost.refresh, again.refresh);
    assert_eq!(world.refresh(&again.refresh).await.status, 200);
}

#[tokio::test]
async fn r09_once_the_successor_is_used_the_old_token_is_a_replay_at_once() {
    let world = World::start().await;
    let first = world.tokens("alice", SCOPE).await;
    let second = Tokens::of(&world.refresh(&first.refresh).await);
    let third = Tokens::of(&world.refresh(&second.refresh).await);
    assert_eq!(world.refresh(&first.refresh).await.error(), "invalid_grant");
    assert_eq!(world.refresh(&third.refresh).await.error(), "invalid_grant");
    assert!(!world.is_active(&third.access).await);
}

#[tokio::test]
async fn r09_rotation_survives_a_restart() {
    let mut world = World::start().await;
    let first = world.tokens("alice", SCOPE).await;
    let lost = Tokens::of(&world.refresh(&first.refresh).await);
    world.restart().await;
    let again = Tokens::of(&world.refresh(&first.refresh).await);
    assert_eq!(
        lost.refresh, again.refresh,
        "the successor is derived, not remembered"
    );
    world.advance(Duration::from_secs(11));
    assert_eq!(world.refresh(&first.refresh).await.error(), "invalid_grant");
    assert_eq!(world.refresh(&again.refresh).await.error(), "invalid_grant");
}

#[tokio::test]
async fn r09_the_end_of_a_family_is_absolute() {
    let world = World::start().await;
    let mut tokens = world.tokens("alice", SCOPE).await;
    for _ in 0..11 {
        world.advance(Duration::from_secs(3600));
        tokens = Tokens::of(&world.refresh(&tokens.refresh).await);
    }
    world.advance(Duration::from_secs(3600 - 100));
    let last = world.refresh(&tokens.refresh).await;
    assert_eq!(
        last.json()["expires_in"],
        100,
        "no access token outlives the family"
    );
    let last = Tokens::of(&last);
    world.advance(Duration::from_secs(100));
    assert_eq!(world.refresh(&last.refresh).await.error(), "invalid_grant");
}

#[tokio::test]
async fn r09_another_client_cannot_use_a_refresh_token_and_its_try_ends_the_family() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let parts = [
        ("grant_type", "refresh_token"),
        ("client_id", "demo-native"),
        ("refresh_token", tokens.refresh.as_str()),
    ];
    assert_eq!(
        world.post("gateway", "/token", &parts).await.error(),
        "invalid_grant"
    );
    assert_eq!(
        world.refresh(&tokens.refresh).await.error(),
        "invalid_grant"
    );
}

#[tokio::test]
async fn r09_the_scope_can_shrink_and_never_grow() {
    let world = World::start().await;
    let tokens = world.tokens("alice", "openid orders:read").await;
    let with_scope = |token: String, scope: &'static str| {
        let world = &world;
        async move {
            let parts = [
                ("grant_type", "refresh_token"),
                ("client_id", "spa-proxy"),
                ("refresh_token", token.as_str()),
                ("scope", scope),
            ];
            world.post("spa-proxy", "/token", &parts).await
        }
    };
    let wider = with_scope(tokens.refresh.clone(), "orders:write").await;
    assert_eq!(wider.error(), "invalid_scope");
    let narrow = with_scope(tokens.refresh.clone(), "orders:read").await;
    assert_eq!(narrow.json()["scope"], "orders:read");
    assert!(narrow.json().get("id_token").is_none());
    let whole = world
        .refresh(narrow.json()["refresh_token"].as_str().unwrap())
        .await;
    assert_eq!(whole.json()["scope"], "openid orders:read");
}

#[tokio::test]
async fn r09_unknown_tokens_and_other_kinds_are_refused() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    for wrong in ["rwt_unknown", &tokens.access, &tokens.id] {
        assert_eq!(world.refresh(wrong).await.error(), "invalid_grant");
    }
    assert!(world.is_active(&tokens.access).await);
}

#[tokio::test]
async fn r54_a_disabled_user_cannot_refresh() {
    let world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    world.server.store.set_disabled("alice", true).await;
    assert_eq!(
        world.refresh(&tokens.refresh).await.error(),
        "invalid_grant"
    );
}
