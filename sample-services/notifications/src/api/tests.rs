//! The routes in-process, with user contexts signed as the gateway signs them.

use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::body::Body;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use ringwall_identity::SpiffeId;
use ringwall_service::{Peer, UserContextVerifier};
use ringwall_token::claims::UserContext;
use ringwall_token::{Algorithm, JwkSet, JwksCache, SigningKey};
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tower::ServiceExt;

use super::*;
use crate::store::Position;
use crate::testing::{event_for, store, user};

struct Rig {
    router: Router,
    gateway: SigningKey,
    store: NotificationStore,
    live: Live,
    drain: Option<oneshot::Sender<()>>,
    _directory: tempfile::TempDir,
}

fn workload(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
}

impl Rig {
    fn new(limits: StreamConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, live) = (store(&directory), Live::new(limits.clone()));
        let gateway = SigningKey::generate(Algorithm::Es256).unwrap();
        let keys = JwksCache::fixed(JwkSet {
            keys: vec![gateway.public_jwk()],
        });
        let users = UserContextVerifier::new(keys, workload("gateway"), workload("notifications"));
        let (drain, drained) = oneshot::channel::<()>();
        let on = Notifications {
            store: store.clone(),
            live: live.clone(),
            limits,
            drain: drained.map(|_| ()).boxed().shared(),
        };
        let router = router(on).layer(Extension(users));
        Self {
            router,
            gateway,
            store,
            live,
            drain: Some(drain),
            _directory: directory,
        }
    }

    fn context(&self, name: &str) -> String {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let context = UserContext {
            iss: workload("gateway"),
            aud: workload("notifications"),
            sub: name.to_owned(),
            client_id: "spa-proxy".to_owned(),
            roles: Vec::new(),
            scope: "notifications:read".to_owned(),
            trace_id: None,
            iat: now,
            exp: now + 60,
            jti: "1".to_owned(),
        };
        self.gateway.sign(UserContext::TYP, &context).unwrap()
    }

    async fn get(&self, path: &str, who: Option<&str>, resume: Option<u64>) -> Response<Body> {
        let mut request = Request::get(path);
        if let Some(name) = who {
            request = request.header(headers::USER_CONTEXT, self.context(name));
        }
        if let Some(sequence) = resume {
            request = request.header(headers::LAST_EVENT_ID, sequence.to_string());
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer(workload("gateway")));
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn tell(&self, name: &str, offset: u64) -> u64 {
        let position = Position {
            topic: "order.placed".to_owned(),
            offset,
        };
        let now = OffsetDateTime::now_utc();
        let told = self
            .store
            .deliver(position, event_for(name), None, now)
            .await
            .unwrap();
        let sequence = told.unwrap();
        self.live.announce(user(name), sequence);
        sequence
    }
}

/// The next piece of a stream, as text.
async fn next(body: &mut Body) -> Option<String> {
    let frame = tokio::time::timeout(Duration::from_secs(5), body.frame())
        .await
        .unwrap()?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn the_list_is_the_users_own_newest_first() {
    let rig = Rig::new(StreamConfig::default());
    let first = rig.tell("alice", 1).await;
    rig.tell("bob", 2).await;
    let third = rig.tell("alice", 3).await;

    let response = rig.get("/v1/notifications", Some("alice"), None).await;
    assert_eq!(response.status(), StatusCode::OK);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let list: NotificationList = serde_json::from_slice(&bytes).unwrap();
    let sequences: Vec<_> = list.notifications.iter().map(|one| one.sequence).collect();
    assert_eq!(sequences, [third, first]);
}

#[tokio::test]
async fn r14_without_a_user_context_nobody_is_told_anything() {
    let rig = Rig::new(StreamConfig::default());
    for path in ["/v1/notifications", "/v1/notifications/stream"] {
        let response = rig.get(path, None, None).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn r40_a_query_outside_the_contract_is_refused() {
    let rig = Rig::new(StreamConfig::default());
    for query in ["limit=0", "limit=101", "limit=x", "user=bob"] {
        let path = format!("/v1/notifications?{query}");
        let response = rig.get(&path, Some("alice"), None).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_id_and_ends_on_drain() {
    let mut rig = Rig::new(StreamConfig::default());
    let first = rig.tell("alice", 1).await;
    let second = rig.tell("alice", 2).await;

    let response = rig
        .get("/v1/notifications/stream", Some("alice"), Some(first))
        .await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let event = next(&mut body).await.unwrap();
    assert!(event.contains("event: order.confirmed\n"), "{event}");
    assert!(event.contains(&format!("id: {second}\n")), "{event}");

    let third = rig.tell("alice", 3).await;
    assert!(
        next(&mut body)
            .await
            .unwrap()
            .contains(&format!("id: {third}\n"))
    );

    rig.drain.take().unwrap().send(()).unwrap();
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn a_stream_without_an_id_starts_with_what_comes_next() {
    let rig = Rig::new(StreamConfig::default());
    rig.tell("alice", 1).await;
    let mut body = rig
        .get("/v1/notifications/stream", Some("alice"), None)
        .await
        .into_body();
    let next_one = rig.tell("alice", 2).await;
    assert!(
        next(&mut body)
            .await
            .unwrap()
            .contains(&format!("id: {next_one}\n"))
    );
}

#[tokio::test]
async fn a_quiet_stream_has_heartbeats_and_ends_at_its_age() {
    let limits = StreamConfig {
        heartbeat: Duration::from_millis(20),
        max_age: Duration::from_millis(200),
        ..StreamConfig::default()
    };
    let rig = Rig::new(limits);
    let mut body = rig
        .get("/v1/notifications/stream", Some("alice"), None)
        .await
        .into_body();
    assert_eq!(next(&mut body).await.unwrap(), ":\n\n");
    while next(&mut body).await.is_some() {}
}

#[tokio::test]
async fn one_stream_too_many_is_refused_with_a_time_to_come_back() {
    let rig = Rig::new(StreamConfig {
        per_user: 1,
        ..StreamConfig::default()
    });
    let _open = rig
        .get("/v1/notifications/stream", Some("alice"), None)
        .await;
    let refused = rig
        .get("/v1/notifications/stream", Some("alice"), None)
        .await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
}
