//! A part of the mesh dies, or does not move, while customers order: what is allowed goes on as far as
//! it can, what is forbidden is never accepted meanwhile, and all comes back by itself.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::customers::{self, Ledger};
use e2e::mesh;
use e2e::oauth;
use e2e::operator;
use e2e::person::Person;
use e2e::stack::StackInfo;
use http::Request;
use serde_json::json;

/// Orders before the fault and after the recovery, so that it meets some that are under way.
const LOAD: Duration = Duration::from_millis(1_500);
/// Longer than anything remembers an answer or an endpoint.
const AWAY: Duration = Duration::from_secs(8);
/// From recovery to the first order.
const AGAIN: Duration = Duration::from_secs(10);
/// Customers who order at the same time: a process that dies takes as many requests with it.
const CUSTOMERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(50);

/// What became of the customers meanwhile.
#[derive(Debug)]
struct Seen {
    acknowledged: usize,
    refused: usize,
    forbidden: usize,
}

/// R57: the control plane does not move for as long as anything could remember: the proxies go on
/// deciding by the last policy, for and against, and no order fails.
pub(super) async fn r57_without_a_control_plane_the_proxies_still_decide(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let seen = through(&stack, async {
        let frozen = stack.freeze("control-plane").await?;
        let away = async {
            tokio::time::sleep(AWAY).await;
            // A proxy that starts while nobody can tell it anything has its last good state.
            let before = stack.running("inventory-proxy")?.pid;
            stack.kill("inventory-proxy").await?;
            stack.recovered_as_another("inventory-proxy", before).await
        };
        let outcome = away.await;
        frozen.thaw().await?;
        outcome
    })
    .await?;
    ensure!(
        seen.refused <= CUSTOMERS,
        "{} requests failed, and only those at the killed proxy may",
        seen.refused
    );
    stack.recovered("control-plane").await.map(drop)
}

macro_rules! killed {
    ($($name:ident: $component:literal, $lost:expr;)+) => {
        $(pub(super) async fn $name(stack: Arc<StackInfo>) -> Result<()> {
            is_killed(&stack, $component, $lost).await
        })+
    };
}

// The last column: requests that may fail. The data path does not need control plane and agent; the sockets
// of a proxy outlive it, so that only what it had in hand is lost; others are away until they are back.
killed! {
    r61_the_control_plane_is_killed_under_load: "control-plane", 0;
    r61_the_agent_is_killed_under_load: "agent", 0;
    r61_the_egress_gateway_is_killed_under_load: "egress", 0;
    r61_a_proxy_is_killed_under_load: "orders-proxy", CUSTOMERS;
    r61_a_proxy_of_callees_is_killed_under_load: "inventory-proxy", CUSTOMERS;
    r61_the_ingress_is_killed_under_load: "gateway", usize::MAX;
    r61_the_database_is_killed_under_load: "postgres", usize::MAX;
}

async fn is_killed(stack: &StackInfo, component: &str, lost: usize) -> Result<()> {
    let seen = through(stack, async {
        let before = stack.running(component)?.pid;
        stack.kill(component).await?;
        stack.recovered_as_another(component, before).await
    })
    .await
    .with_context(|| format!("{component} is killed"))?;
    ensure!(
        seen.refused <= lost,
        "{component}: {} requests failed, and {lost} may",
        seen.refused
    );
    Ok(())
}

/// A proxy's process is replaced under load, twice: no request fails.
pub(super) async fn r61_a_proxy_is_replaced_under_load_without_a_failed_request(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let seen = through(&stack, async {
        for component in ["orders", "inventory"] {
            let name = format!("{component}-proxy");
            let before = stack.running(&name)?.pid;
            operator::command(&stack, &["upgrade", component]).await?;
            let after = stack.running(&name)?.pid;
            ensure!(before != after, "{name} is the same process");
        }
        Ok(())
    })
    .await?;
    ensure!(seen.refused == 0, "{} requests failed", seen.refused);
    Ok(())
}

/// Has customers order while `fault` happens, and somebody try what is forbidden all the time.
async fn through(stack: &StackInfo, fault: impl Future<Output = Result<()>>) -> Result<Seen> {
    let done = Cell::new(false);
    let story = async {
        tokio::time::sleep(LOAD).await;
        let outcome = fault.await;
        tokio::time::sleep(LOAD).await;
        done.set(true);
        outcome
    };
    let (story, alice, bob, forbidden) = tokio::join!(
        story,
        customers::order_until(stack, "alice", &done),
        customers::order_until(stack, "bob", &done),
        try_what_is_forbidden(stack, &done),
    );
    story?;
    let (alice, bob): (Ledger, Ledger) = (alice?, bob?);
    let seen = Seen {
        acknowledged: alice.acknowledged.len() + bob.acknowledged.len(),
        refused: alice.refused + bob.refused,
        forbidden: forbidden?,
    };
    ensure!(seen.acknowledged > 2, "there was no load: {seen:?}");
    ensure!(seen.forbidden > 0, "nothing forbidden was tried: {seen:?}");
    let person = Person::signed_in(stack, "alice").await?;
    person.place_order_within(AGAIN).await?;
    for ledger in [&alice, &bob] {
        ledger.holds(stack).await?;
    }
    eprintln!("{seen:?}");
    Ok(seen)
}

/// Undeclared edges, requests that no policy allows, a user without the role, a dial past the proxy: each
/// may fail in any way, and never pass. How many were tried.
async fn try_what_is_forbidden(stack: &StackInfo, done: &Cell<bool>) -> Result<usize> {
    let begun = Instant::now();
    let token = oauth::tokens(stack, "mallory").await?.access;
    let past = loopback(stack, "inventory")?;
    let key = stack.secret("orders", "api-key-inventory")?;
    let client = e2e::edge::client(stack)?;
    let order = json!({ "lines": [{ "sku": "any", "quantity": 1 }] });
    let mut tried = 0;
    while !done.get() {
        let request = Request::get("/v1/items").header("x-api-key", &key);
        let undeclared =
            mesh::call_as(stack, "payments", "inventory", request.body(Bytes::new())?).await;
        ensure!(
            undeclared.is_err(),
            "payments has reached inventory after {:?}: {undeclared:?}",
            begun.elapsed()
        );
        let request = Request::put("/v1/items").header("x-api-key", &key);
        let request = request.body(Bytes::new())?;
        let unpermitted = mesh::call_as(stack, "orders", "inventory", request).await;
        let passed = |status: http::StatusCode| status.is_success() || status.as_u16() == 405;
        ensure!(
            !unpermitted
                .as_ref()
                .is_ok_and(|answer| passed(answer.status)),
            "a request that no policy allows has come through: {unpermitted:?}"
        );
        let url = stack.api_url().join("/v1/orders")?;
        let asked = client.post(url).bearer_auth(&token).json(&order);
        let status = asked.send().await.map(|answer| answer.status());
        ensure!(
            !status.as_ref().is_ok_and(reqwest::StatusCode::is_success),
            "mallory has ordered: {status:?}"
        );
        let knock = reqwest::Client::builder().no_proxy().build()?;
        let knock = knock
            .get(format!("http://{past}/v1/items"))
            .header(
                "x-forwarded-client-cert",
                "URI=spiffe://ringwall.local/orders",
            )
            .header("x-api-key", &key);
        let status = knock.send().await.map(|answer| answer.status());
        ensure!(
            !status.as_ref().is_ok_and(reqwest::StatusCode::is_success),
            "a dial past the proxy was answered: {status:?}"
        );
        tried += 4;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(tried)
}

/// Where a component takes its proxy's requests.
fn loopback(stack: &StackInfo, component: &str) -> Result<SocketAddr> {
    let file = stack.state_dir.join(format!("config/{component}.yaml"));
    let value: serde_json::Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
    let listen = value["service"]["listen"].as_str().context("no address")?;
    Ok(listen.parse()?)
}
