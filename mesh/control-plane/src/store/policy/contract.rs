//! What every store must do with policies, over the embedded database and a real PostgreSQL alike.

use std::sync::Arc;
use std::time::Duration;

use time::macros::datetime;

use super::*;
use crate::store::contract::{Opened, Subject};
use crate::store::{Store, model::Claim};

const NOW: OffsetDateTime = datetime!(2030-01-01 12:00 UTC);

fn new(previous: u64, note: &str) -> NewVersion {
    NewVersion {
        version: Version {
            version: previous + 1,
            digest: format!("digest of {note}"),
            author: "alice".to_owned(),
            identity: "ringwall".to_owned(),
            at: NOW,
            note: note.to_owned(),
            previous,
            rollback_of: None,
        },
        bundle: format!("{{\"{note}\":1}}"),
        seed: None,
    }
}

async fn lead(store: &Arc<dyn Store>, holder: &str) -> Fence {
    let claim: Claim = store.lead(holder, Duration::from_secs(60)).await.unwrap();
    Fence {
        holder: holder.to_owned(),
        epoch: claim.epoch,
    }
}

#[tokio::test]
async fn r31_versions_are_added_one_after_the_other_with_their_author() {
    for Subject { store, .. } in Subject::all().await {
        let fence = lead(&store, "a").await;
        assert_eq!(store.newest_version().await.unwrap(), None);
        assert!(store.add_version(&new(0, "one"), &fence).await.unwrap());
        assert!(!store.add_version(&new(0, "late"), &fence).await.unwrap());
        assert!(!store.add_version(&new(7, "early"), &fence).await.unwrap());
        let mut rollback = new(1, "back");
        rollback.version.rollback_of = Some(1);
        rollback.seed = Some("s1".to_owned());
        assert!(store.add_version(&rollback, &fence).await.unwrap());

        let newest = store.newest_version().await.unwrap().unwrap();
        assert_eq!(newest.version, rollback.version);
        assert_eq!(newest.bundle, rollback.bundle);
        let first = store.version(1).await.unwrap().unwrap();
        assert_eq!(first.version, new(0, "one").version);
        assert_eq!(store.version(3).await.unwrap(), None);
        assert_eq!(store.last_seed().await.unwrap().as_deref(), Some("s1"));
        let all = store.versions(None, 10).await.unwrap();
        assert_eq!(all, [rollback.version.clone(), first.version.clone()]);
        assert_eq!(store.versions(None, 1).await.unwrap(), [rollback.version]);
        assert_eq!(store.versions(Some(2), 10).await.unwrap(), [first.version]);
        let log = store.audit_log(2).await.unwrap();
        assert_eq!(log[0].event, "policy_rolled_back");
        assert_eq!(log[0].reason, "content of version 1; back");
        assert_eq!(
            (log[1].event.as_str(), log[1].actor.as_str()),
            ("policy_applied", "alice (ringwall)")
        );
    }
}

#[tokio::test]
async fn attack_a_replica_that_was_replaced_writes_no_policy() {
    for Subject { store, kind } in Subject::all().await {
        if matches!(kind, Opened::Embedded(_)) {
            continue;
        }
        let old = lead(&store, "a").await;
        store.resign(&old).await.unwrap();
        let fence = lead(&store, "b").await;
        assert!(!store.add_version(&new(0, "old"), &old).await.unwrap());
        assert!(store.add_version(&new(0, "new"), &fence).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r31_of_parallel_applies_one_wins() {
    for Subject { store, .. } in Subject::all().await {
        let fence = lead(&store, "a").await;
        let racing = (0..50).map(|number| {
            let (store, fence) = (Arc::clone(&store), fence.clone());
            let new = new(0, &number.to_string());
            tokio::spawn(async move { store.add_version(&new, &fence).await.unwrap() })
        });
        let mut winners = 0;
        for racer in racing.collect::<Vec<_>>() {
            winners += u32::from(racer.await.unwrap());
        }
        assert_eq!(winners, 1);
        assert_eq!(store.versions(None, 10).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn r51_uses_are_counted_for_names_that_are_expected() {
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
    let used = |permitted, dry_run| PolicyUse {
        permitted,
        dry_run,
        ..PolicyUse::default()
    };
    for Subject { store, .. } in Subject::all().await {
        store
            .expect_uses(&names(&["a", "b"]), &[], NOW)
            .await
            .unwrap();
        let report = BTreeMap::from([
            ("a".to_owned(), used(2, 1)),
            ("b".to_owned(), used(u64::MAX, 0)),
            ("stranger".to_owned(), used(5, 5)),
        ]);
        for _ in 0..3 {
            store.add_uses(&report).await.unwrap();
        }
        let later = NOW + time::Duration::HOUR;
        let uses = store.uses().await.unwrap();
        assert_eq!(uses.len(), 2);
        assert_eq!(uses["a"], (used(6, 3), NOW));
        assert_eq!(uses["b"].0.permitted, 3 << 40, "no sum overflows");
        // Another bundle: `a` is another policy now, `b` has gone, `c` is new.
        store
            .expect_uses(&names(&["a", "c"]), &names(&["a"]), later)
            .await
            .unwrap();
        let uses = store.uses().await.unwrap();
        assert_eq!(
            uses,
            Uses::from([
                ("a".to_owned(), (used(0, 0), later)),
                ("c".to_owned(), (used(0, 0), later))
            ])
        );
        store.add_uses(&BTreeMap::new()).await.unwrap();
    }
}

#[tokio::test]
async fn old_versions_go_and_the_newest_stay() {
    let Some(Subject { store, kind }) = Subject::all().await.into_iter().next() else {
        panic!()
    };
    let fence = lead(&store, "a").await;
    for previous in 0..KEPT_VERSIONS + 3 {
        assert!(
            store
                .add_version(&new(previous, "n"), &fence)
                .await
                .unwrap()
        );
    }
    assert_eq!(store.version(3).await.unwrap(), None);
    assert!(store.version(4).await.unwrap().is_some());
    drop(kind);
}
