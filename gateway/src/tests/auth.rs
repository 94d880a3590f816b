//! Who asks, whether they may, how often, and what the upstream is told.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use ringwall_identity::SpiffeId;
use ringwall_token::claims::{AccessToken, verify_user_context};
use ringwall_token::{Algorithm, KeyRing};
use serde_json::json;

use super::harness::{AUDIENCE, ISSUER, World, claims};

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("clock")
        .as_secs()
}

/// The token with another first letter of its signature.
fn broken_signature(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').expect("parts");
    let letter = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{signed}.{letter}{}", &signature[1..])
}

/// Tokens that must be refused, with what is wrong about each.
fn bad_tokens(world: &World, good: &str) -> Vec<(&'static str, String)> {
    let foreign = KeyRing::generate(Algorithm::Es256).expect("keys");
    let (head, rest) = good.split_once('.').expect("parts");
    let none = format!(
        "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{}.",
        rest.split_once('.').expect("parts").0
    );
    vec![
        ("expired", world.token(|claims| claims.exp = now() - 60)),
        (
            "issued tomorrow",
            world.token(|claims| claims.iat = now() + 86_400),
        ),
        (
            "issuer",
            world.token(|claims| claims.iss = "https://evil".to_owned()),
        ),
        (
            "audience",
            world.token(|claims| claims.aud = "https://other".to_owned()),
        ),
        (
            "typ",
            world
                .issuer
                .state
                .keys
                .lock()
                .sign("JWT", &claims())
                .expect("sign"),
        ),
        (
            "foreign key",
            foreign.sign(AccessToken::TYP, &claims()).expect("sign"),
        ),
        ("signature", broken_signature(good)),
        ("alg none", none),
        ("head only", head.to_owned()),
        ("not a token", "abc".to_owned()),
        ("too long", "a".repeat(9000)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_a_valid_jwt_passes_and_everything_else_is_401() {
    let world = World::start().await;
    let good = world.token(|_| {});
    let answer = world.get("/v1/orders", &good).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.field("strict-transport-security"),
        Some("max-age=31536000")
    );

    for (name, token) in bad_tokens(&world, &good) {
        // Twice: a refusal must not become an acceptance by being remembered.
        for _ in 0..2 {
            let answer = world.get("/v1/orders", &token).await;
            assert_eq!(answer.status, 401, "{name}: {answer:?}");
            assert_eq!(
                answer.field("www-authenticate"),
                Some(r#"Bearer error="invalid_token""#),
                "{name}"
            );
            assert_eq!(
                answer.field("content-type"),
                Some("application/problem+json")
            );
        }
    }
    let none = world
        .send("GET /v1/orders HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        .await;
    assert_eq!(
        (none.status, none.field("www-authenticate")),
        (401, Some("Bearer"))
    );
    assert_eq!(world.upstream_requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_a_rotated_key_is_fetched_and_a_cached_token_is_bound_to_its_audience() {
    let world = World::start().await;
    let token = world.token(|_| {});
    assert_eq!(world.get("/v1/orders", &token).await.status, 200);
    assert_eq!(world.issuer.state.key_fetches.load(Ordering::SeqCst), 1);
    assert_eq!(
        world.get("/v1/other", &token).await.status,
        401,
        "a cached token of another audience"
    );
    let other = world.token(|claims| claims.aud = "https://other".to_owned());
    assert_eq!(world.get("/v1/other", &other).await.status, 200);
    for _ in 0..5 {
        assert_eq!(world.get("/v1/orders", &token).await.status, 200);
    }
    assert_eq!(world.issuer.state.key_fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r56_undeclared_is_refused_and_policy_decides() {
    let mut world = World::start().await;
    let customer = world.token(|_| {});
    assert_eq!(world.get("/undeclared/x", &customer).await.status, 404);
    let other = world
        .send(&format!("DELETE /v1/orders HTTP/1.1\r\nHost: api.localhost\r\nAuthorization: Bearer {customer}\r\n\r\n"))
        .await;
    assert_eq!(
        (other.status, other.field("allow")),
        (405, Some("GET, POST"))
    );
    let nobody = world.token(|claims| {
        claims.sub = "mallory".to_owned();
        claims.roles.clear();
    });
    let denied = world.get("/v1/orders", &nobody).await;
    assert_eq!(denied.status, 403, "{denied:?}");
    assert!(
        !denied.body.contains("customers"),
        "the reason is not the client's business"
    );
    let unscoped = world.token(|claims| claims.scope = "openid".to_owned());
    let answer = world.get("/v1/orders", &unscoped).await;
    assert_eq!(answer.status, 403);
    assert_eq!(
        answer.field("www-authenticate"),
        Some(r#"Bearer error="insufficient_scope", scope="orders:read""#)
    );
    let client = world.token(|claims| {
        claims.sub = "demo-cli".to_owned();
        claims.client_id = "demo-cli".to_owned();
        claims.roles.clear();
    });
    assert_eq!(
        world.get("/v1/orders", &client).await.status,
        200,
        "a client with orders:read"
    );
    assert_eq!(world.upstream_requests(), 1);
    let log = world.finish().await;
    let denied = log
        .iter()
        .find(|line| line["refusal"] == "policy-denied")
        .expect("line");
    assert_eq!(
        (denied["sub"].as_str(), denied["route"].as_str()),
        (Some("mallory"), Some("read"))
    );
    assert!(
        log.iter()
            .any(|line| line["refusal"] == "no-route" && line["status"] == 404)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_the_user_context_is_ours_and_forged_identity_never_arrives() {
    let world = World::start().await;
    let token = world.token(|_| {});
    let request = format!(
        "GET /v1/orders?token=secret HTTP/1.1\r\nHost: api.localhost\r\nAuthorization: Bearer {token}\r\n\
         X-Ringwall-User-Context: forged\r\nx_ringwall_user_context: forged\r\nX-Forwarded-For: 1.2.3.4\r\n\
         X-Forwarded-Proto: http\r\nX_Forwarded_For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\
         X-Ringwall-CSRF: 1\r\nTE: trailers\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n"
    );
    let answer = world.send(&request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let context = answer
        .seen("x-ringwall-user-context")
        .expect("a user context");
    let keys = world.running().shared.user_context.jwks();
    let keys = ringwall_token::VerifyingKeys::from_jwks(&keys).expect("keys");
    let gateway = SpiffeId::parse("spiffe://ringwall.local/gateway").expect("id");
    let orders = SpiffeId::parse("spiffe://ringwall.local/orders").expect("id");
    let said =
        verify_user_context(&context, &keys, &gateway, &orders, SystemTime::now()).expect("valid");
    assert_eq!(
        (said.sub.as_str(), said.client_id.as_str()),
        ("alice", "spa-proxy")
    );
    assert!(said.has_role("customer") && said.has_scope("orders:read"));
    let notifications = SpiffeId::parse("spiffe://ringwall.local/notifications").expect("id");
    assert!(
        verify_user_context(&context, &keys, &gateway, &notifications, SystemTime::now()).is_err()
    );

    assert_eq!(answer.seen("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(answer.seen("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(
        answer.seen("x-ringwall-csrf").as_deref(),
        Some("1"),
        "not an identity field"
    );
    for gone in [
        "authorization",
        "x_ringwall_user_context",
        "x_forwarded_for",
        "forwarded",
        "x-real-ip",
        "te",
        "x-hop",
        "connection",
    ] {
        assert_eq!(answer.seen(gone), None, "{gone}");
    }
    assert_eq!(answer.seen("traceparent").map(|text| text.len()), Some(55));

    // Without a user there is no context, whatever the client says.
    let open = world
        .send(
            "GET /open HTTP/1.1\r\nHost: api.localhost\r\nx-ringwall-user-context: forged\r\n\r\n",
        )
        .await;
    assert_eq!(open.seen("x-ringwall-user-context"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_token_passes_only_where_the_route_says_so() {
    let world = World::start().await;
    let token = world.token(|_| {});
    let answer = world
        .send(&format!("POST /v1/orders HTTP/1.1\r\nHost: api.localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 2\r\n\r\n{{}}"))
        .await;
    assert_eq!(
        answer.seen("authorization"),
        Some(format!("Bearer {token}")),
        "{answer:?}"
    );
    assert_eq!(answer.json()["length"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_traces_are_continued_and_bad_ones_replaced() {
    let world = World::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let answer = world.send(&format!("GET /open HTTP/1.1\r\nHost: api.localhost\r\ntraceparent: {parent}\r\ntracestate: a=b\r\n\r\n")).await;
    let seen = answer.seen("traceparent").expect("traceparent");
    assert_eq!(seen, parent, "without telemetry there is no span of ours");
    assert_eq!(answer.seen("tracestate").as_deref(), Some("a=b"));
    let answer = world.send("GET /open HTTP/1.1\r\nHost: api.localhost\r\ntraceparent: 00-evil\r\ntracestate: a=b\r\n\r\n").await;
    assert_eq!(answer.seen("traceparent").map(|text| text.len()), Some(55));
    assert_eq!(answer.seen("tracestate"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r01_exactly_the_burst_passes_over_all_workers() {
    let world = std::sync::Arc::new(World::start().await);
    let token = world.token(|_| {});
    let mut tasks = Vec::new();
    for _ in 0..40 {
        let (world, token) = (std::sync::Arc::clone(&world), token.clone());
        tasks.push(tokio::spawn(async move {
            world.get("/v1/limited", &token).await
        }));
    }
    let mut passed = 0;
    for task in tasks {
        let answer = task.await.expect("task");
        match answer.status {
            200 => passed += 1,
            429 => {
                let wait: u64 = answer
                    .field("retry-after")
                    .and_then(|text| text.parse().ok())
                    .expect("Retry-After");
                // A request that began before the first one that was counted waits a little longer
                // than the period, and seconds are rounded up.
                assert!((1..=3601).contains(&wait), "{wait}");
                assert!(
                    answer
                        .field("ratelimit")
                        .is_some_and(|text| text.starts_with(r#""default";r=0;t="#))
                );
                assert_eq!(
                    answer.field("ratelimit-policy"),
                    Some(r#""default";q=1;w=3600"#)
                );
            }
            _ => panic!("{answer:?}"),
        }
    }
    assert_eq!(passed, 5);
    let other = world.token(|claims| claims.sub = "bob".to_owned());
    assert_eq!(
        world.get("/v1/limited", &other).await.status,
        200,
        "another user has a limit of their own"
    );
}

fn reference(letter: char) -> String {
    format!("rwr_{}", String::from(letter).repeat(43))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r11_reference_tokens_are_asked_about_once_and_revoked_within_a_second() {
    let world = std::sync::Arc::new(World::start().await);
    let token = reference('A');
    let active = json!({"active": true, "iss": ISSUER, "sub": "alice", "client_id": "demo-partner", "aud": AUDIENCE,
        "scope": "orders:read", "roles": ["customer"], "exp": now() + 300});
    world
        .issuer
        .state
        .active
        .lock()
        .insert(token.clone(), active);
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (world, token) = (std::sync::Arc::clone(&world), token.clone());
            tokio::spawn(async move { world.get("/v1/orders", &token).await.status })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.expect("task"), 200);
    }
    let asked = world.issuer.state.introspections.load(Ordering::SeqCst);
    assert!(
        asked <= 2,
        "single flight: asked {asked} times for 20 requests"
    );

    world.issuer.state.active.lock().clear();
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(
        world.get("/v1/orders", &token).await.status,
        401,
        "revoked for a second"
    );
    assert_eq!(
        world.get("/v1/orders", &reference('B')).await.status,
        401,
        "unknown"
    );
    assert_eq!(
        world.get("/v1/orders", "rwr_short").await.status,
        401,
        "not even asked about"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_an_unreachable_authorization_server_denies() {
    let world = World::start().await;
    world.issuer.state.away.store(true, Ordering::SeqCst);
    let answer = world.get("/v1/orders", &reference('A')).await;
    assert_eq!(
        (answer.status, answer.field("retry-after")),
        (503, Some("1")),
        "{answer:?}"
    );
    let answer = world.get("/v1/orders", &world.token(|_| {})).await;
    assert_eq!(answer.status, 503, "no keys, no entry: {answer:?}");
    assert_eq!(world.upstream_requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r69_no_token_and_no_query_reaches_the_log() {
    let mut world = World::start().await;
    let token = world.token(|_| {});
    world.get("/v1/orders?code=canary-7f3a", &token).await;
    world.get("/open?access_token=canary-7f3a", &token).await;
    world
        .get("/v1/orders/canary%0d%0a?x=canary-7f3a", &token)
        .await;
    world.finish().await;
    let log = std::fs::read_to_string(&world.log_file).expect("log");
    assert!(
        !log.contains("canary-7f3a") && !log.contains(&token),
        "{log}"
    );
    assert!(log.contains("path-encoded-control"));
}
