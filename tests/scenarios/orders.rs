//! The main job: an order through the whole platform.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::person::Person;
use e2e::stack::StackInfo;
use reqwest::Method;
use serde_json::{Value, json};

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

/// R36: the trace of an order has a span of every component that it met and of every proxy, in one tree: each span's
/// parent is there, but for the first's, which is the person's.
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
        let trace = alice.api_json(Method::GET, &path, None).await?;
        let spans = trace["spans"].as_array().context("no spans")?;
        let wrong = wrong_with(spans, &HOPS);
        if wrong.is_empty() {
            return the_proxies_say_why(spans);
        }
        ensure!(
            started.elapsed() < CONFIRMATION,
            "{}: {trace:#}",
            wrong.join(", ")
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What is missing in a trace: services, their proxies, parents.
fn wrong_with(spans: &[Value], hops: &[&str]) -> Vec<String> {
    let of = |service: &str, proxy: &Value| {
        let mut spans = spans.iter();
        spans.any(|span| {
            span["service"] == service && span["attributes"]["ringwall.proxy"] == *proxy
        })
    };
    let mut wrong = Vec::new();
    for service in hops {
        if !of(service, &Value::Null) {
            wrong.push(format!("no hop of {service}"));
        }
        // The gateway has no proxy; notifications is told by the log that it reads, before any call of it.
        let called = !["gateway", "notifications"].contains(service);
        if called && !of(service, &json!("inbound")) {
            wrong.push(format!("no hop of the proxy before {service}"));
        }
    }
    // That of spa-proxy may be missing: it remembers for a second that a token was good.
    for service in ["orders", "payments", "tokenizer"] {
        if !of(service, &json!("outbound")) {
            wrong.push(format!("no call by the proxy of {service}"));
        }
    }
    let roots: Vec<&Value> = spans
        .iter()
        .filter(|span| !spans.iter().any(|other| other["id"] == span["parent"]))
        .collect();
    if roots.len() != 1 || roots.iter().any(|root| root["service"] != "gateway") {
        wrong.push(format!("{} roots instead of the gateway's", roots.len()));
    }
    wrong
}

/// Each proxy's span says by what the call was allowed.
fn the_proxies_say_why(spans: &[Value]) -> Result<()> {
    for span in spans {
        let said = &span["attributes"];
        if said["ringwall.proxy"].is_null() {
            continue;
        }
        ensure!(
            said["ringwall.policy.decision"] == "allow"
                && said["ringwall.policy.reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.is_empty()),
            "no word about the decision: {span}"
        );
        let kind = match said["ringwall.proxy"].as_str() {
            Some("inbound") => "server",
            _ => "client",
        };
        ensure!(span["kind"] == kind, "another kind than {kind}: {span}");
        let named = span["name"].as_str().is_some_and(|name| {
            said["server.address"]
                .as_str()
                .is_some_and(|to| name.ends_with(to))
        });
        ensure!(named, "not named after the service that is asked: {span}");
    }
    let reserves = spans
        .iter()
        .any(|span| span["attributes"]["ringwall.policy.reason"] == "orders-reserves-stock");
    ensure!(
        reserves,
        "the policy by which inventory was asked is not named"
    );
    Ok(())
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
