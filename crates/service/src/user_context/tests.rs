//! Every way in which a user context can be wrong, over real mTLS with a real key server.

use axum::{Json, Router, routing::get};
use ringwall_http_io::Transport;
use ringwall_token::{Algorithm, JwkSet, SigningKey};
use time::OffsetDateTime;

use super::*;
use crate::{
    App,
    fixture::{Mesh, Running, id},
};

struct Stage {
    mesh: Mesh,
    gateway: Running,
    orders: Running,
    key: SigningKey,
}

impl Stage {
    async fn new() -> Self {
        let mesh = Mesh::new();
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let jwks = serde_json::to_value(JwkSet {
            keys: vec![key.public_jwk()],
        })
        .unwrap();
        let router = Router::new().route(paths::JWKS, get(move || async move { Json(jwks) }));
        let gateway =
            Running::start(mesh.shell("gateway", &["orders"], ""), App::new(router)).await;
        let extra = format!(
            "upstreams: {{ gateway: {{ address: \"{}\", identity: gateway }} }}",
            gateway.mesh
        );
        let shell = mesh.shell("orders", &["gateway", "notifications"], &extra);
        let users = UserContextVerifier::from_shell(&shell).unwrap();
        let router =
            Router::new().route("/me", get(|User(user): User| async move { Json(user.sub) }));
        let orders = Running::start(shell, App::new(router).users(users)).await;
        Self {
            mesh,
            gateway,
            orders,
            key,
        }
    }

    fn context(&self) -> UserContext {
        let now = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap();
        UserContext {
            iss: id("gateway"),
            aud: id("orders"),
            sub: "alice".into(),
            client_id: "spa-proxy".into(),
            roles: vec!["customer".into()],
            scope: "orders:read".into(),
            trace_id: None,
            iat: now,
            exp: now + 60,
            jti: "1".into(),
        }
    }

    fn sign(&self, change: impl FnOnce(&mut UserContext)) -> String {
        let mut context = self.context();
        change(&mut context);
        self.key.sign(UserContext::TYP, &context).unwrap()
    }

    async fn ask(&self, from: &str, tokens: &[&str]) -> Result<String, String> {
        let client = self.mesh.client(from, "orders", self.orders.mesh);
        let mut call = client.get("/me");
        for token in tokens {
            call = call.header(headers::USER_CONTEXT, token);
        }
        match call.receive::<String>().await {
            Ok(answer) => Ok(answer.body),
            Err(error) => {
                assert_eq!(error.status(), Some(StatusCode::UNAUTHORIZED));
                Err(error.slug().unwrap().to_owned())
            }
        }
    }
}

#[tokio::test]
async fn only_the_gateway_s_own_fresh_statement_for_us_is_believed() {
    let stage = Stage::new().await;
    let invalid = || Err("user-context-invalid".to_owned());
    let good = stage.sign(|_| {});
    assert_eq!(stage.ask("gateway", &[&good]).await, Ok("alice".into()));

    assert_eq!(
        stage.ask("gateway", &[]).await,
        Err("user-context-missing".into())
    );
    assert_eq!(stage.ask("gateway", &[&good, &good]).await, invalid());
    assert_eq!(stage.ask("notifications", &[&good]).await, invalid());

    let forged = SigningKey::generate(Algorithm::Es256).unwrap();
    let wrong = [
        stage.sign(|c| c.aud = id("payments")),
        stage.sign(|c| c.iss = id("orders")),
        stage.sign(|c| (c.iat, c.exp) = (c.iat - 300, c.exp - 300)),
        stage.sign(|c| c.exp += 600),
        stage.key.sign("at+jwt", &stage.context()).unwrap(),
        forged.sign(UserContext::TYP, &stage.context()).unwrap(),
        "not-a-token".into(),
        format!("{}x", good),
    ];
    for token in &wrong {
        assert_eq!(stage.ask("gateway", &[token]).await, invalid(), "{token}");
    }
    assert_eq!(stage.ask("gateway", &[&good]).await, Ok("alice".into()));
    stage.orders.stop().await.unwrap();
    stage.gateway.stop().await.unwrap();
}

#[tokio::test]
async fn a_shell_without_the_gateway_upstream_cannot_verify_users() {
    let shell = Mesh::new().shell("orders", &[], "");
    assert!(UserContextVerifier::from_shell(&shell).is_err());
}
