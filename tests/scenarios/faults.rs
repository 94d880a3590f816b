//! What happens when a component is away, and what must never stand in a log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::mesh;
use e2e::oauth;
use e2e::person::Person;
use e2e::stack::{RECOVERY, StackInfo};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// How long a component that is back stays out of use: a question about its health, and the push.
const AGAIN: Duration = Duration::from_secs(5);

/// R61: with notifications dead an order is placed all the same, and confirmed when it is back:
/// once.
pub(super) async fn r61_orders_degrades_when_notifications_is_down(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    stack.kill("notifications").await?;
    let order = alice
        .place_order()
        .await
        .context("while notifications is dead")?;
    ensure!(
        order["status"] == "placed",
        "the order is {}",
        order["status"]
    );
    let id = order["id"].as_str().context("no id")?;
    let deadline = Instant::now() + RECOVERY;
    let seen = loop {
        let answer = alice.api(Method::GET, "/api/notifications", None).await?;
        if answer.status() == StatusCode::OK {
            let text = answer.text().await?;
            if text.contains(id) {
                break serde_json::from_str::<Value>(&text)?;
            }
        }
        ensure!(
            Instant::now() < deadline,
            "not confirmed within {RECOVERY:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let list = seen
        .as_array()
        .or_else(|| seen["notifications"].as_array())
        .context("no list")?;
    let about = list.iter().filter(|entry| entry["order_id"] == id).count();
    ensure!(about == 1, "{about} notifications about one order: {seen}");
    Ok(())
}

/// R61: without inventory nothing can be ordered, and history still answers.
pub(super) async fn r61_history_answers_while_inventory_is_away(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    alice.place_order().await?;
    let frozen = stack.freeze("inventory").await?;
    let order = serde_json::json!({ "lines": [{ "sku": "any", "quantity": 1 }] });
    let placing = alice
        .api(Method::POST, "/api/orders", Some(&order))
        .await?
        .status();
    let history = alice.api(Method::GET, "/api/orders", None).await?.status();
    frozen.thaw().await?;
    alice.place_order_within(AGAIN).await?;
    ensure!(
        placing.is_server_error() || placing.is_client_error(),
        "placing: {placing}"
    );
    ensure!(history == StatusCode::OK, "history: {history}");
    Ok(())
}

/// R19: spa-proxy calls no back end while the authorization server cannot say that the token lives.
pub(super) async fn r19_without_introspection_nothing_is_forwarded(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    ensure!(
        alice.api(Method::GET, "/api/orders", None).await?.status() == StatusCode::OK,
        "control"
    );
    let frozen = stack.freeze("authz-server").await?;
    // Past the bound of the introspection cache.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let status = alice.api(Method::GET, "/api/orders", None).await?.status();
    let partner = oauth_reference_status(&stack).await;
    frozen.thaw().await?;
    alice.place_order_within(AGAIN).await?;
    ensure!(
        status == StatusCode::SERVICE_UNAVAILABLE,
        "spa-proxy: {status}"
    );
    ensure!(
        !partner?.is_success(),
        "the gateway let a reference token pass unchecked"
    );
    Ok(())
}

/// A reference token that the gateway has never seen, while introspection is away.
async fn oauth_reference_status(stack: &StackInfo) -> Result<StatusCode> {
    oauth::api_status(stack, "/v1/catalogue", &format!("rwr_{}", "B".repeat(43))).await
}

/// A component that dies is started again, and nothing acknowledged is lost.
pub(super) async fn r61_a_killed_component_comes_back(stack: Arc<StackInfo>) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    let order = alice.place_order().await?;
    let id = order["id"].as_str().context("no id")?.to_owned();
    for component in ["orders", "payments", "inventory", "tokenizer"] {
        let before = stack.running(component)?.pid;
        stack.kill(component).await?;
        stack.recovered_as_another(component, before).await?;
    }
    let history = alice.api_json(Method::GET, "/api/orders", None).await?;
    ensure!(
        history.to_string().contains(&id),
        "an acknowledged order is lost"
    );
    alice
        .place_order_within(AGAIN)
        .await
        .context("after all four came back")?;
    Ok(())
}

/// R69: after a sign-in and an order no log, metric or trace holds a secret.
pub(super) async fn r69_no_secret_in_logs_or_metrics(stack: Arc<StackInfo>) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    alice.place_order().await?;
    let reference = oauth::client_token(&stack, "demo-partner").await?;
    oauth::api_status(&stack, "/v1/catalogue", &reference).await?;
    let tokens = oauth::tokens(&stack, "bob").await?;
    oauth::api_status(&stack, "/v1/orders", &tokens.access).await?;
    let mut canaries = stack.all_credentials();
    canaries.extend([reference, tokens.refresh, tokens.id]);
    for (component, name) in [
        ("orders", "api-key-inventory"),
        ("orders", "api-key-payments"),
        ("orders", "postgres-password"),
        ("gateway", "oauth-client-secret"),
    ] {
        canaries.push(stack.secret(component, name)?);
    }
    // Prefixes of every kind of token, whoever it belongs to.
    canaries.extend(["eyJ", "rwr_", "rws_"].map(str::to_owned));
    for component in stack.components()? {
        let log = stack.log(&component.name)?;
        let metrics = match component.admin {
            Some(_) => metrics(&stack, &component.name).await?,
            None => String::new(),
        };
        for (place, text) in [("log", log), ("metrics", metrics)] {
            for canary in &canaries {
                let line = text.lines().find(|line| line.contains(canary.as_str()));
                ensure!(
                    line.is_none(),
                    "the {place} of {} holds a secret: {line:?}",
                    component.name
                );
            }
        }
    }
    Ok(())
}

async fn metrics(stack: &StackInfo, component: &str) -> Result<String> {
    let request = http::Request::get("/metrics").body(Bytes::new())?;
    let answer = mesh::admin_call(stack, "ringwall", component, request).await?;
    ensure!(
        answer.status == StatusCode::OK,
        "{component}: {}",
        answer.status
    );
    Ok(String::from_utf8_lossy(&answer.body).into_owned())
}
