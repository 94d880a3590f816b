//! The life of the containers as a whole: any order of restarts, a stop and a start of everything,
//! `down` with and without its volumes.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::customers::Ledger;
use e2e::options;
use e2e::person::Person;
use e2e::stack::containers::Site;
use e2e::stack::declared::Declared;
use e2e::stack::{StackInfo, cleanup, engine};

/// R61: all are restarted in an order that nobody chose, without a pause between them.
pub(super) async fn r61_restarted_in_any_order_all_come_back(stack: Arc<StackInfo>) -> Result<()> {
    let site = stack.containers()?;
    let before = an_order(&stack).await?;
    let seed = options::seed().unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
    let order = shuffled(&site.services, seed);
    // Printed before, so that a run that hangs can be repeated too.
    eprintln!("RINGWALL_E2E_SEED={seed}: restarting {}", order.join(", "));
    for service in &order {
        stack.restart(service).await?;
    }
    all_is_well(&stack, site, &before)
        .await
        .with_context(|| format!("RINGWALL_E2E_SEED={seed}: {order:?}"))
}

/// R61: everything is stopped, and started one by one with those first that need the most: nothing
/// waits for anything but by its own patience, and what was delivered in memory is gone. Only a network
/// must be there before somebody stands in it: the engine refuses else.
pub(super) async fn r61_stopped_and_started_backwards_all_come_back(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let site = stack.containers()?;
    let before = an_order(&stack).await?;
    let mut components = Declared::read()?.in_order_of_need();
    components.reverse();
    components.retain(|name| site.services.contains(name));
    let pods = site.services.iter().filter(|name| site.is_pod(name));
    // Proxies, and the provisioner, which all of them need, come last.
    let known = |name: &&String| components.contains(name) || site.is_pod(name);
    let others = site.services.iter().filter(|name| !known(name));
    let order: Vec<String> = pods.chain(&components).chain(others).cloned().collect();
    let containers: Vec<String> = order.iter().map(|name| site.container(name)).collect();
    let mut stop = vec!["stop"];
    stop.extend(containers.iter().map(String::as_str));
    engine::docker_async(&stop).await?;
    for service in &order {
        stack.start(service).await?;
    }
    all_is_well(&stack, site, &before)
        .await
        .with_context(|| format!("started in the order {order:?}"))
}

/// R61: `down` keeps what lasts (the orders, the authority) and `down -v` leaves nothing.
pub(super) async fn r61_down_keeps_data_and_down_v_leaves_nothing(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let site = stack.containers()?;
    let before = an_order(&stack).await?;
    let authority = std::fs::read(stack.ca_bundle())?;
    let password = stack.password("alice")?;
    site.compose(&["down"])?;
    let left = cleanup::left_of(&site.project)?;
    ensure!(
        !left.is_empty() && left.iter().all(|one| one.starts_with("volume ")),
        "`down` leaves {left:?}"
    );
    let started = Instant::now();
    site.compose(&["up", "--detach"])?;
    site.wait_healthy(started)?;
    stack.refresh()?;
    ensure!(
        std::fs::read(stack.ca_bundle())? == authority,
        "another authority after a second start"
    );
    let alice = Person::signed_in(&stack, "alice").await;
    alice.with_context(|| format!("with her password of {} letters", password.len()))?;
    all_is_well(&stack, site, &before).await?;
    site.compose(&["down", "--volumes"])?;
    let left = cleanup::left_of(&site.project)?;
    ensure!(left.is_empty(), "`down -v` leaves {left:?}");
    Ok(())
}

/// An order of Alice's, confirmed, with all that is proven of it.
async fn an_order(stack: &StackInfo) -> Result<Ledger> {
    let alice = Person::signed_in(stack, "alice").await?;
    let order = alice.place_order().await?;
    let id = order["id"].as_str().context("the order has no id")?;
    let ledger = Ledger::of("alice", vec![id.to_owned()]);
    ledger.holds(stack).await?;
    Ok(ledger)
}

/// All containers are healthy, what was acknowledged before is there, and a new order is placed.
async fn all_is_well(stack: &StackInfo, site: &Site, before: &Ledger) -> Result<()> {
    let (site, started) = (site.clone(), Instant::now());
    tokio::task::spawn_blocking(move || site.wait_healthy(started)).await??;
    stack.refresh()?;
    for component in stack.components()? {
        stack.recovered(&component.name).await?;
    }
    before.holds(stack).await.context("what stood before")?;
    an_order(stack).await.context("a new order")?;
    Ok(())
}

/// Fisher and Yates with a linear congruential generator: enough for an order to repeat.
fn shuffled(names: &[String], seed: u64) -> Vec<String> {
    let mut names = names.to_vec();
    let mut state = seed;
    for last in (1..names.len()).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let choice = usize::try_from(state >> 33).unwrap_or(0) % (last + 1);
        names.swap(last, choice);
    }
    names
}
