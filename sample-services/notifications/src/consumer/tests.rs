//! The consumer against a producer over HTTP and a real SQLite file.

use ringwall_proto::events::JWS_TYPE;
use ringwall_service::Metrics;
use ringwall_token::{Algorithm, SigningKey};

use super::*;
use crate::config::StreamConfig;
use crate::testing::{Producer, event_for, orders, store, user};

fn consumer(producer: &Producer, directory: &tempfile::TempDir) -> Consumer {
    let upstream = producer.upstream();
    Consumer {
        verifier: Verifier::new(upstream.jwks(paths::JWKS), orders()),
        producer: upstream,
        group: Name::parse("notifications").unwrap(),
        config: ConsumerConfig {
            producer: Name::parse("orders").unwrap(),
            topic: Name::parse("order.placed").unwrap(),
            wait: Duration::ZERO,
            max_backoff: Duration::from_secs(1),
        },
        store: store(directory),
        live: Live::new(StreamConfig::default()),
        metrics: EventMetrics::register(&Metrics::default()),
    }
}

async fn told(consumer: &Consumer, name: &str) -> usize {
    consumer.store.latest(&user(name), 100).await.unwrap().len()
}

async fn buried(consumer: &Consumer) -> Vec<String> {
    consumer.store.dead_letters().await.unwrap()
}

#[tokio::test]
async fn r16_an_event_becomes_a_notification_of_its_user_alone() {
    let (producer, directory) = (Producer::start().await, tempfile::tempdir().unwrap());
    let consumer = consumer(&producer, &directory);
    let event = event_for("alice");
    producer.publish(&event);
    consumer.round().await.unwrap();

    let notifications = consumer.store.latest(&user("alice"), 10).await.unwrap();
    assert_eq!(notifications.len(), 1);
    assert_eq!(notifications[0].event_id, event.id);
    assert_eq!(notifications[0].kind, "order.confirmed");
    assert_eq!(
        notifications[0].trace_id.as_deref(),
        Some("0af7651916cd43dd8448eb211c80319c"),
        "one trace spans the broker"
    );
    assert_eq!(told(&consumer, "bob").await, 0);
    producer.with(|seen| assert_eq!(seen.committed, 1));
}

#[tokio::test]
async fn r16_redelivery_after_a_kill_notifies_once() {
    let (producer, directory) = (Producer::start().await, tempfile::tempdir().unwrap());
    let event = event_for("alice");
    producer.publish(&event);
    consumer(&producer, &directory).round().await.unwrap();

    // The producer appends the same event again (it was killed between its two writes), and this
    // process starts anew.
    producer.publish(&event);
    let restarted = consumer(&producer, &directory);
    restarted.round().await.unwrap();
    assert_eq!(told(&restarted, "alice").await, 1);
    assert_eq!(restarted.store.cursor("order.placed").await.unwrap(), 2);

    // Nothing is missed either: what came while the consumer was away is delivered.
    producer.publish(&event_for("alice"));
    restarted.round().await.unwrap();
    assert_eq!(told(&restarted, "alice").await, 2);
}

#[tokio::test]
async fn r16_forged_events_are_put_aside_and_do_not_block_the_topic() {
    let (producer, directory) = (Producer::start().await, tempfile::tempdir().unwrap());
    let consumer = consumer(&producer, &directory);
    let stranger = SigningKey::generate(Algorithm::Es256).unwrap();

    let by_stranger = stranger.sign(JWS_TYPE, &event_for("alice")).unwrap();
    let mut stolen_source = event_for("alice");
    stolen_source.source =
        ringwall_identity::SpiffeId::parse("spiffe://ringwall.local/payments").unwrap();
    let mut foreign_domain = event_for("alice");
    foreign_domain.source =
        ringwall_identity::SpiffeId::parse("spiffe://evil.example/orders").unwrap();
    let mut other_subject = event_for("alice");
    other_subject.subject = "another order".to_owned();
    let mut other_kind = event_for("alice");
    other_kind.kind = "local.ringwall.order.cancelled.v1".to_owned();
    let as_access_token = producer.key.sign("at+jwt", &event_for("alice")).unwrap();
    let signed = producer.key.sign(JWS_TYPE, &event_for("alice")).unwrap();
    let (head, signature) = signed.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let other_payload = producer.key.sign(JWS_TYPE, &event_for("mallory")).unwrap();
    let swapped = format!(
        "{header}.{}.{signature}",
        other_payload.split('.').nth(1).unwrap()
    );

    producer.with(|seen| {
        seen.jws.extend([by_stranger, as_access_token, swapped]);
        seen.jws.extend([
            "".to_owned(),
            "no event at all".to_owned(),
            "a.b.c".to_owned(),
        ]);
    });
    for event in [stolen_source, foreign_domain, other_subject, other_kind] {
        producer.publish(&event);
    }
    producer.publish(&event_for("bob"));
    consumer.round().await.unwrap();

    assert_eq!(told(&consumer, "alice").await, 0);
    assert_eq!(told(&consumer, "mallory").await, 0);
    assert_eq!(
        told(&consumer, "bob").await,
        1,
        "the honest event behind them arrives"
    );
    assert_eq!(buried(&consumer).await.len(), 10);
    assert_eq!(consumer.store.cursor("order.placed").await.unwrap(), 11);
}

#[tokio::test]
async fn r16_events_wait_while_the_producers_keys_are_away() {
    let (producer, directory) = (Producer::start().await, tempfile::tempdir().unwrap());
    producer.publish(&event_for("alice"));
    producer.with(|seen| seen.keys_away = true);
    let waiting = consumer(&producer, &directory);
    assert!(matches!(
        waiting.round().await,
        Err(NotificationsError::Keys(_))
    ));
    assert!(buried(&waiting).await.is_empty());
    assert_eq!(waiting.store.cursor("order.placed").await.unwrap(), 0);

    producer.with(|seen| seen.keys_away = false);
    let back = consumer(&producer, &directory);
    back.round().await.unwrap();
    assert_eq!(told(&back, "alice").await, 1);
}

#[tokio::test]
async fn an_empty_poll_is_no_error() {
    let (producer, directory) = (Producer::start().await, tempfile::tempdir().unwrap());
    consumer(&producer, &directory).round().await.unwrap();
}

#[test]
fn pauses_are_spread_and_bounded() {
    let second = Duration::from_secs(1);
    assert_eq!(jittered(second, 0.0), second / 2);
    assert_eq!(jittered(second, 1.0), second);
    assert!((0.0..=1.0).contains(&random_share()));
}

#[test]
fn only_a_well_formed_trace_id_is_taken() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(
        trace_id_of(good).unwrap(),
        "0af7651916cd43dd8448eb211c80319c"
    );
    for bad in [
        "",
        "00",
        "00-xyz-1-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    ] {
        assert_eq!(trace_id_of(bad), None, "{bad}");
    }
}
