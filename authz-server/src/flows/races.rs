//! What may happen once happens once, however many ask at the same time.

use std::sync::Arc;

use ringwall_token::claims::ClientAssertion;

use crate::testing::{CALLBACK, ISSUER, Reply, Tokens, World, challenge, form};

const RIVALS: usize = 16;

/// Runs the same request many times at once and returns all answers.
async fn race<F, Fut>(request: F) -> Vec<Reply>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Reply> + Send + 'static,
{
    let rivals: Vec<_> = (0..RIVALS).map(|_| tokio::spawn(request())).collect();
    let mut replies = Vec::new();
    for rival in rivals {
        replies.push(rival.await.unwrap());
    }
    replies
}

fn successes(replies: &[Reply]) -> Vec<&Reply> {
    replies
        .iter()
        .filter(|reply| reply.status.is_success() || reply.status == 303)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r07_parallel_code_redemption_has_one_winner_and_reuse_ends_the_family() {
    let world = Arc::new(World::start().await);
    let (_, query) = world.code("alice", "openid orders:read").await;
    let code = query["code"].clone();
    let replies = race(|| {
        let (world, code) = (Arc::clone(&world), code.clone());
        async move { world.redeem(&code).await }
    })
    .await;
    let won = successes(&replies);
    assert_eq!(won.len(), 1);
    for lost in replies.iter().filter(|reply| !reply.status.is_success()) {
        assert_eq!(lost.error(), "invalid_grant");
    }
    for winner in won {
        let tokens = Tokens::of(winner);
        assert!(
            !world.is_active(&tokens.access).await,
            "the replays revoked the family"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r09_parallel_refreshes_have_one_successor() {
    let world = Arc::new(World::start().await);
    let first = world.tokens("alice", "openid orders:read").await;
    let replies = race(|| {
        let (world, token) = (Arc::clone(&world), first.refresh.clone());
        async move { world.refresh(&token).await }
    })
    .await;
    let successors: std::collections::BTreeSet<String> = replies
        .iter()
        .map(|reply| Tokens::of(reply).refresh)
        .collect();
    assert_eq!(
        successors.len(),
        1,
        "one rotation, whose answer was repeated"
    );
    let next = successors.into_iter().next().unwrap();
    assert_eq!(world.refresh(&next).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r07_a_pushed_request_raced_by_browsers_has_one_winner() {
    let world = Arc::new(World::start().await);
    let challenge = challenge();
    let parts = [
        ("client_id", "spa-proxy"),
        ("response_type", "code"),
        ("redirect_uri", CALLBACK),
        ("scope", "openid"),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    let reply = world.post("spa-proxy", "/par", &parts).await;
    let uri = reply.json()["request_uri"].as_str().unwrap().to_owned();
    let path = format!(
        "/authorize?{}",
        form(&[("client_id", "spa-proxy"), ("request_uri", &uri)])
    );
    let replies = race(|| {
        let (world, path) = (Arc::clone(&world), path.clone());
        async move { world.browser().get(&path).await }
    })
    .await;
    assert_eq!(successes(&replies).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r06_a_client_assertion_raced_has_one_winner() {
    let world = Arc::new(World::start().await);
    let assertion = ClientAssertion {
        iss: "demo-jwt".to_owned(),
        sub: "demo-jwt".to_owned(),
        aud: ISSUER.to_owned(),
        exp: world.now() + 60,
        jti: "raced".to_owned(),
        iat: None,
        nbf: None,
    };
    let text = world.client_key.sign("JWT", &assertion).unwrap();
    let replies = race(|| {
        let (world, text) = (Arc::clone(&world), text.clone());
        async move {
            let parts = [
                ("grant_type", "client_credentials"),
                (
                    "client_assertion_type",
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                ),
                ("client_assertion", text.as_str()),
            ];
            world.post("gateway", "/token", &parts).await
        }
    })
    .await;
    assert_eq!(successes(&replies).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_finished_sign_in_yields_one_code() {
    let world = Arc::new(World::start().await);
    let mut browser = world.browser();
    let reply = browser.get(&crate::testing::authorize_path(&[])).await;
    let page = browser.follow(reply).await;
    let credentials = [
        ("username", "alice"),
        ("password", crate::testing::PASSWORD),
    ];
    let reply = browser.submit(&page, "/login", &credentials).await;
    let resume = reply.location().unwrap();
    let cookies = browser.cookies.clone();
    let replies = race(|| {
        let (mut browser, resume) = (world.browser(), resume.clone());
        browser.cookies = cookies.clone();
        async move { browser.get(&resume).await }
    })
    .await;
    assert_eq!(successes(&replies).len(), 1);
}
