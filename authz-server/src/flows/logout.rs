//! Sign-out by clients and by people, and the logout tokens that follow.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringwall_token::Expectation;
use ringwall_token::claims::LogoutToken;

use crate::logout::backchannel::{Send, deliver_due};
use crate::testing::{ISSUER, Tokens, World, authorize_path, form, query_of};

const APP: &str = "https://app.localhost:8443/";
const SCOPE: &str = "openid profile orders:read";

fn logout_path(parts: &[(&str, &str)]) -> String {
    format!("/logout?{}", form(parts))
}

/// A back channel that fails as long as `failures` lasts and keeps what it delivered.
fn channel(failures: usize) -> (Send, Arc<Mutex<Vec<String>>>) {
    let delivered = Arc::new(Mutex::new(Vec::new()));
    let left = Arc::new(Mutex::new(failures));
    let seen = Arc::clone(&delivered);
    let send: Send = Arc::new(move |place, token| {
        assert_eq!(place.path, "/auth/backchannel-logout");
        let mut left = left.lock().unwrap();
        let fails = *left > 0;
        *left = left.saturating_sub(1);
        if !fails {
            seen.lock().unwrap().push(token);
        }
        Box::pin(async move {
            if fails {
                Err("down".to_owned())
            } else {
                Ok(())
            }
        })
    });
    (send, delivered)
}

#[tokio::test]
async fn r44_a_hint_ends_the_session_and_everything_issued_in_it() {
    let world = World::start().await;
    let (mut browser, query) = world.code("alice", SCOPE).await;
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    let reply = browser
        .get(&logout_path(&[
            ("id_token_hint", &tokens.id),
            ("post_logout_redirect_uri", APP),
            ("state", "s 1"),
        ]))
        .await;
    assert_eq!(reply.status, 303);
    assert_eq!(reply.location().unwrap(), format!("{APP}?state=s+1"));
    assert!(!browser.cookies.contains_key(crate::cookies::SESSION_COOKIE));
    assert!(!world.is_active(&tokens.access).await);
    assert_eq!(
        world.refresh(&tokens.refresh).await.error(),
        "invalid_grant"
    );
    let silent = browser.get(&authorize_path(&[("prompt", "none")])).await;
    assert_eq!(
        query_of(&silent.location().unwrap())["error"],
        "login_required"
    );
}

#[tokio::test]
async fn r44_a_client_ends_the_session_over_the_mesh_without_a_cookie() {
    let world = World::start().await;
    let (mut browser, query) = world.code("alice", SCOPE).await;
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    let parts = [
        ("id_token_hint", tokens.id.as_str()),
        ("client_id", "spa-proxy"),
    ];
    let reply = world.post("spa-proxy", "/logout", &parts).await;
    assert!(reply.status.is_success(), "{}", reply.text());
    assert!(!world.is_active(&tokens.access).await);
    // The browser that comes next finds nothing to confirm and goes straight home.
    let path = logout_path(&[
        ("client_id", "spa-proxy"),
        ("post_logout_redirect_uri", APP),
    ]);
    assert_eq!(browser.get(&path).await.location().as_deref(), Some(APP));
}

#[tokio::test]
async fn r44_an_expired_hint_still_names_the_session() {
    let world = World::start().await;
    let (mut browser, query) = world.code("alice", SCOPE).await;
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    world.advance(Duration::from_secs(3600));
    let reply = browser
        .get(&logout_path(&[("id_token_hint", &tokens.id)]))
        .await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("You are signed out"));
    assert_eq!(
        world.refresh(&tokens.refresh).await.error(),
        "invalid_grant"
    );
}

#[tokio::test]
async fn r44_without_a_valid_hint_the_person_is_asked() {
    let world = World::start().await;
    let (mut browser, query) = world.code("alice", SCOPE).await;
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    for hint in ["", "garbage", tokens.access.as_str()] {
        let path = logout_path(&[
            ("id_token_hint", hint),
            ("client_id", "spa-proxy"),
            ("post_logout_redirect_uri", APP),
        ]);
        let page = browser.get(&path).await;
        assert!(page.text().contains("Sign out?"), "{hint}");
        assert!(world.is_active(&tokens.access).await);
    }
    let carried = [
        ("client_id", "spa-proxy"),
        ("post_logout_redirect_uri", APP),
    ];
    let page = browser.get(&logout_path(&carried)).await;
    let stay = [carried[0], carried[1], ("decision", "stay")];
    let stay = browser.submit(&page, "/logout", &stay).await;
    assert!(stay.text().contains("still signed in"));
    assert!(world.is_active(&tokens.access).await);
    let leave = [carried[0], carried[1], ("decision", "leave")];
    let reply = browser.submit(&page, "/logout", &leave).await;
    assert_eq!(reply.location().as_deref(), Some(APP));
    assert!(!world.is_active(&tokens.access).await);
}

#[tokio::test]
async fn r44_the_confirmation_cannot_be_forged() {
    let world = World::start().await;
    let (mut browser, query) = world.code("alice", SCOPE).await;
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    let page = browser.get("/logout").await;
    let wrong = browser
        .post("/logout", &[("decision", "leave"), ("csrf", "wrong")])
        .await;
    assert_eq!(wrong.status, 403);
    browser.origin = Some("https://evil.example".to_owned());
    let foreign = browser
        .submit(&page, "/logout", &[("decision", "leave")])
        .await;
    assert_eq!(foreign.status, 403);
    assert!(world.is_active(&tokens.access).await);
}

#[tokio::test]
async fn r44_the_return_address_matches_exactly_or_nothing_happens() {
    let world = World::start().await;
    let (mut browser, query) = world.code("alice", SCOPE).await;
    let tokens = Tokens::of(&world.redeem(&query["code"]).await);
    for uri in [
        "https://evil.example/",
        "https://app.localhost:8443",
        "https://app.localhost:8443/x",
    ] {
        let path = logout_path(&[
            ("id_token_hint", &tokens.id),
            ("post_logout_redirect_uri", uri),
        ]);
        let reply = browser.get(&path).await;
        assert_eq!(
            (reply.status.as_u16(), reply.location()),
            (400, None),
            "{uri}"
        );
    }
    // Without a client, no address is anybody's; and client and hint must agree.
    let nobody = browser
        .get(&logout_path(&[("post_logout_redirect_uri", APP)]))
        .await;
    assert_eq!(nobody.status, 400);
    let other = [
        ("id_token_hint", tokens.id.as_str()),
        ("client_id", "demo-second"),
    ];
    assert_eq!(browser.get(&logout_path(&other)).await.status, 400);
    assert!(world.is_active(&tokens.access).await);
}

#[tokio::test]
async fn r44_somebody_elses_hint_does_not_sign_me_out() {
    let world = World::start().await;
    let theirs = world.tokens("mallory", SCOPE).await;
    let (mut browser, query) = world.code("alice", SCOPE).await;
    let mine = Tokens::of(&world.redeem(&query["code"]).await);
    let page = browser
        .get(&logout_path(&[("id_token_hint", &theirs.id)]))
        .await;
    assert!(page.text().contains("Sign out?"));
    assert!(world.is_active(&mine.access).await);
}

#[tokio::test]
async fn r44_logout_tokens_are_delivered_until_they_arrive() {
    let mut world = World::start().await;
    let tokens = world.tokens("alice", SCOPE).await;
    let parts = [("id_token_hint", tokens.id.as_str())];
    world.post("spa-proxy", "/logout", &parts).await;
    world.restart().await;
    let (send, delivered) = channel(2);
    assert_eq!(deliver_due(&world.server, &send).await.unwrap(), 0);
    assert_eq!(
        deliver_due(&world.server, &send).await.unwrap(),
        0,
        "put off"
    );
    world.advance(Duration::from_secs(1));
    assert_eq!(deliver_due(&world.server, &send).await.unwrap(), 0);
    world.advance(Duration::from_secs(2));
    assert_eq!(deliver_due(&world.server, &send).await.unwrap(), 1);
    world.advance(Duration::from_secs(60));
    assert_eq!(
        deliver_due(&world.server, &send).await.unwrap(),
        0,
        "once is enough"
    );

    let token = delivered.lock().unwrap().pop().unwrap();
    let expected = Expectation {
        issuer: ISSUER.to_owned(),
        audience: "spa-proxy".to_owned(),
        typ: LogoutToken::TYP,
        leeway: Duration::from_secs(120),
    };
    let keys = world.server.keys.verifying();
    let now = world.server.now().to_system();
    let claims: LogoutToken = ringwall_token::verify(&token, &keys, &expected, now).unwrap();
    claims.check().unwrap();
    let seen = crate::tokens::verify_hint(&world.server, &tokens.id).unwrap();
    assert_eq!(
        (claims.sid, claims.sub.as_deref()),
        (seen.sid, Some(seen.sub.as_str()))
    );
}

#[tokio::test]
async fn r87_one_sign_in_serves_two_clients_and_one_sign_out_ends_both() {
    let world = World::start().await;
    let (mut browser, query) = world.code("alice", SCOPE).await;
    let first = Tokens::of(&world.redeem(&query["code"]).await);
    let second = [
        ("client_id", "demo-second"),
        ("redirect_uri", "https://second.example/callback"),
        ("scope", "openid profile"),
    ];
    let reply = browser.get(&authorize_path(&second)).await;
    let page = browser.follow(reply).await;
    assert!(
        page.text().contains("Allow access?"),
        "no password is asked again"
    );
    let reply = browser
        .submit(&page, "/consent", &[("decision", "allow")])
        .await;
    let done = browser.follow(reply).await;
    let code = query_of(&done.location().unwrap())["code"].clone();
    let parts = [
        ("client_id", "demo-second"),
        ("redirect_uri", "https://second.example/callback"),
        ("client_secret", crate::testing::SECRET),
    ];
    let second = Tokens::of(&world.redeem_with(&code, &parts).await);
    let sid = |id: &str| crate::tokens::verify_hint(&world.server, id).unwrap().sid;
    assert_eq!(sid(&first.id), sid(&second.id));

    browser
        .get(&logout_path(&[("id_token_hint", &second.id)]))
        .await;
    assert!(!world.is_active(&first.access).await);
    assert!(!world.is_active(&second.access).await);
    assert_eq!(world.refresh(&first.refresh).await.error(), "invalid_grant");
    let (send, delivered) = channel(0);
    assert_eq!(
        deliver_due(&world.server, &send).await.unwrap(),
        1,
        "spa-proxy has a back channel"
    );
    assert_eq!(delivered.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn r87_another_user_in_the_same_browser_ends_the_former_session() {
    let world = World::start().await;
    let (mut browser, query) = world.code("alice", SCOPE).await;
    let alice = Tokens::of(&world.redeem(&query["code"]).await);
    world
        .code_in(&mut browser, "mallory", &[("prompt", "login")])
        .await;
    assert!(!world.is_active(&alice.access).await);
}
