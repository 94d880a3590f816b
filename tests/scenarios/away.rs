//! R61: each component goes away in four ways while customers order without a pause. What works
//! meanwhile is what docs/operate.md says, it comes back by itself, and nothing that was
//! acknowledged is lost.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::customers::{self, Pace};
use e2e::person::Person;
use e2e::stack::{Cables, Frozen, StackInfo};
use reqwest::{Method, StatusCode};

/// "What happens when something is away" of docs/operate.md: placing an order, the history, sign-in.
const DECLARED: [(&str, [Effect; 3]); 13] = [
    ("agent", [WORKS, WORKS, WORKS]),
    ("authz-server", [REFUSED, REFUSED, REFUSED]),
    ("control-plane", [WORKS, WORKS, WORKS]),
    ("gateway", [UNREACHABLE, UNREACHABLE, UNREACHABLE]),
    ("inventory", [REFUSED, WORKS, WORKS]),
    ("notifications", [WORKS, WORKS, WORKS]),
    ("orders", [REFUSED, REFUSED, WORKS]),
    ("orders-proxy", [REFUSED, REFUSED, WORKS]),
    ("payments", [REFUSED, WORKS, WORKS]),
    ("postgres", [REFUSED, REFUSED, WORKS]),
    ("provisioner", [WORKS, WORKS, WORKS]),
    ("spa-proxy", [REFUSED, REFUSED, REFUSED]),
    ("tokenizer", [REFUSED, WORKS, WORKS]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Works,
    /// 503, and 502 or 504 where a connection or an answer failed: never another error, and never
    /// a success.
    Refused,
    /// No answer at all.
    Unreachable,
}

const WORKS: Effect = Effect::Works;
const REFUSED: Effect = Effect::Refused;
const UNREACHABLE: Effect = Effect::Unreachable;

/// Ways to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Stop,
    Pause,
    Disconnect,
    /// It is started again at once, so there is no time in which it is away.
    Kill,
}

const FAULTS: [Fault; 4] = [Fault::Stop, Fault::Pause, Fault::Disconnect, Fault::Kill];

/// How to undo one.
enum Undo {
    Start,
    Thaw(Frozen),
    Connect(Cables),
    Nothing(i32),
}

/// Orders before and after, so that the fault meets some that are under way.
const LOAD: Duration = Duration::from_millis(800);
/// How long an answer may be remembered: introspection, by spa-proxy.
const REMEMBERED: Duration = Duration::from_millis(1_200);
/// Past the longest limit on the way: the gateway gives a route 15 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing must come back where nothing can.
const SILENCE: Duration = Duration::from_secs(3);
/// How long it may take from recovery to the first order.
const ORDERS_AGAIN: Duration = Duration::from_secs(20);

macro_rules! away {
    ($($name:ident: $component:literal),+ $(,)?) => {
        $(pub(super) async fn $name(stack: Arc<StackInfo>) -> Result<()> {
            is_away(&stack, $component).await
        })+
    };
}

away! {
    r61_agent_is_away: "agent",
    r61_authz_server_is_away: "authz-server",
    r61_control_plane_is_away: "control-plane",
    r61_gateway_is_away: "gateway",
    r61_inventory_is_away: "inventory",
    r61_notifications_is_away: "notifications",
    r61_orders_is_away: "orders",
    r61_orders_proxy_is_away: "orders-proxy",
    r61_payments_is_away: "payments",
    r61_postgres_is_away: "postgres",
    r61_provisioner_is_away: "provisioner",
    r61_spa_proxy_is_away: "spa-proxy",
    r61_tokenizer_is_away: "tokenizer",
}

async fn is_away(stack: &StackInfo, component: &str) -> Result<()> {
    let declared = DECLARED.iter().find(|(name, _)| *name == component);
    let (_, effects) = declared.context("docs/operate.md does not say what happens")?;
    for fault in FAULTS {
        let started = Instant::now();
        let done = Cell::new(false);
        let (story, alice, bob) = tokio::join!(
            async {
                let outcome = story(stack, component, fault, *effects).await;
                done.set(true);
                outcome
            },
            customers::order_until(stack, "alice", Pace::ALONE, &done),
            customers::order_until(stack, "bob", Pace::ALONE, &done),
        );
        let told = format!("{component}, {fault:?}");
        story.with_context(|| told.clone())?;
        let (alice, bob) = (alice.context(told.clone())?, bob.context(told.clone())?);
        let acknowledged = alice.acknowledged.len() + bob.acknowledged.len();
        ensure!(acknowledged > 0, "{told}: there was no load");
        for ledger in [&alice, &bob] {
            ledger.holds(stack).await.with_context(|| told.clone())?;
        }
        eprintln!(
            "{told}: {acknowledged} orders acknowledged, {} requests refused, {:.1} s",
            alice.refused.len() + bob.refused.len(),
            started.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// It goes, the declared degradation holds, it comes back, and orders are placed again.
async fn story(
    stack: &StackInfo,
    component: &str,
    fault: Fault,
    effects: [Effect; 3],
) -> Result<()> {
    // Another person than the two customers, so that the limits per user are not shared.
    let watcher = Person::signed_in(stack, "alice").await?;
    tokio::time::sleep(LOAD).await;
    let undo = match fault {
        Fault::Stop => {
            stack.stop(component).await?;
            Undo::Start
        }
        Fault::Pause => Undo::Thaw(stack.freeze(component).await?),
        Fault::Disconnect => Undo::Connect(stack.disconnect(component).await?),
        Fault::Kill => {
            let before = process(stack, component)?;
            stack.kill(component).await?;
            Undo::Nothing(before)
        }
    };
    let degraded = match fault {
        Fault::Kill => Ok(()),
        _ => degrades(stack, &watcher, effects).await,
    };
    match undo {
        Undo::Start => stack.start(component).await?,
        Undo::Thaw(frozen) => frozen.thaw().await?,
        Undo::Connect(cables) => stack.connect(cables).await?,
        Undo::Nothing(before) => started_again(stack, component, before).await?,
    }
    stack.recovered(component).await?;
    degraded?;
    orders_again(stack).await?;
    tokio::time::sleep(LOAD).await;
    Ok(())
}

/// The three things that people do, at the same time.
async fn degrades(stack: &StackInfo, watcher: &Person, effects: [Effect; 3]) -> Result<()> {
    tokio::time::sleep(REMEMBERED).await;
    let placing = async {
        let key = uuid::Uuid::new_v4().to_string();
        let sku = "chocolate-sea-salt";
        watcher.order(sku, &key).await.map(|(status, _)| status)
    };
    let history = async {
        let answer = watcher.api(Method::GET, "/api/orders", None).await;
        answer.map(|answer| answer.status())
    };
    let patience = if effects == [UNREACHABLE; 3] {
        SILENCE
    } else {
        PATIENCE
    };
    let (placing, history, sign_in) = tokio::join!(
        tokio::time::timeout(patience, placing),
        tokio::time::timeout(patience, history),
        tokio::time::timeout(patience, sign_in(stack)),
    );
    let found = [
        ("placing an order", placing),
        ("the history", history),
        ("sign-in", sign_in),
    ];
    for ((what, found), declared) in found.into_iter().zip(effects) {
        let found = found.unwrap_or_else(|_| bail!("no answer within {patience:?}"));
        let effect = match &found {
            Ok(status) if status.is_success() => Effect::Works,
            Ok(
                StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::BAD_GATEWAY
                | StatusCode::GATEWAY_TIMEOUT,
            ) => Effect::Refused,
            Ok(status) => bail!("{what} answers {status}"),
            Err(_) => Effect::Unreachable,
        };
        let found = found.map_or_else(|error| format!("{error:#}"), |status| status.to_string());
        ensure!(
            effect == declared,
            "{what}: declared {declared:?}, found {found}"
        );
    }
    Ok(())
}

/// The status at which an attempt to sign in ends; 503 when it ends without a session.
async fn sign_in(stack: &StackInfo) -> Result<StatusCode> {
    let mut person = Person::new(stack)?;
    let start = stack.app_url().join("/auth/login")?;
    let (url, page) = person.browse(Method::GET, start, None).await?;
    if !page.status().is_success() {
        return Ok(page.status());
    }
    let password = stack.password("bob")?;
    let (_, page) = person.authenticate(url, page, "bob", &password).await?;
    // The application's page says in words that nobody could be asked.
    let refused = page.status().is_success() && person.session_cookie().is_err();
    Ok(if refused {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        page.status()
    })
}

/// Waits until somebody who comes now can order.
async fn orders_again(stack: &StackInfo) -> Result<()> {
    let started = Instant::now();
    loop {
        let outcome = async { Person::signed_in(stack, "bob").await?.place_order().await };
        match outcome.await {
            Ok(order) if order["status"] == "placed" => return Ok(()),
            Ok(order) => bail!("the first order afterwards is {order}"),
            Err(error) if started.elapsed() > ORDERS_AGAIN => {
                return Err(error.context(format!("no order after {ORDERS_AGAIN:?}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn process(stack: &StackInfo, service: &str) -> Result<i32> {
    stack.containers()?.process(service)
}

/// The engine starts what died, as another process.
async fn started_again(stack: &StackInfo, service: &str, before: i32) -> Result<()> {
    let started = Instant::now();
    while [0, before].contains(&process(stack, service)?) {
        ensure!(started.elapsed() < ORDERS_AGAIN, "it was not started again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
