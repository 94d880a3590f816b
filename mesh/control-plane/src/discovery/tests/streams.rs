//! The service without a network, on a paused clock: who is let in, what ends a stream, and when.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringwall_identity::SpiffeId;
use ringwall_mesh_api::v1::{self, proxy_message::Message};
use ringwall_policy::mesh::PolicyUse;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::super::hub::{Hub, ProxyState};
use super::super::stream::Discovery;
use super::{edge, policy, service};

type Uses = Arc<Mutex<Vec<(String, String, u64)>>>;

struct Plane {
    hub: Hub,
    discovery: Discovery,
    uses: Uses,
}

/// The proxy's end of a stream.
struct Line {
    to: mpsc::Sender<Result<v1::ProxyMessage, Status>>,
    from: mpsc::Receiver<Result<v1::ConfigMessage, Status>>,
}

fn fill(world: &mut super::super::world::World) {
    world.set_services(["a", "b", "c"].map(service).into());
    world.set_policy(policy(1), vec![edge("a", "b"), edge("b", "c")]);
}

impl Plane {
    fn new() -> Self {
        let hub = Hub::new();
        hub.lead(1_000_000, fill);
        let uses = Uses::default();
        let sink = Arc::clone(&uses);
        let sink = move |workload: &str, all: Vec<(String, PolicyUse)>| {
            let all = all
                .into_iter()
                .map(|(policy, used)| (workload.to_owned(), policy, used.permitted));
            sink.lock().extend(all);
        };
        tokio::spawn(hub.clone().keep_time());
        Self {
            discovery: Discovery::new(hub.clone(), Arc::new(sink)),
            hub,
            uses,
        }
    }

    fn open(&self, id: &str) -> Line {
        let id = SpiffeId::parse(&format!("spiffe://ringwall.local/{id}")).unwrap();
        let (to, inbound) = mpsc::channel(64);
        let (send, from) = mpsc::channel(2);
        tokio::spawn(
            self.discovery
                .clone()
                .run(id, ReceiverStream::new(inbound), send),
        );
        Line { to, from }
    }

    /// A stream that has applied its first message.
    async fn connected(&self, workload: &str, instance: &str) -> Line {
        let mut line = self.open(workload);
        line.hello(instance, 0).await;
        line.apply().await;
        line
    }
}

impl Line {
    async fn send(&self, message: Message) {
        let message = v1::ProxyMessage {
            message: Some(message),
        };
        self.to.send(Ok(message)).await.unwrap();
    }

    async fn hello(&self, instance: &str, revision: u64) {
        let hello = v1::Hello {
            instance: instance.into(),
            node: "n1".into(),
            zone: "z1".into(),
            revision,
        };
        self.send(Message::Hello(hello)).await;
    }

    async fn report(&self, port: u16, health: v1::Health) {
        let report = v1::EndpointReport {
            address: format!("127.0.0.1:{port}"),
            port: 80,
            weight: Some(1),
            health: health.into(),
        };
        self.send(Message::Endpoint(report)).await;
    }

    async fn next(&mut self) -> v1::ConfigMessage {
        self.from.recv().await.unwrap().unwrap()
    }

    async fn ack(&self, nonce: u64) {
        self.send(Message::Ack(v1::Ack { nonce })).await;
    }

    async fn nack(&self, nonce: u64, resource: &str, reason: &str) {
        let (resource, reason) = (resource.to_owned(), reason.to_owned());
        self.send(Message::Nack(v1::Nack {
            nonce,
            resource,
            reason,
        }))
        .await;
    }

    async fn apply(&mut self) -> v1::ConfigMessage {
        let message = self.next().await;
        self.ack(message.nonce).await;
        message
    }

    /// How the stream ends; messages before that are applied.
    async fn end(&mut self) -> Code {
        loop {
            match self.from.recv().await {
                Some(Ok(message)) => self.ack(message.nonce).await,
                Some(Err(status)) => return status.code(),
                None => return Code::Ok,
            }
        }
    }
}

fn endpoints(message: &v1::ConfigMessage, service: &str) -> Vec<String> {
    let name = format!("endpoints/{service}");
    let resource = message
        .changed
        .iter()
        .find(|resource| resource.name == name);
    match resource.and_then(|resource| resource.body.as_ref()) {
        Some(v1::resource::Body::Endpoints(list)) => list
            .endpoints
            .iter()
            .map(|endpoint| endpoint.address.clone())
            .collect(),
        _ => panic!("{message:?} says nothing of {service}"),
    }
}

#[tokio::test(start_paused = true)]
async fn r28_who_is_no_registered_workload_is_refused() {
    let plane = Plane::new();
    for stranger in ["d", "agent/n1", "ringwall", "control-plane", "a/b"] {
        let mut line = plane.open(stranger);
        line.hello("i", 0).await;
        assert_eq!(line.end().await, Code::PermissionDenied, "{stranger}");
    }
    // Registered, but on another node.
    let mut line = plane.open("a");
    let hello = v1::Hello {
        instance: "i".into(),
        node: "n2".into(),
        ..v1::Hello::default()
    };
    line.send(Message::Hello(hello)).await;
    assert_eq!(line.end().await, Code::PermissionDenied);
    assert_eq!(plane.hub.proxies(), []);
}

#[tokio::test(start_paused = true)]
async fn r28_an_endpoint_belongs_to_the_identity_of_the_stream() {
    let plane = Plane::new();
    let mut a = plane.connected("a", "a1").await;
    let b = plane.connected("b", "b1").await;
    let mut c = plane.connected("c", "c1").await;
    // Whatever c reports is c's: a caller of b does not see it.
    c.report(666, v1::Health::Ready).await;
    b.report(80, v1::Health::Ready).await;
    assert_eq!(endpoints(&a.apply().await, "b"), ["127.0.0.1:80"]);
    // A port that c does not declare, and an address that nobody can dial, end its stream.
    c.send(Message::Endpoint(v1::EndpointReport {
        address: "127.0.0.1:1".into(),
        port: 81,
        weight: Some(1),
        health: v1::Health::Ready.into(),
    }))
    .await;
    assert_eq!(c.end().await, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn r28_endpoints_leave_with_their_health_at_once_and_with_their_stream_after_a_lease() {
    let plane = Plane::new();
    let mut a = plane.connected("a", "a1").await;
    let b1 = plane.connected("b", "b1").await;
    let b2 = plane.connected("b", "b2").await;
    b1.report(1, v1::Health::Ready).await;
    assert_eq!(endpoints(&a.apply().await, "b").len(), 1);
    b2.report(2, v1::Health::Ready).await;
    assert_eq!(endpoints(&a.apply().await, "b").len(), 2);
    let before = Instant::now();
    b1.report(1, v1::Health::NotReady).await;
    assert_eq!(endpoints(&a.apply().await, "b"), ["127.0.0.1:2"]);
    assert!(before.elapsed() < Duration::from_millis(10));
    drop(b2);
    assert_eq!(endpoints(&a.apply().await, "b"), [""; 0]);
    assert!(
        (5.0..5.1).contains(&before.elapsed().as_secs_f64()),
        "{:?}",
        before.elapsed()
    );
    // A new process within the lease: no caller is told anything.
    b1.report(1, v1::Health::Ready).await;
    a.apply().await;
    drop(b1);
    sleep(Duration::from_secs(3)).await;
    let b3 = plane.connected("b", "b3").await;
    b3.report(1, v1::Health::Ready).await;
    let message = a.apply().await;
    assert_eq!(endpoints(&message, "b"), ["127.0.0.1:1"]);
    sleep(Duration::from_secs(60)).await;
    assert!(a.from.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn attack_a_breach_of_the_protocol_ends_the_stream() {
    let plane = Plane::new();
    let mut silent = plane.open("a");
    let before = Instant::now();
    assert_eq!(silent.end().await, Code::DeadlineExceeded);
    assert_eq!(before.elapsed().as_secs(), 10);

    let mut early = plane.open("a");
    early.ack(1).await;
    assert_eq!(early.end().await, Code::InvalidArgument);

    for hello in [
        v1::Hello {
            node: "n1".into(),
            ..v1::Hello::default()
        },
        v1::Hello {
            node: "n1".into(),
            instance: "i".repeat(129),
            ..v1::Hello::default()
        },
        v1::Hello {
            node: "n1".into(),
            instance: "i\n".into(),
            ..v1::Hello::default()
        },
    ] {
        let mut line = plane.open("a");
        line.send(Message::Hello(hello)).await;
        assert_eq!(line.end().await, Code::InvalidArgument);
    }

    let mut twice = plane.connected("a", "a1").await;
    twice.hello("a1", 0).await;
    assert_eq!(twice.end().await, Code::InvalidArgument);

    let mut ahead = plane.connected("a", "a1").await;
    ahead.ack(2).await;
    assert_eq!(ahead.end().await, Code::InvalidArgument);

    let mut deaf = plane.open("a");
    deaf.hello("a1", 0).await;
    let before = Instant::now();
    deaf.next().await;
    assert_eq!(deaf.end().await, Code::DeadlineExceeded);
    assert_eq!(before.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn attack_a_flood_of_reports_ends_its_own_stream() {
    let plane = Plane::new();
    let mut flood = plane.connected("b", "b1").await;
    let mut other = plane.connected("b", "b2").await;
    for _ in 0..41 {
        flood.report(1, v1::Health::Ready).await;
    }
    assert_eq!(flood.end().await, Code::ResourceExhausted);
    // Ten a second are not a flood.
    for _ in 0..200 {
        sleep(Duration::from_millis(100)).await;
        other.report(2, v1::Health::Ready).await;
    }
    sleep(Duration::from_secs(1)).await;
    assert!(
        other
            .from
            .try_recv()
            .is_err_and(|error| error == mpsc::error::TryRecvError::Empty)
    );

    let mut names = plane.connected("a", "a1").await;
    let uses = vec![v1::PolicyUse {
        policy: "x".repeat(301),
        ..v1::PolicyUse::default()
    }];
    names.send(Message::Usage(v1::UsageReport { uses })).await;
    assert_eq!(names.end().await, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn r34_a_revoked_identity_loses_its_stream_at_once() {
    let plane = Plane::new();
    let mut a = plane.connected("a", "a1").await;
    let mut b = plane.connected("b", "b1").await;
    plane.hub.set_revocations(v1::Revocations {
        revision: 1,
        spiffe_ids: vec!["spiffe://ringwall.local/a".into()],
        ..v1::Revocations::default()
    });
    let before = Instant::now();
    assert_eq!(a.end().await, Code::PermissionDenied);
    assert!(before.elapsed() < Duration::from_millis(10));
    assert_eq!(b.apply().await.changed[0].name, "revocations");
    let mut again = plane.open("a");
    again.hello("a1", 0).await;
    assert_eq!(again.end().await, Code::PermissionDenied);
    // So does one whose registration has gone.
    plane.hub.set_services(vec![service("a")]);
    assert_eq!(b.end().await, Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn r31_an_apply_can_wait_for_answers() {
    let plane = Plane::new();
    let (mut a, mut b) = (
        plane.connected("a", "a1").await,
        plane.connected("b", "b1").await,
    );
    plane
        .hub
        .set_policy(policy(2), vec![edge("a", "b"), edge("b", "c")]);
    let policies =
        |all: &[ProxyState]| -> Vec<u64> { all.iter().map(|proxy| proxy.policy).collect() };
    let before = Instant::now();
    a.apply().await;
    let late = plane.hub.wait_for_policy(2, Duration::from_secs(5)).await;
    assert_eq!(
        (policies(&late), before.elapsed().as_secs()),
        (vec![2, 1], 5)
    );
    let message = b.next().await;
    let wait = plane.hub.wait_for_policy(2, Duration::from_secs(5));
    let (all, ()) = tokio::join!(wait, b.nack(message.nonce, "policy", "the key\nis unknown"));
    assert_eq!(
        (policies(&all), before.elapsed().as_secs()),
        (vec![2, 1], 5)
    );
    let nack = all[1].nack.clone().unwrap();
    assert_eq!(
        (nack.policy, nack.reason.as_str()),
        (Some(2), "the keyis unknown")
    );
    assert_eq!(nack.resources, ["policy"]);
    // A later version that is applied takes the refusal away; a proxy that has gone is not waited for.
    plane.hub.set_policy(policy(3), vec![]);
    drop(a);
    b.apply().await;
    let all = plane.hub.wait_for_policy(3, Duration::from_secs(5)).await;
    assert_eq!((policies(&all), all[0].nack.clone()), (vec![3], None));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_lead_serves_nobody() {
    let plane = Plane::new();
    let mut a = plane.connected("a", "a1").await;
    plane.hub.step_down();
    assert_eq!(a.end().await, Code::Unavailable);
    let mut again = plane.open("a");
    again.hello("a1", 0).await;
    assert_eq!(again.end().await, Code::Unavailable);
    plane.hub.lead(2_000_000, fill);
    plane.connected("a", "a1").await;
    // From one lead to the next, a stream of before does not go on.
    let mut old = plane.connected("b", "b1").await;
    plane.hub.lead(3_000_000, fill);
    assert_eq!(old.end().await, Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn after_a_start_endpoints_are_spared_for_one_lease() {
    let plane = Plane::new();
    let mut a = plane.open("a");
    // A state of another life.
    a.hello("a1", 999_998).await;
    let first = a.apply().await;
    assert!(!first.snapshot);
    assert!(
        first
            .changed
            .iter()
            .all(|resource| !resource.name.starts_with("endpoints/"))
    );
    assert!(
        first
            .changed
            .iter()
            .any(|resource| resource.name == "policy")
    );
    let b = plane.connected("b", "b1").await;
    b.report(1, v1::Health::Ready).await;
    let before = Instant::now();
    let second = a.apply().await;
    assert!(second.snapshot);
    assert_eq!(endpoints(&second, "b"), ["127.0.0.1:1"]);
    assert!(
        (4.9..5.1).contains(&before.elapsed().as_secs_f64()),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_a_message_even_if_nothing_has_changed() {
    let plane = Plane::new();
    let mut a = plane.open("a");
    a.hello("a1", 0).await;
    let first = a.apply().await;
    drop(a);
    let mut again = plane.open("a");
    again.hello("a1", first.revision).await;
    let second = again.apply().await;
    assert!(!second.snapshot && second.changed.is_empty() && second.removed.is_empty());
    assert_eq!(
        (second.revision, second.base),
        (first.revision, first.revision)
    );
    sleep(Duration::from_secs(60)).await;
    assert!(again.from.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn r51_uses_are_handed_on_with_the_workload() {
    let plane = Plane::new();
    let a = plane.connected("a", "a1").await;
    let uses = vec![v1::PolicyUse {
        policy: "p".into(),
        permitted: 3,
        ..v1::PolicyUse::default()
    }];
    a.send(Message::Usage(v1::UsageReport { uses })).await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(*plane.uses.lock(), [("a".to_owned(), "p".to_owned(), 3)]);
}
