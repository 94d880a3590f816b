//! API keys, service source tokens, the three credentials of payments, the two of PostgreSQL.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::mesh::{self, Answer};
use e2e::oauth;
use e2e::stack::StackInfo;
use http::{Request, StatusCode};
use ringwall_proto::ids::{Currency, MinorUnits, OrderId};
use ringwall_proto::payments::PaymentTerms;
use serde_json::{Value, json};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const SOURCE_TOKEN: &str = "urn:ringwall:params:oauth:token-type:source-token";

/// What a caller of payments holds.
struct Credentials {
    api_key: String,
    access_token: String,
    source_token: String,
    terms: PaymentTerms,
}

pub(super) async fn r20_an_api_key_is_needed_and_must_be_right(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let right = stack.secret("orders", "api-key-inventory")?;
    let foreign = stack.secret("orders", "api-key-payments")?;
    let cases = [
        (Some(right.as_str()), StatusCode::OK),
        (None, StatusCode::UNAUTHORIZED),
        (Some(foreign.as_str()), StatusCode::UNAUTHORIZED),
        (Some("rwk_none_AAAA"), StatusCode::UNAUTHORIZED),
    ];
    for (key, expected) in cases {
        let mut request = Request::get("/v1/items");
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        let answer =
            mesh::call_as(&stack, "orders", "inventory", request.body(Bytes::new())?).await?;
        ensure!(
            answer.status == expected,
            "{} instead of {expected}",
            answer.status
        );
    }
    Ok(())
}

/// R20: the key alone is worth nothing: with another workload's identity the handshake ends it.
pub(super) async fn r20_a_stolen_api_key_fails_from_another_workload(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let key = stack.secret("orders", "api-key-inventory")?;
    for thief in ["payments", "notifications", "gateway", "spa-proxy"] {
        let request = Request::get("/v1/items")
            .header("x-api-key", &key)
            .body(Bytes::new())?;
        let outcome = mesh::call_as(&stack, thief, "inventory", request).await;
        mesh::refused_in_the_handshake(outcome).with_context(|| format!("as {thief}"))?;
    }
    Ok(())
}

/// R21: of parallel redemptions exactly one succeeds.
pub(super) async fn r21_parallel_redemption_has_one_winner(stack: Arc<StackInfo>) -> Result<()> {
    let credentials = credentials(&stack).await?;
    let attempts = (0..100).map(|_| redeem(&stack, "payments", &credentials, "POST"));
    let (mut winners, mut answered) = (0, 0);
    for outcome in futures_util::future::join_all(attempts).await {
        match outcome {
            Ok(answer) => {
                answered += 1;
                winners += usize::from(answer.status == StatusCode::OK);
            }
            // A hundred handshakes at once may take a small container longer than it grants one.
            Err(error) => eprintln!("no attempt: {error:#}"),
        }
    }
    ensure!(winners == 1, "{winners} of 100 redemptions won");
    ensure!(
        answered >= 20,
        "only {answered} of 100 attempts were answered"
    );
    Ok(())
}

/// R21: the token is worth something only to its audience, for its method.
pub(super) async fn r21_a_source_token_is_bound(stack: Arc<StackInfo>) -> Result<()> {
    let credentials = credentials(&stack).await?;
    let as_orders = redeem(&stack, "orders", &credentials, "POST").await?;
    ensure!(
        !as_orders.status.is_success(),
        "the caller redeemed its own token"
    );
    let other_method = redeem(&stack, "payments", &credentials, "GET").await?;
    ensure!(
        !other_method.status.is_success(),
        "another method was accepted"
    );
    Ok(())
}

/// R22: payments wants all three credentials; seven of the eight combinations fail.
pub(super) async fn r22_only_all_three_credentials_pass(stack: Arc<StackInfo>) -> Result<()> {
    for combination in 0..8_u8 {
        let [key, access, source] = [1, 2, 4].map(|bit| combination & bit != 0);
        let credentials = credentials(&stack).await?;
        let mut request = Request::post("/v1/payments").header("content-type", "application/json");
        if key {
            request = request.header("x-api-key", &credentials.api_key);
        }
        if access {
            request = request.header(
                "authorization",
                format!("Bearer {}", credentials.access_token),
            );
        }
        let mut body = serde_json::to_value(&credentials.terms)?;
        if source {
            body["source_token"] = Value::from(credentials.source_token.clone());
        }
        let request = request.body(Bytes::from(body.to_string()))?;
        let answer = mesh::call_as(&stack, "orders", "payments", request).await?;
        let passed = answer.status == StatusCode::CREATED;
        ensure!(
            passed == (combination == 7),
            "key {key}, access token {access}, source token {source}: {} {:?}",
            answer.status,
            answer.body
        );
        ensure!(
            !answer.status.is_server_error(),
            "{combination}: {answer:?}"
        );
    }
    Ok(())
}

/// R22: a source token for one amount pays no other.
pub(super) async fn r22_a_changed_amount_is_refused(stack: Arc<StackInfo>) -> Result<()> {
    let credentials = credentials(&stack).await?;
    let mut body = serde_json::to_value(&credentials.terms)?;
    body["amount_minor"] = json!(1);
    body["source_token"] = Value::from(credentials.source_token.clone());
    let request = Request::post("/v1/payments")
        .header("content-type", "application/json")
        .header("x-api-key", &credentials.api_key)
        .header(
            "authorization",
            format!("Bearer {}", credentials.access_token),
        )
        .body(Bytes::from(body.to_string()))?;
    let answer = mesh::call_as(&stack, "orders", "payments", request).await?;
    ensure!(answer.status.is_client_error(), "{answer:?}");
    Ok(())
}

/// R22: the user's own token, made for the API, is no token for payments.
pub(super) async fn r22_the_users_own_token_is_refused_by_payments(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let credentials = credentials(&stack).await?;
    let user = oauth::tokens(&stack, "alice").await?;
    let mut body = serde_json::to_value(&credentials.terms)?;
    body["source_token"] = Value::from(credentials.source_token.clone());
    let request = Request::post("/v1/payments")
        .header("content-type", "application/json")
        .header("x-api-key", &credentials.api_key)
        .header("authorization", format!("Bearer {}", user.access))
        .body(Bytes::from(body.to_string()))?;
    let answer = mesh::call_as(&stack, "orders", "payments", request).await?;
    ensure!(answer.status == StatusCode::UNAUTHORIZED, "{answer:?}");
    Ok(())
}

/// R12: nor the other way round: what orders got for payments opens nothing at the API.
pub(super) async fn r12_a_token_for_payments_is_refused_by_the_api(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let token = credentials(&stack).await?.access_token;
    let status = oauth::api_status(&stack, "/v1/catalogue", &token).await?;
    ensure!(status == StatusCode::UNAUTHORIZED, "the API: {status}");
    Ok(())
}

/// R23: certificate and password together, and neither alone.
pub(super) async fn r23_postgres_needs_certificate_and_password(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let password = stack.secret("orders", "postgres-password")?;
    let certificate = "sslcert=CERT/client.pem sslkey=CERT/client.key";
    let cases = [
        ("both", certificate, password.as_str(), "verify-full", true),
        (
            "certificate only",
            certificate,
            "wrong",
            "verify-full",
            false,
        ),
        (
            "password only",
            "sslcert=none sslkey=none",
            password.as_str(),
            "verify-full",
            false,
        ),
        ("no TLS", "", password.as_str(), "disable", false),
    ];
    for (name, certificate, password, mode, expected) in cases {
        let passed = psql(&stack, certificate, password, mode)?;
        ensure!(
            passed == expected,
            "{name}: expected {expected}, got {passed}"
        );
    }
    Ok(())
}

fn psql(stack: &StackInfo, certificate: &str, password: &str, mode: &str) -> Result<bool> {
    let address = stack.component("postgres")?.address;
    let folder = stack.identity("orders").join("postgres");
    let folder = folder.to_str().context("not a UTF-8 path")?;
    let certificate = certificate.replace("CERT", folder);
    let target = format!(
        "host=postgres hostaddr={} port={} dbname=orders user=orders sslmode={mode} \
         sslrootcert={folder}/bundle.pem {certificate} connect_timeout=5",
        address.ip(),
        address.port(),
    );
    let output = Command::new("psql")
        .args(["--no-password", "--command", "select 1", &target])
        .env("PGPASSWORD", password)
        .output()
        .context("cannot run psql: run `cargo xtask setup`")?;
    Ok(output.status.success())
}

/// A whole set of credentials, got as orders gets them.
async fn credentials(stack: &StackInfo) -> Result<Credentials> {
    let user = oauth::tokens(stack, "alice").await?;
    let terms = PaymentTerms {
        order_id: OrderId::generate(),
        amount_minor: MinorUnits::new(1_250)?,
        currency: Currency::parse("EUR")?,
    };
    let exchange = form(&[
        ("grant_type", TOKEN_EXCHANGE),
        ("client_id", "orders"),
        ("subject_token", &user.access),
        ("subject_token_type", ACCESS_TOKEN),
        ("audience", "payments"),
    ]);
    let exchanged =
        mesh::call_as(stack, "orders", "authz-server", post("/token", &exchange)?).await?;
    let source = form(&[
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", &user.access),
        ("subject_token_type", ACCESS_TOKEN),
        ("requested_token_type", SOURCE_TOKEN),
        ("audience", "payments"),
        ("htm", "POST"),
        ("htu", "/v1/payments"),
        ("body_digest", terms.digest().as_str()),
    ]);
    let source = mesh::call_as(
        stack,
        "orders",
        "tokenizer",
        post("/v1/source-tokens", &source)?,
    )
    .await?;
    Ok(Credentials {
        api_key: stack.secret("orders", "api-key-payments")?,
        access_token: access_token(&exchanged)?,
        source_token: access_token(&source)?,
        terms,
    })
}

async fn redeem(
    stack: &StackInfo,
    identity: &str,
    credentials: &Credentials,
    method: &str,
) -> Result<Answer> {
    let body = json!({
        "token": credentials.source_token,
        "caller": "spiffe://ringwall.local/orders",
        "htm": method,
        "htu": "/v1/payments",
        "body_digest": credentials.terms.digest().as_str(),
    });
    let request = Request::post("/v1/source-tokens/redeem")
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_string()))?;
    mesh::call_as(stack, identity, "tokenizer", request).await
}

fn access_token(answer: &Answer) -> Result<String> {
    let body = answer.json()?;
    body["access_token"]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("no token: {} {body}", answer.status))
}

fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish()
}

fn post(path: &str, form: &str) -> Result<Request<Bytes>> {
    Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::copy_from_slice(form.as_bytes()))
        .context("not a request")
}
