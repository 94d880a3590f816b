//! What needs no network: changes whose caller goes away, and keys that take turns. The rest is in `flows/policies.rs`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ringwall_secret::SealKey;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::PolicyAdmin;
use super::admin::Author;
use crate::authority::jwt_keys::JwtKeys;
use crate::authority::revocation::RevocationSet;
use crate::discovery::Hub;
use crate::leader::Leadership;
use crate::registry::reload::Declared;
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::testing::{Site, parse};

const LIFE: Duration = Duration::from_secs(3600);

struct Office {
    admin: PolicyAdmin,
    keys: Arc<JwtKeys>,
    leadership: Arc<Leadership>,
    hub: Hub,
    _declared: watch::Sender<Arc<Declared>>,
    _site: Site,
}

impl Office {
    async fn open() -> Self {
        let site = Site::new().with_policy();
        let now = OffsetDateTime::now_utc();
        let store = Embedded::open(&site.path().join("db")).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let seal = SealKey::derive(&vec![b'k'; 43].into(), "test").unwrap();
        let keys = JwtKeys::open(Arc::clone(&store), seal, LIFE, now)
            .await
            .unwrap();
        let keys = Arc::new(keys);
        let leadership = Leadership::new("us".to_owned(), Arc::new(OffsetDateTime::now_utc));
        leadership.ask(&*store).await;
        let declared = Declared::new(parse(&site.text)).unwrap();
        let (declared, subscribed) = watch::channel(Arc::new(declared));
        let hub = Hub::new();
        let admin = PolicyAdmin::new(
            store,
            Arc::clone(&keys),
            Arc::clone(&leadership),
            hub.clone(),
            subscribed,
            Arc::new(OffsetDateTime::now_utc),
        );
        Self {
            admin,
            keys,
            leadership,
            hub,
            _declared: declared,
            _site: site,
        }
    }
}

/// However far a change has come when its caller goes away: what is stored is pushed.
#[tokio::test]
async fn r31_a_change_is_whole_when_its_caller_has_gone() {
    let office = Office::open().await;
    office.admin.start(&RevocationSet::default()).await;
    for polls in 1..12 {
        let active = office.admin.get().await.unwrap();
        let mut bundle = active.bundle;
        bundle.examples[0].name = format!("reads {polls}");
        let author = Author {
            name: "alice".into(),
            identity: "ringwall".into(),
            note: String::new(),
        };
        let version = active.version.version;
        let mut apply = Box::pin(office.admin.apply(bundle, author, version));
        let mut polled = 0;
        poll_fn(|cx| {
            polled += 1;
            match apply.as_mut().poll(cx) {
                Poll::Pending if polled < polls => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
        drop(apply);
        let settled = async {
            while office.admin.get().await.unwrap().version.version != version + 1
                || office.hub.policy().version != version + 1
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let settled = tokio::time::timeout(Duration::from_secs(10), settled).await;
        let stored = office.admin.get().await.unwrap().version.version;
        assert!(
            settled.is_ok(),
            "left after {polls}: {stored} is stored, {} pushed",
            office.hub.policy().version
        );
    }
}

/// Proxies believe the keys that are published: what another key has signed is signed again before that one goes.
#[tokio::test]
async fn r31_the_policy_is_signed_again_when_another_key_signs() {
    let office = Office::open().await;
    let (_revoked, revocations) = watch::channel(Arc::new(RevocationSet::default()));
    let state = office.admin.start(&RevocationSet::default()).await;
    let following = tokio::spawn(office.admin.clone().follow(
        state,
        revocations,
        std::future::pending(),
    ));
    let first = office.hub.policy();
    let fence = office.leadership.fence().unwrap();
    let mut now = OffsetDateTime::now_utc();
    let kid = office.keys.current().kid().to_owned();
    while office.keys.current().kid() == kid {
        now += LIFE / 4;
        office.keys.tend(now, &fence).await.unwrap();
    }
    let signed_again = async {
        while office.hub.policy().jws == first.jws {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), signed_again)
        .await
        .unwrap();
    assert_eq!(office.hub.policy().version, first.version);
    following.abort();
}
