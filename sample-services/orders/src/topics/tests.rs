//! Who may read a topic, and what a reader gets.

use axum::body::Body;
use futures_util::FutureExt;
use http::{Request, Response};
use ringwall_http_io::body;
use ringwall_store::LogLimits;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

struct Rig {
    router: Router,
    log: EventLog,
    _directory: tempfile::TempDir,
}

impl Rig {
    fn new(drain: Drain) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = EventLog::open(directory.path().join("events.db"), LogLimits::default()).unwrap();
        let readers: BTreeMap<Name, TopicConfig> =
            serde_json::from_value(json!({ "order.placed": { "consumers": ["notifications"] } }))
                .unwrap();
        let topics = Topics::new(log.clone(), &readers, JwkSet::default(), drain);
        Self {
            router: router(topics),
            log,
            _directory: directory,
        }
    }

    fn open() -> Self {
        Self::new(std::future::pending().boxed().shared())
    }

    async fn get(&self, peer: &str, path: &str) -> Response<Body> {
        self.send(peer, Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    async fn commit(&self, peer: &str, commit: Value) -> StatusCode {
        let request = Request::post("/v1/topics/order.placed/cursor")
            .header("content-type", "application/json")
            .body(Body::from(commit.to_string()));
        self.send(peer, request.unwrap()).await.status()
    }

    async fn send(&self, peer: &str, mut request: Request<Body>) -> Response<Body> {
        let peer = SpiffeId::parse(&format!("spiffe://ringwall.local/{peer}")).unwrap();
        request.extensions_mut().insert(Peer(peer));
        self.router.clone().oneshot(request).await.unwrap()
    }
}

async fn page(response: Response<Body>) -> Vec<(u64, String)> {
    assert_eq!(response.status(), StatusCode::OK);
    let bytes = body::collect(response.into_body(), 64 * 1024)
        .await
        .unwrap();
    let page: EventPage = serde_json::from_slice(&bytes).unwrap();
    page.events
        .into_iter()
        .map(|event| (event.offset, event.jws))
        .collect()
}

const MINE: &str = "/v1/topics/order.placed/events?group=notifications";

#[tokio::test]
async fn r16_only_a_declared_consumer_reads_and_only_as_itself() {
    let rig = Rig::open();
    rig.log
        .append("order.placed", "e1", b"jws".to_vec())
        .await
        .unwrap();
    assert_eq!(
        page(rig.get("notifications", MINE).await).await,
        [(1, "jws".to_owned())]
    );

    for peer in ["gateway", "payments"] {
        assert_eq!(
            rig.get(peer, MINE).await.status(),
            StatusCode::FORBIDDEN,
            "{peer}"
        );
        let own = format!("/v1/topics/order.placed/events?group={peer}");
        assert_eq!(
            rig.get(peer, &own).await.status(),
            StatusCode::FORBIDDEN,
            "{peer}"
        );
        let commit = json!({ "group": "notifications", "offset": 1 });
        assert_eq!(
            rig.commit(peer, commit).await,
            StatusCode::FORBIDDEN,
            "{peer}"
        );
    }
    let other = "/v1/topics/order.cancelled/events?group=notifications";
    assert_eq!(
        rig.get("notifications", other).await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn r16_reading_starts_at_the_offset_or_at_the_cursor() {
    let rig = Rig::open();
    for id in ["e1", "e2", "e3"] {
        rig.log.append("order.placed", id, id.into()).await.unwrap();
    }
    let after_two = page(rig.get("notifications", &format!("{MINE}&after=2")).await).await;
    assert_eq!(after_two, [(3, "e3".to_owned())]);

    let commit = json!({ "group": "notifications", "offset": 1 });
    assert_eq!(
        rig.commit("notifications", commit).await,
        StatusCode::NO_CONTENT
    );
    let from_cursor = page(rig.get("notifications", MINE).await).await;
    assert_eq!(from_cursor.len(), 2);

    let beyond = json!({ "group": "notifications", "offset": 4 });
    assert_eq!(
        rig.commit("notifications", beyond).await,
        StatusCode::CONFLICT
    );
}

#[tokio::test]
async fn a_long_poll_answers_when_an_event_comes() {
    let rig = Rig::open();
    let log = rig.log.clone();
    let append = async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        log.append("order.placed", "e1", b"jws".to_vec())
            .await
            .unwrap();
    };
    let path = format!("{MINE}&wait=20");
    let (response, ()) = tokio::join!(rig.get("notifications", &path), append);
    assert_eq!(page(response).await.len(), 1);
}

#[tokio::test]
async fn a_long_poll_ends_with_the_drain() {
    let rig = Rig::new(std::future::ready(()).boxed().shared());
    let response = rig.get("notifications", &format!("{MINE}&wait=25")).await;
    assert_eq!(page(response).await, []);
}

#[tokio::test]
async fn r40_a_query_outside_the_contract_is_refused() {
    let rig = Rig::open();
    for query in [
        "",
        "?group=NOTIFICATIONS",
        "?group=notifications&after=-1",
        "?group=n&x=1",
    ] {
        let path = format!("/v1/topics/order.placed/events{query}");
        let response = rig.get("notifications", &path).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{query}");
    }
}
