//! What every store must do, over the embedded database and a real PostgreSQL alike.

use std::sync::Arc;

use ringwall_identity::{Serial, SpiffeId};
use ringwall_store::testing::Server;
use time::macros::datetime;

use super::embedded::Embedded;
use super::model::*;
use super::postgres::Postgresql;
use super::*;

const NOW: OffsetDateTime = datetime!(2030-01-01 12:00 UTC);
const MINUTE: time::Duration = time::Duration::MINUTE;
const KEY: [u8; 32] = [7; 32];

/// A store under test; `again` opens the same one as another process would.
pub(super) struct Subject {
    pub(super) store: Arc<dyn Store>,
    pub(super) kind: Opened,
}

pub(super) enum Opened {
    Embedded(tempfile::TempDir),
    Postgres(Arc<Server>, String),
}

impl Subject {
    pub(super) async fn all() -> Vec<Self> {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::shared("control-plane");
        let database = server.create_database();
        let mut subjects = Vec::new();
        for kind in [Opened::Embedded(folder), Opened::Postgres(server, database)] {
            subjects.push(Self {
                store: open(&kind).await,
                kind,
            });
        }
        subjects
    }

    pub(super) async fn again(&self) -> Arc<dyn Store> {
        open(&self.kind).await
    }
}

async fn open(kind: &Opened) -> Arc<dyn Store> {
    match kind {
        Opened::Embedded(folder) => Arc::new(Embedded::open(&folder.path().join("db")).unwrap()),
        Opened::Postgres(server, database) => {
            let postgres = server.connect(database).await;
            Arc::new(Postgresql::open(postgres).await.unwrap())
        }
    }
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
}

fn token(byte: u8) -> NewJoinToken {
    NewJoinToken {
        hash: TokenHash([byte; 32]),
        node: "local".to_owned(),
        created_at: NOW,
        not_after: NOW + MINUTE,
        by: "operator".to_owned(),
    }
}

fn issued(holder: &str, spki: [u8; 32]) -> IssuedCertificate {
    IssuedCertificate {
        serial: Serial::random().unwrap(),
        kind: Kind::Svid,
        holder: id(holder),
        spki,
        issued_at: NOW,
        not_after: NOW + MINUTE,
        by: "agent".to_owned(),
        detail: "node local".to_owned(),
    }
}

fn revocation(target: Target) -> Revocation {
    Revocation {
        target,
        at: NOW,
        reason: "stolen".to_owned(),
    }
}

async fn spend(store: &Arc<dyn Store>, byte: u8, now: OffsetDateTime) -> Consumption {
    let hash = TokenHash([byte; 32]);
    store.consume_join_token(&hash, &KEY, now).await.unwrap()
}

#[tokio::test]
async fn a_token_is_spent_once_and_in_time() {
    use JoinRefusal::{Expired, Unknown, Used};
    for Subject { store, .. } in Subject::all().await {
        assert!(store.add_join_token(&token(1)).await.unwrap());
        assert!(
            !store.add_join_token(&token(1)).await.unwrap(),
            "there already"
        );
        assert!(store.add_join_token(&token(2)).await.unwrap());
        let won = spend(&store, 1, NOW).await;
        assert!(matches!(won, Consumption::Won { node } if node == "local"));
        assert_eq!(spend(&store, 1, NOW).await, Consumption::Refused(Used));
        assert_eq!(spend(&store, 9, NOW).await, Consumption::Refused(Unknown));
        let late = spend(&store, 2, NOW + MINUTE).await;
        assert_eq!(late, Consumption::Refused(Expired));
        assert!(
            !store.add_join_token(&token(1)).await.unwrap(),
            "spent for ever"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_of_parallel_uses_of_a_token_one_wins() {
    for subject in Subject::all().await {
        // Two replicas where there can be two.
        let second = match subject.kind {
            Opened::Embedded(_) => Arc::clone(&subject.store),
            Opened::Postgres(..) => subject.again().await,
        };
        subject.store.add_join_token(&token(1)).await.unwrap();
        let racing = (0..200).map(|number| {
            let store = match number % 2 {
                0 => Arc::clone(&subject.store),
                _ => Arc::clone(&second),
            };
            tokio::spawn(async move { spend(&store, 1, NOW).await })
        });
        let mut winners = 0;
        for racer in racing.collect::<Vec<_>>() {
            winners += u32::from(matches!(racer.await.unwrap(), Consumption::Won { .. }));
        }
        assert_eq!(winners, 1);
    }
}

#[tokio::test]
async fn attack_replay_after_a_restart_is_refused() {
    for subject in Subject::all().await {
        subject.store.add_join_token(&token(1)).await.unwrap();
        let won = spend(&subject.store, 1, NOW).await;
        assert!(matches!(won, Consumption::Won { .. }));
        let again = subject.again().await;
        let replay = spend(&again, 1, NOW).await;
        assert_eq!(replay, Consumption::Refused(JoinRefusal::Used));
    }
}

#[tokio::test]
async fn r34_revocations_are_durable_and_counted() {
    for subject in Subject::all().await {
        let store = &subject.store;
        assert_eq!(store.revisions().await.unwrap().revocations, 0);
        let serial = Serial::random().unwrap();
        let targets = [
            Target::SpiffeId(id("orders")),
            Target::Serial(serial.clone()),
            Target::Spki(KEY),
        ];
        for (revision, target) in targets.iter().enumerate() {
            let told = store.revoke(&revocation(target.clone()), "operator").await;
            assert_eq!(told.unwrap(), revision as u64 + 1);
        }
        // Twice is no error, and reaches everybody again.
        let again = store
            .revoke(&revocation(targets[0].clone()), "operator")
            .await;
        assert_eq!(again.unwrap(), 4);
        let state = subject.again().await.revocations(NOW).await.unwrap();
        assert_eq!(state.revision, 4);
        assert_eq!(state.entries.len(), 3);
        for target in &targets {
            assert!(state.entries.iter().any(|entry| entry.target == *target));
        }
        assert_eq!(state.entries[0].reason, "stolen");
        assert_eq!(state.entries[0].at, NOW);
        assert_eq!(state.serials.len(), 1);
        assert_eq!(state.serials[0].serial, serial);

        let restored = store.restore(&id("orders"), "operator", NOW).await;
        assert_eq!(restored.unwrap(), Some(5));
        assert_eq!(store.restore(&id("orders"), "x", NOW).await.unwrap(), None);
        let state = store.revocations(NOW).await.unwrap();
        assert_eq!((state.revision, state.entries.len()), (5, 2));
        assert_eq!(store.revisions().await.unwrap().revocations, 5);
    }
}

#[tokio::test]
async fn r34_a_revoked_name_or_key_ends_its_certificates_and_gets_no_more() {
    for Subject { store, .. } in Subject::all().await {
        let (by_name, by_key, other) = (
            issued("orders", [1; 32]),
            issued("payments", [2; 32]),
            issued("inventory", [3; 32]),
        );
        for one in [&by_name, &by_key, &other] {
            assert_eq!(store.record_issued(one).await.unwrap(), Recorded::Yes);
        }
        assert_eq!(store.count_issued().await.unwrap(), 3);
        for target in [Target::SpiffeId(id("orders")), Target::Spki([2; 32])] {
            store.revoke(&revocation(target), "operator").await.unwrap();
        }
        let serials = |state: RevocationState| -> Vec<_> {
            state.serials.into_iter().map(|line| line.serial).collect()
        };
        let ended = serials(store.revocations(NOW).await.unwrap());
        assert_eq!(ended.len(), 2);
        assert!(ended.contains(&by_name.serial) && ended.contains(&by_key.serial));
        // Those that have expired need no list.
        let later = serials(store.revocations(NOW + 2 * MINUTE).await.unwrap());
        assert!(later.is_empty(), "{later:?}");
        for refused in [issued("orders", [4; 32]), issued("gateway", [2; 32])] {
            let answer = store.record_issued(&refused).await.unwrap();
            assert_eq!(answer, Recorded::Revoked);
        }
        assert_eq!(store.count_issued().await.unwrap(), 3);
        store.restore(&id("orders"), "operator", NOW).await.unwrap();
        let answer = store.record_issued(&issued("orders", [4; 32])).await;
        assert_eq!(answer.unwrap(), Recorded::Yes);
        assert_eq!(serials(store.revocations(NOW).await.unwrap()).len(), 1);
    }
}

#[tokio::test]
async fn a_document_is_replaced_only_by_who_has_read_it() {
    for Subject { store, .. } in Subject::all().await {
        assert_eq!(store.document("x").await.unwrap(), None);
        assert!(store.replace_document("x", 0, b"one", None).await.unwrap());
        assert!(!store.replace_document("x", 0, b"two", None).await.unwrap());
        assert!(store.replace_document("x", 1, b"two", None).await.unwrap());
        assert!(!store.replace_document("x", 1, b"six", None).await.unwrap());
        let document = store.document("x").await.unwrap().unwrap();
        assert_eq!((document.revision, document.content), (2, b"two".to_vec()));
        assert_eq!(store.revisions().await.unwrap().jwt_keys, 0);
        let keys = schema::JWT_KEYS;
        assert!(store.replace_document(keys, 0, b"one", None).await.unwrap());
        assert_eq!(store.revisions().await.unwrap().jwt_keys, 1);
    }
}

#[tokio::test]
async fn every_change_is_in_the_audit_log() {
    for Subject { store, .. } in Subject::all().await {
        store.add_join_token(&token(1)).await.unwrap();
        let certificate = issued("orders", [1; 32]);
        store.record_issued(&certificate).await.unwrap();
        let target = Target::SpiffeId(id("orders"));
        store.revoke(&revocation(target), "operator").await.unwrap();
        store.restore(&id("orders"), "operator", NOW).await.unwrap();
        let refused = AuditEntry {
            at: NOW,
            event: "join_refused".to_owned(),
            actor: "127.0.0.1".to_owned(),
            subject: String::new(),
            serial: None,
            reason: "token used before".to_owned(),
        };
        store.audit(&refused).await.unwrap();
        let log = store.audit_log(10).await.unwrap();
        let events: Vec<_> = log.iter().map(|entry| entry.event.as_str()).collect();
        assert_eq!(
            events,
            [
                "join_refused",
                "restored",
                "revoked",
                "svid_issued",
                "join_token_created"
            ]
        );
        assert_eq!(log[0], refused);
        assert_eq!(log[3], certificate.audit_entry());
        assert_eq!(
            (log[2].actor.as_str(), log[2].reason.as_str()),
            ("operator", "stolen")
        );
        assert_eq!(store.audit_log(1).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_is_over_is_removed_and_nothing_else() {
    let day = time::Duration::DAY;
    for Subject { store, .. } in Subject::all().await {
        store.add_join_token(&token(1)).await.unwrap();
        store
            .record_issued(&issued("orders", [1; 32]))
            .await
            .unwrap();
        let serial = Target::Serial(Serial::random().unwrap());
        for target in [serial, Target::SpiffeId(id("payments"))] {
            store.revoke(&revocation(target), "operator").await.unwrap();
        }
        assert!(!store.purge(NOW + MINUTE, NOW - day).await.unwrap());
        assert_eq!(store.count_issued().await.unwrap(), 1);
        let later = NOW + 9 * day;
        assert!(!store.purge(later, NOW + day).await.unwrap());
        assert_eq!(store.count_issued().await.unwrap(), 0);
        assert!(store.audit_log(10).await.unwrap().is_empty());
        let left = store.revocations(later).await.unwrap().entries;
        assert_eq!(left.len(), 1, "a name stays revoked: {left:?}");
        assert!(store.add_join_token(&token(1)).await.unwrap(), "gone");
    }
}

#[tokio::test]
async fn the_leadership_has_one_holder_and_epochs() {
    let ttl = Duration::from_millis(300);
    for Subject { store, kind } in Subject::all().await {
        let first = store.lead("first", ttl).await.unwrap();
        assert!(first.mine && first.epoch == 1 && first.remaining <= ttl);
        let again = store.lead("first", ttl).await.unwrap();
        assert!(again.mine && again.epoch == 1);
        if matches!(kind, Opened::Embedded(_)) {
            continue;
        }
        let second = store.lead("second", ttl).await.unwrap();
        assert!(!second.mine && second.holder == "first", "{second:?}");
        let fence = |holder: &str, epoch| Fence {
            holder: holder.to_owned(),
            epoch,
        };
        let write = async |fence: &Fence, expected| {
            let written = store.replace_document("x", expected, b"x", Some(fence));
            written.await.unwrap()
        };
        assert!(write(&fence("first", 1), 0).await);
        assert!(!write(&fence("second", 1), 1).await);
        assert!(!write(&fence("first", 2), 1).await);
        // Real time: it is the database's clock that counts.
        tokio::time::sleep(ttl + Duration::from_millis(100)).await;
        let second = store.lead("second", ttl).await.unwrap();
        assert!(second.mine && second.epoch == 2, "{second:?}");
        assert!(!write(&fence("first", 1), 1).await, "replaced");
        assert!(write(&fence("second", 2), 1).await);
        store.resign(&fence("first", 1)).await.unwrap();
        assert!(!store.lead("first", ttl).await.unwrap().mine, "not theirs");
        store.resign(&fence("second", 2)).await.unwrap();
        let third = store.lead("first", ttl).await.unwrap();
        assert!(third.mine && third.epoch == 3, "{third:?}");
    }
}

/// A successor must wait for a write of the leader that is under way.
#[tokio::test]
async fn a_write_of_the_leader_is_whole_before_another_one_leads() {
    let server = Server::shared("control-plane");
    let database = server.create_database();
    let store = Postgresql::open(server.connect(&database).await)
        .await
        .unwrap();
    let ttl = Duration::from_millis(100);
    store.lead("first", ttl).await.unwrap();
    let fence = Fence {
        holder: "first".to_owned(),
        epoch: 1,
    };
    let mut client = store.postgres.client().await.unwrap();
    let tx = client.transaction().await.unwrap();
    assert!(Postgresql::holds(&tx, &fence).await.unwrap());
    tokio::time::sleep(ttl * 2).await;
    let successor = store.clone();
    let mut waiting = tokio::spawn(async move { successor.lead("second", ttl).await.unwrap() });
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "the leadership changed during a write");
    tx.commit().await.unwrap();
    assert!(waiting.await.unwrap().mine);
}
