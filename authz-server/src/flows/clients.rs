//! Client authentication and `client_credentials`.

use std::time::Duration;

use ringwall_token::claims::{AccessToken, ClientAssertion};
use ringwall_token::{Algorithm, Expectation, SigningKey};
use serde_json::json;

use crate::audit::Kind;
use crate::testing::{API, ISSUER, Reply, SECRET, World, basic};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn assertion(world: &World, jti: &str) -> ClientAssertion {
    ClientAssertion {
        iss: "demo-jwt".to_owned(),
        sub: "demo-jwt".to_owned(),
        aud: ISSUER.to_owned(),
        exp: world.now() + 60,
        jti: jti.to_owned(),
        iat: Some(world.now()),
        nbf: None,
    }
}

async fn present(world: &World, assertion: &str) -> Reply {
    let parts = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", assertion),
    ];
    world.post("gateway", "/token", &parts).await
}

#[tokio::test]
async fn r06_client_credentials_by_basic_and_post() {
    let world = World::start().await;
    let reply = world.client_token("demo-cli", &[]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.headers["cache-control"], "no-store");
    let body = reply.json();
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 300);
    assert_eq!(body["scope"], "orders:read");
    assert!(body.get("refresh_token").is_none());

    let expected = Expectation {
        issuer: ISSUER.to_owned(),
        audience: API.to_owned(),
        typ: AccessToken::TYP,
        leeway: Duration::ZERO,
    };
    let now = world.server.now().to_system();
    let keys = world.server.keys.verifying();
    let text = body["access_token"].as_str().unwrap();
    let claims: AccessToken = ringwall_token::verify(text, &keys, &expected, now).unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.client_id.as_str()),
        ("demo-cli", "demo-cli")
    );

    let authorization = basic("demo-cli", SECRET);
    let headers = [("authorization", authorization.as_str())];
    let parts = [("grant_type", "client_credentials")];
    assert_eq!(
        world
            .post_with("gateway", "/token", &headers, &parts)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn r06_wrong_audience_denied() {
    let world = World::start().await;
    let reply = world
        .client_token("demo-cli", &[("resource", "payments")])
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.error().as_str()),
        (400, "invalid_target")
    );
    assert_eq!(
        world
            .client_token("demo-cli", &[("resource", API)])
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn r06_wrong_secret_unknown_client_and_wrong_method_get_one_answer() {
    let world = World::start().await;
    let wrong = world
        .client_token("demo-cli", &[("client_secret", "wrong")])
        .await;
    let unknown = world.client_token("nobody", &[]).await;
    let method = world.client_token("gateway", &[]).await;
    for reply in [&wrong, &unknown, &method] {
        assert_eq!(
            (reply.status.as_u16(), reply.error().as_str()),
            (401, "invalid_client")
        );
        assert_eq!(reply.body, wrong.body);
    }
    let authorization = basic("demo-cli", "wrong");
    let headers = [("authorization", authorization.as_str())];
    let parts = [("grant_type", "client_credentials")];
    let reply = world.post_with("gateway", "/token", &headers, &parts).await;
    assert_eq!(reply.status, 401);
    assert!(
        reply.headers["www-authenticate"]
            .to_str()
            .unwrap()
            .starts_with("Basic")
    );
    assert!(world.server.store.audit_events(Kind::ClientRefused).await >= 2);
}

#[tokio::test]
async fn r06_two_methods_at_once_are_refused() {
    let world = World::start().await;
    let authorization = basic("demo-cli", SECRET);
    let headers = [("authorization", authorization.as_str())];
    let parts = [
        ("grant_type", "client_credentials"),
        ("client_id", "demo-cli"),
        ("client_secret", SECRET),
    ];
    let reply = world.post_with("gateway", "/token", &headers, &parts).await;
    assert_eq!(
        (reply.status.as_u16(), reply.error().as_str()),
        (400, "invalid_request")
    );
}

#[tokio::test]
async fn r06_mutual_tls_counts_for_the_own_workload_and_never_for_the_ingress() {
    let world = World::start().await;
    let parts = [("client_id", "payments"), ("token", "x")];
    assert_eq!(
        world.post("payments", "/introspect", &parts).await.status,
        200
    );
    for other in ["orders", "gateway"] {
        let reply = world.post(other, "/introspect", &parts).await;
        assert_eq!(
            (reply.status.as_u16(), reply.error().as_str()),
            (401, "invalid_client")
        );
    }
}

#[tokio::test]
async fn r06_private_key_jwt_is_accepted_once() {
    let world = World::start().await;
    let text = world
        .client_key
        .sign("JWT", &assertion(&world, "a"))
        .unwrap();
    assert_eq!(present(&world, &text).await.status, 200);
    let again = present(&world, &text).await;
    assert_eq!(
        (again.status.as_u16(), again.error().as_str()),
        (401, "invalid_client")
    );
    assert_eq!(
        world
            .server
            .store
            .audit_events(Kind::AssertionReplayed)
            .await,
        1
    );

    let mut to_endpoint = assertion(&world, "b");
    to_endpoint.aud = format!("{ISSUER}/token");
    let text = world.client_key.sign("JWT", &to_endpoint).unwrap();
    assert_eq!(present(&world, &text).await.status, 200);
}

#[tokio::test]
async fn r06_bad_assertions_are_refused() {
    let world = World::start().await;
    let good = || assertion(&world, "jti");
    let bad = [
        ClientAssertion {
            aud: API.to_owned(),
            ..good()
        },
        ClientAssertion {
            sub: "demo-cli".to_owned(),
            ..good()
        },
        ClientAssertion {
            exp: world.now() - 60,
            ..good()
        },
        ClientAssertion {
            exp: world.now() + 3600,
            ..good()
        },
        ClientAssertion {
            jti: String::new(),
            ..good()
        },
        ClientAssertion {
            iss: "demo-cli".to_owned(),
            sub: "demo-cli".to_owned(),
            ..good()
        },
    ];
    for claims in &bad {
        let text = world.client_key.sign("JWT", claims).unwrap();
        assert_eq!(present(&world, &text).await.status, 401, "{claims:?}");
    }
    let pem = SigningKey::generate(Algorithm::Es256)
        .unwrap()
        .to_pkcs8_pem();
    let foreign = SigningKey::from_pkcs8_pem("demo-jwt", Algorithm::Es256, &pem).unwrap();
    assert_eq!(
        present(&world, &foreign.sign("JWT", &good()).unwrap())
            .await
            .status,
        401
    );
    let other_typ = world.client_key.sign("at+jwt", &good()).unwrap();
    assert_eq!(present(&world, &other_typ).await.status, 401);
    let array = json!({ "iss": "demo-jwt", "sub": "demo-jwt", "aud": [ISSUER],
                        "exp": world.now() + 60, "jti": "x" });
    let array = world.client_key.sign("JWT", &array).unwrap();
    assert_eq!(present(&world, &array).await.status, 401);
}

#[tokio::test]
async fn r06_scopes_outside_the_registration_and_identity_scopes_are_refused() {
    let world = World::start().await;
    for scope in ["orders:write", "openid", "orders:read openid", "a\"b"] {
        let reply = world.client_token("demo-cli", &[("scope", scope)]).await;
        assert_eq!(
            (reply.status.as_u16(), reply.error().as_str()),
            (400, "invalid_scope")
        );
    }
}

#[tokio::test]
async fn r10_unregistered_grants_are_refused() {
    let world = World::start().await;
    let code = ("grant_type", "authorization_code");
    let reply = world.client_token("demo-cli", &[code, ("code", "x")]).await;
    assert_eq!(
        (reply.status.as_u16(), reply.error().as_str()),
        (400, "unauthorized_client")
    );
    for name in [
        "password",
        "implicit",
        "urn:ietf:params:oauth:grant-type:device_code",
        "x",
    ] {
        let reply = world
            .client_token("demo-cli", &[("grant_type", name)])
            .await;
        let answer = (reply.status.as_u16(), reply.error());
        assert_eq!(answer, (400, "unsupported_grant_type".to_owned()));
    }
    let reply = world.client_token("demo-cli", &[("grant_type", "")]).await;
    assert_eq!(reply.error(), "invalid_request");
}

#[tokio::test]
async fn r06_other_content_types_and_duplicates_are_refused() {
    let world = World::start().await;
    let headers = [("content-type", "application/json")];
    let reply = world.post_with("gateway", "/token", &headers, &[]).await;
    assert_eq!(reply.error(), "invalid_request");
    let parts = [("client_id", "demo-cli"), ("client_id", "demo-cli")];
    assert_eq!(
        world.post("gateway", "/token", &parts).await.error(),
        "invalid_request"
    );
}

#[tokio::test]
async fn r63_no_token_or_secret_stands_in_the_database() {
    let world = World::start().await;
    let reference = world.client_token("demo-partner", &[]).await.json();
    let tokens = world.tokens("alice", "openid orders:read").await;
    let mut dump = Vec::new();
    for name in ["authz.db", "authz.db-wal"] {
        dump.extend(std::fs::read(world.directory.path().join(name)).unwrap_or_default());
    }
    let reference = reference["access_token"].as_str().unwrap();
    for secret in [
        reference,
        &tokens.refresh,
        &tokens.access,
        SECRET,
        crate::testing::PASSWORD,
    ] {
        let found = dump
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!found, "a secret stands in the database");
    }
}
