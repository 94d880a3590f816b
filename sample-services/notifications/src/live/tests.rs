//! Streams: nothing missed, nothing twice, nobody else's.

use std::time::Duration;

use futures_util::StreamExt;
use time::OffsetDateTime;

use super::*;
use crate::store::Position;
use crate::testing::{event_for, store, user};

/// Stores a notification as the consumer does, and announces it.
async fn tell(store: &NotificationStore, live: &Live, name: &str, offset: u64) -> u64 {
    let position = Position {
        topic: "order.placed".to_owned(),
        offset,
    };
    let now = OffsetDateTime::now_utc();
    let sequence = store
        .deliver(position, event_for(name), None, now)
        .await
        .unwrap()
        .unwrap();
    live.announce(user(name), sequence);
    sequence
}

#[tokio::test]
async fn a_stream_resumes_and_then_follows_without_gap_or_repetition() {
    let directory = tempfile::tempdir().unwrap();
    let (store, live) = (store(&directory), Live::new(StreamConfig::default()));
    let first = tell(&store, &live, "alice", 1).await;
    let second = tell(&store, &live, "alice", 2).await;

    let seat = live.admit(&user("alice")).unwrap();
    let stream = seat.follow(store.clone(), first);
    tokio::pin!(stream);
    assert_eq!(stream.next().await.unwrap().unwrap().sequence, second);

    tell(&store, &live, "bob", 3).await;
    let third = tell(&store, &live, "alice", 4).await;
    assert_eq!(stream.next().await.unwrap().unwrap().sequence, third);
    let quiet = tokio::time::timeout(Duration::from_millis(50), stream.next()).await;
    assert!(quiet.is_err(), "bob's notification is not alice's");
}

#[tokio::test]
async fn a_stream_that_lags_behind_the_broadcast_misses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, live) = (store(&directory), Live::new(StreamConfig::default()));
    let stream = live.admit(&user("alice")).unwrap().follow(store.clone(), 0);
    tokio::pin!(stream);
    let expected = u64::try_from(CAPACITY).unwrap() + 150;
    for offset in 1..=expected {
        tell(&store, &live, "alice", offset).await;
    }
    for sequence in 1..=expected {
        assert_eq!(stream.next().await.unwrap().unwrap().sequence, sequence);
    }
}

#[tokio::test]
async fn streams_are_limited_per_user_and_in_all_and_seats_come_back() {
    let limits = StreamConfig {
        per_user: 2,
        total: 3,
        ..StreamConfig::default()
    };
    let live = Live::new(limits);
    let first = live.admit(&user("alice")).unwrap();
    let _second = live.admit(&user("alice")).unwrap();
    assert!(matches!(
        live.admit(&user("alice")),
        Err(NotificationsError::TooManyStreams)
    ));
    let _third = live.admit(&user("bob")).unwrap();
    assert!(matches!(
        live.admit(&user("carol")),
        Err(NotificationsError::TooManyStreams)
    ));
    drop(first);
    live.admit(&user("alice")).unwrap();
}
