//! The control plane's cables are pulled while customers order. Its process runs on, and both sides have to
//! find out by themselves that they do not hear each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::mesh;
use e2e::operator;
use e2e::person::Person;
use e2e::stack::StackInfo;
use http::{Request, StatusCode};
use serde_json::json;

/// Longer than the lease of an endpoint whose stream is lost, the long one too.
const CUT_OFF: Duration = Duration::from_secs(40);
/// Until every proxy has noticed: two intervals of its keep-alive, and more for a busy machine.
const NOTICED: Duration = Duration::from_secs(30);
/// From the cables back in place to the same configuration everywhere: the longest pause between two attempts,
/// the time in which others are waited for, and the machine.
const CONVERGED: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// What a proxy says of the control plane: whether it hears it, the policy's version, the configuration's revision.
type Known = (bool, u64, u64);

/// R57: no order fails while the control plane is cut off, not even after a proxy was started again, which
/// decides from its last good state. Back, it changes the policy, and every proxy has what all have.
pub(super) async fn r57_a_control_plane_that_is_cut_off_converges(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    let proxies = proxies(&stack)?;
    ensure!(proxies.len() > 5, "only {proxies:?}");
    let before = until(&stack, &proxies, AGAIN, agree)
        .await
        .context("before")?;
    let cables = stack.disconnect("control-plane").await?;
    let outcome = cut_off(&stack, &proxies, &alice).await;
    stack.connect(cables).await?;
    let placed = outcome?;
    stack.recovered("control-plane").await?;
    let after = until(&stack, &proxies, CONVERGED, agree).await;
    let after = after.context("after the partition")?;
    alice.place_order_within(AGAIN).await?;
    // What is decided now reaches all of them.
    let (version, bundle) = operator::policy(&stack).await?;
    let mut changed = bundle.clone();
    changed["policies"]["closed"] =
        json!("@id(\"nobody-puts\")\nforbid (principal, action == Action::\"PUT\", resource);");
    let answer = operator::apply(&stack, version, &changed).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    let newer = |known: &BTreeMap<String, Known>| {
        agree(known) && known.values().all(|(_, policy, _)| *policy > version)
    };
    let reached = until(&stack, &proxies, AGAIN, newer).await;
    operator::roll_back(&stack, version + 1, version).await?;
    reached.context("a change after the partition")?;
    eprintln!("{placed} orders while cut off; {before:?}, then {after:?}");
    Ok(())
}

/// Orders without a pause; every one of them must be placed.
async fn cut_off(stack: &StackInfo, proxies: &[String], alice: &Person) -> Result<usize> {
    let begun = Instant::now();
    let ordering = async {
        let mut placed = 0;
        while begun.elapsed() < CUT_OFF {
            let order = alice.place_order().await;
            let order = order.with_context(|| format!("after {:?}", begun.elapsed()))?;
            ensure!(order["status"] == "placed", "the order is {order}");
            placed += 1;
            tokio::time::sleep(PAUSE).await;
        }
        anyhow::Ok(placed)
    };
    let deaf = |known: &BTreeMap<String, Known>| known.values().all(|(hears, ..)| !hears);
    let noticing = until(stack, proxies, NOTICED, deaf);
    let (placed, noticed) = tokio::join!(ordering, noticing);
    noticed.context("who notices that it is cut off")?;
    let before = stack.running("inventory-proxy")?.pid;
    stack.kill("inventory-proxy").await?;
    stack
        .recovered_as_another("inventory-proxy", before)
        .await?;
    alice
        .place_order_within(AGAIN)
        .await
        .context("with a proxy that has only its last good state")?;
    placed
}

/// Every service proxy that runs.
fn proxies(stack: &StackInfo) -> Result<Vec<String>> {
    let components = stack.components()?;
    let proxies = components.iter().filter(|one| one.name != one.identity);
    let proxies = proxies.filter(|one| !one.identity.contains('/'));
    Ok(proxies.map(|one| one.name.clone()).collect())
}

/// All hear the control plane and decide by the same policy. Revisions differ: each is told what concerns it.
fn agree(known: &BTreeMap<String, Known>) -> bool {
    let policies: BTreeSet<u64> = known.values().map(|(_, policy, _)| *policy).collect();
    known.values().all(|(hears, ..)| *hears) && policies.len() == 1
}

/// Asks all proxies again and again until `wanted` holds for what they know.
async fn until(
    stack: &StackInfo,
    proxies: &[String],
    limit: Duration,
    wanted: impl Fn(&BTreeMap<String, Known>) -> bool,
) -> Result<BTreeMap<String, Known>> {
    let begun = Instant::now();
    loop {
        let mut known = BTreeMap::new();
        for proxy in proxies {
            known.insert(proxy.clone(), asked(stack, proxy).await?);
        }
        if wanted(&known) {
            return Ok(known);
        }
        ensure!(begun.elapsed() < limit, "not within {limit:?}: {known:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn asked(stack: &StackInfo, proxy: &str) -> Result<Known> {
    let request = Request::get("/metrics").body(Bytes::new())?;
    let answer = mesh::admin_call(stack, "ringwall", proxy, request).await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let number = |name: &str| -> Result<u64> {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.with_context(|| format!("{proxy} exports no {name}"))?;
        Ok(value.trim().parse()?)
    };
    Ok((
        number("mesh_control_connected")? == 1,
        number("mesh_policy_version")?,
        number("mesh_config_revision")?,
    ))
}
