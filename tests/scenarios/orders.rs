//! The main job: an order through the whole platform.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::person::Person;
use e2e::stack::StackInfo;
use reqwest::Method;

/// How long a confirmation may take from the order to the customer's list of notifications.
const CONFIRMATION: Duration = Duration::from_secs(10);
/// How long it may take to the customer's open page.
const PUSHED: Duration = Duration::from_secs(5);

pub(super) async fn r61_an_order_is_placed_and_confirmed(stack: Arc<StackInfo>) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    let order = alice.place_order().await?;
    let id = order["id"].as_str().context("the order has no id")?;
    ensure!(
        order["status"] == "placed",
        "the order is {}",
        order["status"]
    );
    let history = alice.api_json(Method::GET, "/api/orders", None).await?;
    ensure!(
        history.to_string().contains(id),
        "the order is not in the history: {history}"
    );
    confirmed(&alice, id).await
}

/// R36: the trace of an order has a span of every component that it met, in one tree.
pub(super) async fn r36_the_trace_of_an_order_has_the_hops_of_all(
    stack: Arc<StackInfo>,
) -> Result<()> {
    const HOPS: [&str; 8] = [
        "authz-server",
        "gateway",
        "inventory",
        "notifications",
        "orders",
        "payments",
        "spa-proxy",
        "tokenizer",
    ];
    let alice = Person::signed_in(&stack, "alice").await?;
    let order = alice.place_order().await?;
    let trace = order["trace_id"].as_str().context("it was not traced")?;
    let path = format!("/api/traces/{trace}");
    let started = Instant::now();
    loop {
        let answer = alice.api(Method::GET, &path, None).await?;
        let text = answer.text().await?;
        let missing: Vec<&str> = HOPS
            .into_iter()
            .filter(|hop| !text.contains(&format!("\"service\":\"{hop}\"")))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        ensure!(
            started.elapsed() < CONFIRMATION,
            "the trace has no hop of {}: {text}",
            missing.join(", ")
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// R61: the confirmation comes to the page by itself, as a server-sent event, and to nobody else's.
pub(super) async fn r61_status_arrives_by_server_sent_event(stack: Arc<StackInfo>) -> Result<()> {
    const STREAM: &str = "/api/notifications/stream";
    let alice = Person::signed_in(&stack, "alice").await?;
    let bob = Person::signed_in(&stack, "bob").await?;
    let mut events = alice.api(Method::GET, STREAM, None).await?;
    let mut of_bob = bob.api(Method::GET, STREAM, None).await?;
    let media = events.headers().get("content-type").cloned();
    ensure!(
        media.is_some_and(|media| media.as_bytes().starts_with(b"text/event-stream")),
        "no event stream"
    );
    let order = alice.place_order().await?;
    let id = order["id"].as_str().context("the order has no id")?;
    let mut seen = String::new();
    let arrived = async {
        while let Some(chunk) = events.chunk().await? {
            seen.push_str(&String::from_utf8_lossy(&chunk));
            let whole = seen.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
            if let Some(event) = whole.split("\n\n").find(|event| event.contains(id)) {
                return Ok(event.to_owned());
            }
        }
        bail!("the stream ended")
    };
    let event = tokio::time::timeout(PUSHED, arrived)
        .await
        .with_context(|| format!("no event within {PUSHED:?}"))??;
    ensure!(
        event.contains("event: order.confirmed") && event.contains("\nid: "),
        "another event: {event}"
    );
    while let Ok(chunk) = tokio::time::timeout(Duration::from_millis(300), of_bob.chunk()).await {
        let chunk = chunk?.context("bob's stream ended")?;
        ensure!(
            !String::from_utf8_lossy(&chunk).contains(id),
            "bob learns of alice's order"
        );
    }
    Ok(())
}

/// Waits until the event about the order has come through the broker to its owner.
async fn confirmed(person: &Person, order: &str) -> Result<()> {
    let deadline = Instant::now() + CONFIRMATION;
    while Instant::now() < deadline {
        let seen = person
            .api_json(Method::GET, "/api/notifications", None)
            .await?;
        if seen.to_string().contains(order) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("no confirmation of {order} within {CONFIRMATION:?}")
}
