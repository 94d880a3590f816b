//! The main job: an order through the whole platform.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::person::Person;
use e2e::stack::StackInfo;
use reqwest::Method;

/// How long a confirmation may take from the order to the customer's list of notifications.
const CONFIRMATION: Duration = Duration::from_secs(10);

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
