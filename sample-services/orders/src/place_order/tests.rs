//! Orders from begin to end against a real PostgreSQL, with neighbours that misbehave on demand.

use std::time::Duration;

use ringwall_identity::SpiffeId;
use ringwall_proto::events::{CloudEvent, JWS_TYPE, OrderPlaced};
use ringwall_store::{EventLog, LogLimits, Offset};
use ringwall_token::{Algorithm, SigningKey, VerifyingKeys, verify_bytes};

use super::*;
use crate::config::{RecoveryConfig, RelayConfig};
use crate::events::Events;
use crate::recovery::Recovery;
use crate::relay::Relay;
use crate::testing::{PaymentMode, Rig, placement, users_token};

const TOPIC: &str = "order.placed";

/// Orders are given up at once, so that no test waits.
fn recovery(rig: &Rig) -> Recovery {
    let config = RecoveryConfig {
        give_up_after: Duration::ZERO,
        every: Duration::from_secs(1),
    };
    Recovery::new(rig.shop.clone(), config)
}

fn relay(rig: &Rig) -> (Relay, EventLog, Events) {
    let log = EventLog::open(rig.state.path().join("events.db"), LogLimits::default()).unwrap();
    let source = SpiffeId::parse("spiffe://ringwall.local/orders").unwrap();
    let events = Events::new(SigningKey::generate(Algorithm::Es256).unwrap(), source);
    let (store, wake) = (rig.shop.store.clone(), Arc::clone(&rig.shop.outbox));
    let config = RelayConfig {
        poll: Duration::from_secs(1),
    };
    (
        Relay::new(store, log.clone(), events.clone(), wake, config),
        log,
        events,
    )
}

async fn place(rig: &Rig, key: &str) -> Result<Placed, OrderError> {
    let wanted = placement("alice", key, &[("mug-stoneware", 2), ("tea-assam-250", 1)]);
    place_order(&rig.shop, wanted, &users_token()).await
}

/// The only order of alice.
async fn only_order(rig: &Rig) -> Order {
    let alice = placement("alice", "k", &[("mug-stoneware", 1)]).user;
    let mut orders = rig.shop.store.history(&alice, None, 10).await.unwrap();
    assert_eq!(orders.len(), 1);
    orders.remove(0)
}

#[tokio::test]
async fn r16_a_placed_order_is_paid_and_its_signed_event_is_in_the_log_once() {
    let rig = Rig::new().await;
    let Placed::Now(order) = place(&rig, "k1").await.unwrap() else {
        panic!("it is new")
    };
    assert_eq!(order.status, OrderStatus::Placed);
    assert_eq!(order.total_minor.get(), 2 * 1850 + 1290);
    rig.neighbours.with(|seen| {
        assert_eq!(seen.payments.len(), 1);
        assert!(seen.reserved.contains(&order.id) && seen.released.is_empty());
    });

    let (relay, log, events) = relay(&rig);
    let waiting = rig.shop.store.outbox(10).await.unwrap();
    assert_eq!(waiting.len(), 1);
    // The log took it, and the process was killed before the outbox knew: it is sent again.
    let id = waiting[0].event_id.to_string();
    log.append(TOPIC, &id, b"the first attempt".to_vec())
        .await
        .unwrap();
    relay.empty_outbox().await.unwrap();
    assert_eq!(log.read(TOPIC, Offset(0), 10).await.unwrap().len(), 1);
    assert!(rig.shop.store.outbox(10).await.unwrap().is_empty());

    place(&rig, "k2").await.unwrap();
    relay.empty_outbox().await.unwrap();
    let logged = log.read(TOPIC, Offset(0), 10).await.unwrap();
    let jws = String::from_utf8(logged[1].payload.clone()).unwrap();
    let keys = VerifyingKeys::from_jwks(&events.public_keys()).unwrap();
    let verified = verify_bytes(&jws, &keys, JWS_TYPE, 64 * 1024).unwrap();
    let event: CloudEvent<OrderPlaced> = serde_json::from_slice(&verified.payload).unwrap();
    assert_eq!(event.source.as_str(), "spiffe://ringwall.local/orders");
    assert_eq!(event.data.user_sub.as_str(), "alice");
    assert_eq!(event.id.to_string(), logged[1].id);
}

#[tokio::test]
async fn the_same_key_is_the_same_order_and_another_body_is_refused() {
    let rig = Rig::new().await;
    let Placed::Now(first) = place(&rig, "k1").await.unwrap() else {
        panic!("it is new")
    };
    // A repetition works even while inventory is away.
    rig.neighbours.with(|seen| seen.inventory_away = true);
    let Placed::Before(again) = place(&rig, "k1").await.unwrap() else {
        panic!("it is old")
    };
    assert_eq!(first, again);
    rig.neighbours.with(|seen| assert_eq!(seen.attempts, 1));

    let other = placement("alice", "k1", &[("mug-stoneware", 3)]);
    let error = place_order(&rig.shop, other, &users_token())
        .await
        .unwrap_err();
    assert!(matches!(error, OrderError::IdempotencyKeyReused));
    // Another user's key of the same text is another key.
    rig.neighbours.with(|seen| seen.inventory_away = false);
    let bob = placement("bob", "k1", &[("mug-stoneware", 3)]);
    let bobs = place_order(&rig.shop, bob, &users_token()).await.unwrap();
    assert!(matches!(bobs, Placed::Now(_)));
}

#[tokio::test]
async fn parallel_requests_under_one_key_charge_once() {
    let rig = Rig::new().await;
    let rig = Arc::new(rig);
    let requests: Vec<_> = (0..8)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { matches!(place(&rig, "k1").await, Ok(Placed::Now(_))) })
        })
        .collect();
    let mut new = 0;
    for request in requests {
        new += usize::from(request.await.unwrap());
    }
    assert_eq!(new, 1);
    rig.neighbours
        .with(|seen| assert_eq!((seen.attempts, seen.payments.len()), (1, 1)));
}

#[tokio::test]
async fn r61_a_declined_payment_gives_the_stock_back_and_charges_nothing() {
    let rig = Rig::new().await;
    rig.neighbours
        .with(|seen| seen.payment_mode = PaymentMode::Decline);
    assert!(matches!(
        place(&rig, "k1").await.unwrap_err(),
        OrderError::PaymentDeclined
    ));
    let order = only_order(&rig).await;
    assert_eq!(order.status, OrderStatus::Declined);
    rig.neighbours.with(|seen| {
        assert!(seen.released.contains(&order.id));
        assert!(seen.payments.is_empty());
    });
    // The same key shows what became of it.
    let Placed::Before(again) = place(&rig, "k1").await.unwrap() else {
        panic!("it is old")
    };
    assert_eq!(again.status, OrderStatus::Declined);
}

#[tokio::test]
async fn r61_sold_out_items_decline_the_order_before_any_payment() {
    let rig = Rig::new().await;
    rig.neighbours.with(|seen| seen.sold_out = true);
    assert!(matches!(
        place(&rig, "k1").await.unwrap_err(),
        OrderError::OutOfStock
    ));
    assert_eq!(only_order(&rig).await.status, OrderStatus::Declined);
    rig.neighbours
        .with(|seen| assert_eq!((seen.attempts, seen.source_tokens), (0, 0)));
}

#[tokio::test]
async fn r61_payments_that_say_no_service_fail_the_order_and_release_its_stock() {
    let rig = Rig::new().await;
    rig.neighbours
        .with(|seen| seen.payment_mode = PaymentMode::Unavailable);
    assert!(matches!(
        place(&rig, "k1").await.unwrap_err(),
        OrderError::Payments(_)
    ));
    let order = only_order(&rig).await;
    assert_eq!(order.status, OrderStatus::Failed);
    rig.neighbours
        .with(|seen| assert!(seen.released.contains(&order.id)));
}

#[tokio::test]
async fn r61_inventory_away_refuses_new_orders_while_the_history_works() {
    let rig = Rig::new().await;
    place(&rig, "k1").await.unwrap();
    rig.neighbours.with(|seen| seen.inventory_away = true);
    assert!(matches!(
        place(&rig, "k2").await.unwrap_err(),
        OrderError::Inventory(_)
    ));
    assert_eq!(only_order(&rig).await.status, OrderStatus::Placed);
}

#[tokio::test]
async fn r61_a_lost_answer_leaves_the_order_pending_and_recovery_finishes_it() {
    let rig = Rig::new().await;
    rig.neighbours
        .with(|seen| seen.payment_mode = PaymentMode::CaptureAndLoseTheAnswer);
    let Placed::Now(order) = place(&rig, "k1").await.unwrap() else {
        panic!("it is new")
    };
    assert_eq!(order.status, OrderStatus::Pending);
    rig.neighbours.with(|seen| {
        assert_eq!(
            (seen.attempts, seen.payments.len()),
            (2, 1),
            "asked twice, charged once"
        );
        assert!(
            seen.released.is_empty(),
            "stock of an order that may be paid is kept"
        );
    });

    recovery(&rig).round(Duration::ZERO).await.unwrap();
    assert_eq!(only_order(&rig).await.status, OrderStatus::Placed);
    assert_eq!(
        rig.shop.store.outbox(10).await.unwrap().len(),
        1,
        "its event is sent too"
    );
}

#[tokio::test]
async fn r61_recovery_gives_up_what_was_never_captured_but_not_before_its_time() {
    let rig = Rig::new().await;
    rig.neighbours
        .with(|seen| seen.payment_mode = PaymentMode::LoseTheRequest);
    let Placed::Now(order) = place(&rig, "k1").await.unwrap() else {
        panic!("it is new")
    };
    assert_eq!(order.status, OrderStatus::Pending);

    let patient = Recovery::new(rig.shop.clone(), RecoveryConfig::default());
    patient.round(Duration::ZERO).await.unwrap();
    assert_eq!(only_order(&rig).await.status, OrderStatus::Pending);

    recovery(&rig).round(Duration::ZERO).await.unwrap();
    assert_eq!(only_order(&rig).await.status, OrderStatus::Failed);
    rig.neighbours
        .with(|seen| assert!(seen.released.contains(&order.id)));
    assert!(rig.shop.store.outbox(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn r61_stock_that_could_not_be_released_is_released_by_recovery() {
    let rig = Rig::new().await;
    rig.neighbours.with(|seen| {
        seen.payment_mode = PaymentMode::Decline;
        seen.release_fails = true;
    });
    place(&rig, "k1").await.unwrap_err();
    let order = only_order(&rig).await;
    assert_eq!(order.status, OrderStatus::Declined);

    rig.neighbours.with(|seen| seen.release_fails = false);
    recovery(&rig).round(Duration::ZERO).await.unwrap();
    rig.neighbours
        .with(|seen| assert!(seen.released.contains(&order.id)));
    assert_eq!(only_order(&rig).await.status, OrderStatus::Declined);
    assert!(
        rig.shop
            .store
            .unsettled(Duration::ZERO, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn an_order_that_was_given_up_cannot_be_placed_any_more() {
    let rig = Rig::new().await;
    rig.neighbours
        .with(|seen| seen.payment_mode = PaymentMode::Unavailable);
    place(&rig, "k1").await.unwrap_err();
    let order = only_order(&rig).await;
    let error = rig.shop.store.place(order.id).await.unwrap_err();
    assert!(matches!(error, OrderError::PaidTooLate(_)));
    assert!(rig.shop.store.outbox(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn users_see_their_own_orders_newest_first_in_pages() {
    let rig = Rig::new().await;
    let mut placed = Vec::new();
    for key in ["k1", "k2", "k3"] {
        let Placed::Now(order) = place(&rig, key).await.unwrap() else {
            panic!("it is new")
        };
        placed.push(order.id);
    }
    let user = |name| placement(name, "k", &[("mug-stoneware", 1)]).user;
    let ids = |orders: Vec<Order>| orders.iter().map(|order| order.id).collect::<Vec<_>>();
    let store = &rig.shop.store;
    let first = ids(store.history(&user("alice"), None, 2).await.unwrap());
    assert_eq!(first, [placed[2], placed[1]]);
    let second = ids(store
        .history(&user("alice"), Some(placed[1]), 2)
        .await
        .unwrap());
    assert_eq!(second, [placed[0]]);

    assert!(
        store
            .history(&user("bob"), None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        store
            .order_of(&user("bob"), placed[0])
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        store
            .order_of(&user("alice"), placed[0])
            .await
            .unwrap()
            .is_some()
    );
}
