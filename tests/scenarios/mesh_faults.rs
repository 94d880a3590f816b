//! A part of the mesh dies, or does not move, while customers order: what is allowed goes on as far as
//! it can, what is forbidden is never accepted meanwhile, and all comes back by itself.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::customers::{self, Ledger, Pace, Refused};
use e2e::mesh;
use e2e::oauth;
use e2e::operator;
use e2e::person::Person;
use e2e::stack::StackInfo;
use futures_util::future::try_join_all;
use http::Request;
use serde_json::json;

/// Orders before the fault and after the recovery, so that it meets some that are under way.
/// On a machine that is busy otherwise one of them may take seconds.
const LOAD: Duration = Duration::from_secs(5);
/// Longer than anything remembers an answer or an endpoint.
const AWAY: Duration = Duration::from_secs(8);
/// From recovery to the first order.
const AGAIN: Duration = Duration::from_secs(10);
/// Who was away may be called again this long after it is ready; from then on nothing fails. A breaker that has
/// opened at the end of the fault stays so for five seconds, and then probes.
const SETTLED: Duration = Duration::from_secs(7);
/// From the kill of anything to its health.
const BACK: Duration = Duration::from_secs(20);
/// Customers of each of the two users, who order at the same time: a process that dies takes as many requests
/// with it.
const EACH: usize = 3;
const CUSTOMERS: usize = 2 * EACH;
const PAUSE: Duration = Duration::from_millis(50);

/// What became of the customers meanwhile.
#[derive(Debug)]
struct Seen {
    acknowledged: usize,
    refused: usize,
    forbidden: usize,
    away: Duration,
}

/// Which requests may fail, all of them while the fault lasts.
#[derive(Clone, Copy)]
enum Lost {
    /// So many, which it had in hand.
    InHand(usize),
    /// Those that come until it is back and in use again.
    UntilBack,
}

/// R57: the control plane does not move for as long as anything could remember: the proxies go on
/// deciding by the last policy, for and against, and no order fails but at the proxy that is killed.
pub(super) async fn r57_without_a_control_plane_the_proxies_still_decide(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let fault = async {
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
    };
    through(&stack, Lost::InHand(CUSTOMERS), fault).await?;
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
    r61_the_control_plane_is_killed_under_load: "control-plane", Lost::InHand(0);
    r61_the_agent_is_killed_under_load: "agent", Lost::InHand(0);
    r61_the_egress_gateway_is_killed_under_load: "egress", Lost::InHand(0);
    r61_a_proxy_is_killed_under_load: "orders-proxy", Lost::InHand(CUSTOMERS);
    r61_a_proxy_of_callees_is_killed_under_load: "inventory-proxy", Lost::InHand(CUSTOMERS);
    r61_the_ingress_is_killed_under_load: "gateway", Lost::UntilBack;
    r61_the_database_is_killed_under_load: "postgres", Lost::UntilBack;
}

async fn is_killed(stack: &StackInfo, component: &str, lost: Lost) -> Result<()> {
    let fault = async {
        let before = stack.running(component)?.pid;
        stack.kill(component).await?;
        stack.recovered_as_another(component, before).await
    };
    let seen = through(stack, lost, fault)
        .await
        .with_context(|| format!("{component} is killed"))?;
    ensure!(seen.away < BACK, "{component} was away for {:?}", seen.away);
    Ok(())
}

/// A proxy's process is replaced under load, twice: no request fails.
pub(super) async fn r61_a_proxy_is_replaced_under_load_without_a_failed_request(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let fault = async {
        for component in ["orders", "inventory"] {
            let name = format!("{component}-proxy");
            let before = stack.running(&name)?.pid;
            operator::command(&stack, &["upgrade", component]).await?;
            let after = stack.running(&name)?.pid;
            ensure!(before != after, "{name} is the same process");
        }
        Ok(())
    };
    through(&stack, Lost::InHand(0), fault).await.map(drop)
}

/// Has customers order while `fault` happens, and somebody try what is forbidden all the time. What fails
/// must fail because of it: not before, not after, and not more than may.
async fn through(
    stack: &StackInfo,
    lost: Lost,
    fault: impl Future<Output = Result<()>>,
) -> Result<Seen> {
    let settling = match lost {
        Lost::InHand(_) => Duration::ZERO,
        Lost::UntilBack => SETTLED,
    };
    let done = Cell::new(false);
    let story = async {
        tokio::time::sleep(LOAD).await;
        let begun = Instant::now();
        let outcome = fault.await;
        let back = Instant::now();
        tokio::time::sleep(settling + LOAD).await;
        done.set(true);
        outcome.map(|()| (begun, back))
    };
    let pace = Pace::shared(EACH);
    let of = |user| {
        let orders = (0..EACH).map(|_| customers::order_until(stack, user, pace, &done));
        try_join_all(orders.collect::<Vec<_>>())
    };
    let (story, alice, bob, forbidden) = tokio::join!(
        story,
        of("alice"),
        of("bob"),
        try_what_is_forbidden(stack, &done),
    );
    let (begun, back) = story?;
    let ledgers = [Ledger::joined("alice", alice?), Ledger::joined("bob", bob?)];
    let seen = Seen {
        acknowledged: ledgers.iter().map(|one| one.acknowledged.len()).sum(),
        refused: ledgers.iter().map(|one| one.refused.len()).sum(),
        forbidden: forbidden?,
        away: back - begun,
    };
    eprintln!(
        "{} orders acknowledged, {} requests refused, {} forbidden ones tried; away for {:?}",
        seen.acknowledged, seen.refused, seen.forbidden, seen.away
    );
    judge(&ledgers, lost, begun, back + settling)?;
    ensure!(
        seen.forbidden > 0,
        "nobody has tried what is forbidden: {seen:?}"
    );
    let person = Person::signed_in(stack, "alice").await?;
    person.place_order_within(AGAIN).await?;
    for ledger in &ledgers {
        ledger.holds(stack).await?;
    }
    Ok(seen)
}

/// Before the fault and after it every customer's orders were placed; what was refused was under way
/// between the two.
fn judge(ledgers: &[Ledger], lost: Lost, begun: Instant, over: Instant) -> Result<()> {
    let acknowledged: Vec<Instant> = ledgers.iter().flat_map(|one| one.at.clone()).collect();
    let before = acknowledged.iter().filter(|at| **at < begun).count();
    let after = acknowledged.iter().filter(|at| **at > over).count();
    ensure!(
        before >= CUSTOMERS && after >= CUSTOMERS,
        "{before} orders before and {after} after the fault are no load of {CUSTOMERS}"
    );
    let refused = ledgers.iter().flat_map(|one| &one.refused);
    let refused: Vec<&Refused> = refused.collect();
    for one in &refused {
        let (asked, answered) = (one.asked, one.answered);
        ensure!(answered > begun, "before the fault: {}", one.what);
        ensure!(
            asked < over,
            "{:?} after it was over: {}",
            asked - over,
            one.what
        );
    }
    if let Lost::InHand(most) = lost {
        let what = refused.iter().map(|one| one.what.as_str());
        let what: Vec<&str> = what.collect();
        ensure!(
            refused.len() <= most,
            "{} requests failed, and {most} may: {what:?}",
            refused.len()
        );
    }
    Ok(())
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
