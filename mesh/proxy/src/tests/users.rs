//! Policies may ask for the user, and only a true statement of the gateway answers.

use std::time::SystemTime;

use ringwall_token::claims::UserContext;
use ringwall_token::{Algorithm, JwksCache, KeyRing};

use super::peers::seen;
use super::world::{HTTP, World, id};
use crate::inbound::Users;

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("clock").as_secs()
}

fn context(roles: &[&str]) -> UserContext {
    UserContext {
        iss: id("gateway"),
        aud: id("orders"),
        sub: "alice".to_owned(),
        client_id: "spa-proxy".to_owned(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        scope: "orders:read".to_owned(),
        trace_id: None,
        iat: now(),
        exp: now() + 30,
        jti: "1".to_owned(),
    }
}

fn request(path: &str, token: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: orders\r\nX-Ringwall-User-Context: {token}\r\nConnection: close\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r57_policies_see_the_user_that_the_gateway_states() {
    let (world, keys) = with_users().await;
    let sign = |context: &UserContext| keys.sign(UserContext::TYP, context).expect("sign");
    let customer = sign(&context(&["customer"]));
    // `/forbidden*` is closed to the gateway as such; `/customers*` is open to customers alone.
    for _ in 0..2 {
        let answer = world
            .send("gateway", HTTP, &request("/customers/1", &customer))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            seen(&answer.json(), "x-ringwall-user-context"),
            [customer.as_str()]
        );
    }
    let line = world.line(|line| line["path"] == "/customers/1").await;
    assert_eq!(line["sub"], "alice");
    let other = sign(&context(&["clerk"]));
    let answer = world
        .send("gateway", HTTP, &request("/customers/2", &other))
        .await;
    assert_eq!(answer.status, 403);
    let answer = world.get("gateway", "/customers/3").await;
    assert_eq!(answer.status, 403, "without a user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_forged_users_are_nobody_to_policy_and_application() {
    let (world, keys) = with_users().await;
    let strangers = KeyRing::generate(Algorithm::Es256).expect("keys");
    let sign =
        |keys: &KeyRing, context: &UserContext| keys.sign(UserContext::TYP, context).expect("sign");
    let mut ended = context(&["customer"]);
    (ended.iat, ended.exp) = (now() - 100, now() - 60);
    let mut elsewhere = context(&["customer"]);
    elsewhere.aud = id("payments");
    let genuine = sign(&keys, &context(&["customer"]));
    for (name, token) in [
        ("another key", sign(&strangers, &context(&["customer"]))),
        ("ended", sign(&keys, &ended)),
        ("for another workload", sign(&keys, &elsewhere)),
        ("no token", "x.y.z".to_owned()),
        (
            "twice",
            format!("{genuine}\r\nX-Ringwall-User-Context: {genuine}"),
        ),
    ] {
        let denied = world
            .send("gateway", HTTP, &request("/customers/1", &token))
            .await;
        assert_eq!(denied.status, 403, "{name}");
        let passed = world
            .send("gateway", HTTP, &request("/v1/orders", &token))
            .await;
        assert_eq!(passed.status, 200, "{name}");
        let said = seen(&passed.json(), "x-ringwall-user-context");
        assert_eq!(said, Vec::<String>::new(), "{name}");
    }
    // A genuine one, brought by somebody else.
    let stolen = world
        .send("inventory", HTTP, &request("/customers/1", &genuine))
        .await;
    assert_eq!(stolen.status, 403);
}

async fn with_users() -> (World, KeyRing) {
    let keys = KeyRing::generate(Algorithm::Es256).expect("keys");
    let cache = JwksCache::fixed(keys.jwks());
    let users = Users::over(cache, id("gateway"), id("orders"));
    let world = World::with_users(users).await;
    (world, keys)
}
