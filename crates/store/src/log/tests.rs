//! The log against a model, its limits and its retention.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;

use super::*;

const TOPIC: &str = "order.placed";

fn open_in(dir: &tempfile::TempDir, limits: LogLimits) -> EventLog {
    EventLog::open(dir.path().join("log.db"), limits).unwrap()
}

async fn fill(log: &EventLog, events: std::ops::RangeInclusive<u64>) {
    for number in events {
        log.append(TOPIC, &format!("e{number}"), b"payload".to_vec())
            .await
            .unwrap();
    }
}

async fn offsets(log: &EventLog, after: u64) -> Vec<u64> {
    let events = log.read(TOPIC, Offset(after), usize::MAX).await.unwrap();
    events.iter().map(|event| event.offset.0).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        topic: usize,
        id: u8,
    },
    Commit {
        topic: usize,
        group: usize,
        offset: u64,
    },
    Read {
        topic: usize,
        after: u64,
        max: usize,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2_usize, 0..24_u8).prop_map(|(topic, id)| Step::Append { topic, id }),
        2 => (0..2_usize, 0..2_usize, 0..16_u64)
            .prop_map(|(topic, group, offset)| Step::Commit { topic, group, offset }),
        2 => (0..2_usize, 0..16_u64, 0..8_usize)
            .prop_map(|(topic, after, max)| Step::Read { topic, after, max }),
        1 => Just(Step::Reopen),
    ]
}

/// What the log must do: dense offsets from 1, one event per id, cursors that only go forward.
#[derive(Default)]
struct Model {
    topics: [Vec<u8>; 2],
    cursors: BTreeMap<(usize, usize), u64>,
}

impl Model {
    async fn check(&mut self, log: &EventLog, step: Step) {
        const TOPICS: [&str; 2] = ["a", "b"];
        const GROUPS: [&str; 2] = ["g", "h"];
        match step {
            Step::Append { topic, id } => {
                let offset = log
                    .append(TOPICS[topic], &id.to_string(), vec![id])
                    .await
                    .unwrap();
                let events = &mut self.topics[topic];
                let place = events
                    .iter()
                    .position(|&known| known == id)
                    .unwrap_or_else(|| {
                        events.push(id);
                        events.len() - 1
                    });
                assert_eq!(offset.0, place as u64 + 1);
            }
            Step::Commit {
                topic,
                group,
                offset,
            } => {
                let moved = log
                    .commit_cursor(GROUPS[group], TOPICS[topic], Offset(offset))
                    .await;
                if offset > self.topics[topic].len() as u64 {
                    assert!(
                        matches!(moved, Err(StoreError::CursorBeyondEnd { .. })),
                        "{moved:?}"
                    );
                    return;
                }
                let cursor = self.cursors.entry((topic, group)).or_default();
                *cursor = offset.max(*cursor);
                assert_eq!(moved.unwrap().0, *cursor);
                assert_eq!(
                    log.cursor(GROUPS[group], TOPICS[topic]).await.unwrap().0,
                    *cursor
                );
            }
            Step::Read { topic, after, max } => {
                let events = log.read(TOPICS[topic], Offset(after), max).await.unwrap();
                let expected: Vec<(u64, u8)> =
                    (1..).zip(self.topics[topic].iter().copied()).collect();
                let expected: Vec<(u64, u8)> = expected
                    .into_iter()
                    .skip(after as usize)
                    .take(max)
                    .collect();
                let seen: Vec<(u64, u8)> = events
                    .iter()
                    .map(|event| (event.offset.0, event.payload[0]))
                    .collect();
                assert_eq!(seen, expected);
            }
            Step::Reopen => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn offsets_are_dense_and_appends_idempotent(steps in prop::collection::vec(step(), 1..48)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut log = open_in(&dir, LogLimits::default());
            let mut model = Model::default();
            for step in steps {
                if matches!(step, Step::Reopen) {
                    log = open_in(&dir, LogLimits::default());
                }
                model.check(&log, step).await;
            }
        });
    }
}

#[tokio::test]
async fn parallel_producers_of_one_event_append_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_in(&dir, LogLimits::default());
    let mut producers = tokio::task::JoinSet::new();
    for number in 0..200_u64 {
        let log = log.clone();
        producers.spawn(async move {
            log.append(TOPIC, &format!("e{}", number % 50), vec![])
                .await
        });
    }
    while let Some(appended) = producers.join_next().await {
        appended.unwrap().unwrap();
    }
    assert_eq!(offsets(&log, 0).await, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_repeated_id_keeps_the_first_payload() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_in(&dir, LogLimits::default());
    log.append(TOPIC, "e1", b"first".to_vec()).await.unwrap();
    let again = log
        .append(TOPIC, "e1", b"signed again".to_vec())
        .await
        .unwrap();
    assert_eq!(again, Offset(1));
    let events = log.read(TOPIC, Offset(0), 10).await.unwrap();
    assert_eq!(
        (events.len(), events[0].payload.as_slice()),
        (1, b"first".as_slice())
    );
}

#[tokio::test]
async fn wait_ends_with_an_event_or_with_the_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_in(&dir, LogLimits::default());
    let short = Duration::from_millis(20);
    let long = Duration::from_secs(30);
    assert!(!log.wait(TOPIC, Offset(0), short).await.unwrap());

    let waiter = {
        let log = log.clone();
        tokio::spawn(async move { log.wait(TOPIC, Offset(0), long).await })
    };
    log.append("another.topic", "e1", vec![]).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    log.append(TOPIC, "e1", vec![]).await.unwrap();
    assert!(waiter.await.unwrap().unwrap());

    // What is there already needs no wait, also after a restart.
    let log = open_in(&dir, LogLimits::default());
    assert!(log.wait(TOPIC, Offset(0), long).await.unwrap());
    assert!(!log.wait(TOPIC, Offset(1), short).await.unwrap());
}

#[tokio::test]
async fn retention_by_count_holds_without_trim_and_never_reuses_an_offset() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        max_events: 100,
        ..LogLimits::default()
    };
    let log = open_in(&dir, limits);
    fill(&log, 1..=256).await;
    assert_eq!(offsets(&log, 0).await, (157..=256).collect::<Vec<_>>());
    fill(&log, 257..=260).await;
    assert_eq!(log.trim().await.unwrap(), 4);
    assert_eq!(offsets(&log, 0).await, (161..=260).collect::<Vec<_>>());
    assert_eq!(log.last_offset(TOPIC).await.unwrap(), Offset(260));
}

#[tokio::test]
async fn retention_by_age_spares_what_a_group_has_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicI64::new(1_000_000));
    let clock: Clock = {
        let now = Arc::clone(&now);
        Arc::new(move || OffsetDateTime::from_unix_timestamp(now.load(Ordering::SeqCst)).unwrap())
    };
    let limits = LogLimits {
        max_age: Duration::from_secs(60),
        ..LogLimits::default()
    };
    let log = EventLog::open_with_clock(dir.path().join("log.db"), limits, clock).unwrap();
    fill(&log, 1..=4).await;
    log.commit_cursor("fast", TOPIC, Offset(4)).await.unwrap();
    log.commit_cursor("slow", TOPIC, Offset(2)).await.unwrap();
    assert_eq!(log.trim().await.unwrap(), 0);

    now.fetch_add(61, Ordering::SeqCst);
    fill(&log, 5..=5).await;
    assert_eq!(log.trim().await.unwrap(), 2);
    assert_eq!(offsets(&log, 0).await, [3, 4, 5]);
    log.commit_cursor("slow", TOPIC, Offset(5)).await.unwrap();
    assert_eq!(log.trim().await.unwrap(), 2);
    assert_eq!(offsets(&log, 0).await, [5]);
}

#[tokio::test]
async fn a_read_is_bounded_by_bytes_but_always_moves_on() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        max_read_bytes: 1000,
        ..LogLimits::default()
    };
    let log = open_in(&dir, limits);
    for (id, size) in [("e1", 600), ("e2", 600), ("e3", 5000)] {
        log.append(TOPIC, id, vec![0; size]).await.unwrap();
    }
    assert_eq!(offsets(&log, 0).await, [1]);
    assert_eq!(offsets(&log, 1).await, [2]);
    assert_eq!(offsets(&log, 2).await, [3]);
}

#[tokio::test]
async fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        max_payload: 8,
        max_topics: 1,
        max_groups: 1,
        ..LogLimits::default()
    };
    let log = open_in(&dir, limits);
    for topic in ["", "Order", "a/b", "ä", &"x".repeat(65)] {
        let refused = log.append(topic, "e1", vec![]).await;
        assert!(
            matches!(refused, Err(StoreError::InvalidName { .. })),
            "{topic:?}"
        );
    }
    for id in ["", "with space", "line\n", &"x".repeat(129)] {
        let refused = log.append(TOPIC, id, vec![]).await;
        assert!(
            matches!(refused, Err(StoreError::InvalidName { .. })),
            "{id:?}"
        );
    }
    let large = log.append(TOPIC, "e1", vec![0; 9]).await;
    assert!(matches!(
        large,
        Err(StoreError::PayloadTooLarge { size: 9, limit: 8 })
    ));
    log.append(TOPIC, "e1", vec![0; 8]).await.unwrap();
    let second_topic = log.append("another", "e1", vec![]).await;
    assert!(matches!(
        second_topic,
        Err(StoreError::TooMany { limit: 1, .. })
    ));

    log.commit_cursor("g", TOPIC, Offset(1)).await.unwrap();
    let second_group = log.commit_cursor("h", TOPIC, Offset(1)).await;
    assert!(matches!(
        second_group,
        Err(StoreError::TooMany { limit: 1, .. })
    ));
    let beyond = log.commit_cursor("g", TOPIC, Offset(2)).await;
    assert!(matches!(
        beyond,
        Err(StoreError::CursorBeyondEnd { asked: 2, last: 1 })
    ));
    assert_eq!(log.cursor("g", TOPIC).await.unwrap(), Offset(1));
    assert_eq!(log.cursor("unknown", TOPIC).await.unwrap(), Offset(0));
    assert!(log.read("unknown", Offset(0), 10).await.unwrap().is_empty());
}
