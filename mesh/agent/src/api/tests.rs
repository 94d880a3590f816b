//! Both APIs over a real unix socket, with this process as the caller.

use std::path::PathBuf;
use std::time::Duration;

use ringwall_mesh_api::sds::secret_discovery_service_client::SecretDiscoveryServiceClient;
use ringwall_mesh_api::v1::Trust as TrustMessage;
use ringwall_mesh_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use ringwall_mesh_api::workload::{
    JwtBundlesRequest, JwtsvidRequest, SECURITY_HEADER, ValidateJwtsvidRequest, X509BundlesRequest,
    X509svidRequest, X509svidResponse,
};
use ringwall_token::{Algorithm, SigningKey};
use serde_json::json;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use self::envoy::asked;
use super::*;
use crate::attest::{Registry, Selectors};
use crate::fixture::{Plane, Wall, domain, id};
use crate::renewal::Renewals;
use crate::trust::Follower;

mod envoy;
mod shield;

struct Node {
    wall: Wall,
    plane: Arc<Plane>,
    follower: Follower,
    registry: Arc<Registry>,
    metrics: Metrics,
    path: PathBuf,
    _stop: oneshot::Sender<()>,
    _folder: tempfile::TempDir,
}

impl Node {
    /// A node where `workloads` may run, and this process is `is`.
    fn new(workloads: &[&str], is: Option<&str>) -> Self {
        Self::with(workloads, is, |_| {})
    }

    fn with(workloads: &[&str], is: Option<&str>, change: impl FnOnce(&mut Plane)) -> Self {
        Self::beside(workloads, is, change, None)
    }

    /// With a shield.
    fn beside(
        workloads: &[&str],
        is: Option<&str>,
        change: impl FnOnce(&mut Plane),
        edge: Option<Arc<Edge>>,
    ) -> Self {
        let wall = Wall::new();
        let mut plane = Plane::new(&wall);
        change(&mut plane);
        let plane = Arc::new(plane);
        let folder = tempfile::tempdir().unwrap();
        let follower = Follower::open(&domain(), folder.path(), wall.clock());
        follower.take(plane.trust(1, workloads));
        let (registry, metrics) = (Arc::new(Registry::default()), Metrics::default());
        let issuer = Arc::new(Arc::clone(&plane));
        let renewals = Renewals::new(issuer, wall.clock(), metrics.clone());
        let trust = follower.subscribe();
        let workloads = Workloads::new(Arc::clone(&renewals), trust.clone(), metrics.clone());
        tokio::spawn(Arc::clone(&workloads).run());
        let shared = Arc::new(Shared {
            attestor: Attestor::new(Selectors::default(), true, Some(Arc::clone(&registry))),
            workloads,
            trust,
            jwt: JwtSvids::new(renewals),
            metrics: metrics.clone(),
            clock: wall.clock(),
        });
        let path = folder.path().join("agent.sock");
        let socket = Socket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(socket, shared, edge, stopped).await.unwrap();
        });
        let node = Self {
            wall,
            plane,
            follower,
            registry,
            metrics,
            path,
            _stop: stop,
            _folder: folder,
        };
        if let Some(workload) = is {
            node.we_are(workload);
        }
        node
    }

    fn we_are(&self, workload: &str) {
        let text = std::fs::read_to_string("/proc/self/stat").unwrap();
        let started = text
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(19)
            .unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        self.registry
            .enter(pid, started.parse().unwrap(), workload)
            .unwrap();
    }

    fn channel(&self) -> Channel {
        ringwall_workload_api::channel(&self.path)
    }

    fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel())
    }

    async fn svids(&self) -> Result<Streaming<X509svidResponse>, Status> {
        let answer = self
            .client()
            .fetch_x509svid(asking(X509svidRequest {}))
            .await?;
        Ok(answer.into_inner())
    }

    fn take(&self, trust: TrustMessage) {
        self.follower.take(trust);
    }
}

fn asking<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, "true".parse().unwrap());
    request
}

/// What a stream says next; a refusal may come with it or before it.
async fn first<T>(stream: Result<Streaming<T>, Status>) -> Result<T, Status> {
    stream?
        .message()
        .await
        .map(|message| message.expect("it has not ended"))
}

#[tokio::test]
async fn r33_an_svid_comes_with_its_key_and_roots_and_again_when_it_is_renewed() {
    let node = Node::with(&["orders"], Some("orders"), |plane| {
        plane.ttl = Duration::from_secs(4);
    });
    let mut stream = node.svids().await.unwrap();
    let answer = stream.message().await.unwrap().unwrap();
    let [svid] = answer.svids.as_slice() else {
        panic!("one identity");
    };
    assert_eq!(svid.spiffe_id, id("orders").as_str());
    let chain = ringwall_workload_api::split(&svid.x509_svid).unwrap();
    assert_eq!(chain.len(), 2, "leaf and intermediate");
    assert_eq!(svid.bundle, node.plane.bundle().concat());
    assert!(answer.crl.is_empty());
    let next = stream.message().await.unwrap().unwrap();
    assert_ne!(next.svids[0].x509_svid_key, svid.x509_svid_key);
    assert_eq!(node.metrics.open_streams("FetchX509SVID"), 1);
}

#[tokio::test]
async fn attack_a_call_without_the_security_header_is_refused() {
    let node = Node::new(&["orders"], Some("orders"));
    let mut client = node.client();
    let bare = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(bare.code(), Code::InvalidArgument);
    let mut request = Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, "false".parse().unwrap());
    let wrong = client.fetch_x509svid(request).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    let validate = client
        .validate_jwtsvid(ValidateJwtsvidRequest::default())
        .await
        .unwrap_err();
    assert_eq!(validate.code(), Code::InvalidArgument);
    let bundles = client
        .fetch_jwt_bundles(JwtBundlesRequest {})
        .await
        .unwrap_err();
    assert_eq!(bundles.code(), Code::InvalidArgument);
    assert_eq!(node.metrics.refusals("no_security_header"), 4);
}

#[tokio::test]
async fn r53_a_caller_that_nobody_knows_gets_nothing_by_any_call() {
    let node = Node::new(&["orders"], None);
    let denied = |status: Status| {
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, NO_IDENTITY)
        );
    };
    let mut client = node.client();
    denied(first(node.svids().await).await.unwrap_err());
    denied(
        client
            .fetch_x509_bundles(asking(X509BundlesRequest {}))
            .await
            .unwrap_err(),
    );
    denied(
        client
            .fetch_jwt_bundles(asking(JwtBundlesRequest {}))
            .await
            .unwrap_err(),
    );
    let jwt = JwtsvidRequest {
        audience: vec!["payments".into()],
        spiffe_id: String::new(),
    };
    denied(client.fetch_jwtsvid(asking(jwt)).await.unwrap_err());
    denied(
        client
            .validate_jwtsvid(asking(ValidateJwtsvidRequest::default()))
            .await
            .unwrap_err(),
    );
    let mut envoy = SecretDiscoveryServiceClient::new(node.channel());
    denied(envoy.fetch_secrets(asked(&["default"])).await.unwrap_err());
    assert_eq!(node.metrics.refusals("unattested"), 6);
}

#[tokio::test]
async fn attack_a_self_declared_identity_counts_for_nothing() {
    let node = Node::new(&["orders", "payments"], Some("orders"));
    let mut request = asking(X509svidRequest {});
    for (name, value) in [
        ("spiffe-id", "spiffe://ringwall.local/payments"),
        ("x-workload", "payments"),
        ("authorization", "Bearer payments"),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let stream = node
        .client()
        .fetch_x509svid(request)
        .await
        .unwrap()
        .into_inner();
    let answer = first(Ok(stream)).await.unwrap();
    assert_eq!(answer.svids[0].spiffe_id, id("orders").as_str());
    let jwt = JwtsvidRequest {
        audience: vec!["x".into()],
        spiffe_id: id("payments").to_string(),
    };
    let refused = node.client().fetch_jwtsvid(asking(jwt)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut envoy = SecretDiscoveryServiceClient::new(node.channel());
    let name = id("payments").to_string();
    let refused = envoy.fetch_secrets(asked(&[&name])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn r53_a_workload_of_another_node_gets_nothing_and_one_that_leaves_is_cut() {
    let node = Node::new(&["payments"], Some("orders"));
    let refused = first(node.svids().await).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(node.metrics.refusals("unregistered"), 1);
    node.take(node.plane.trust(2, &["orders"]));
    let mut stream = node.svids().await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
    node.take(node.plane.trust(3, &["payments"]));
    let cut = stream.message().await.unwrap_err();
    assert_eq!(cut.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn r34_a_revocation_list_is_pushed() {
    let node = Node::new(&["orders"], Some("orders"));
    let mut stream = node.svids().await.unwrap();
    stream.message().await.unwrap();
    let root = node.plane.bundle().remove(0);
    node.take(
        node.plane
            .revoking(node.plane.trust(2, &["orders"]), &[&root]),
    );
    let answer = stream.message().await.unwrap().unwrap();
    assert_eq!(answer.crl.len(), 1);
    let bundles = node
        .client()
        .fetch_x509_bundles(asking(X509BundlesRequest {}))
        .await;
    let bundles = first(bundles.map(tonic::Response::into_inner))
        .await
        .unwrap();
    assert_eq!(bundles.crl, answer.crl);
    assert_eq!(
        bundles.bundles["spiffe://ringwall.local"],
        node.plane.bundle().concat()
    );
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_cannot_be_had_yet_is_unavailable_with_the_reason() {
    let node = Node::new(&["orders"], Some("orders"));
    node.plane.is_away(true);
    let status = first(node.svids().await).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("it is away"), "{status}");
}

#[tokio::test]
async fn jwt_svids_are_got_kept_and_validated() {
    let node = Node::new(&["orders"], Some("orders"));
    let mut client = node.client();
    let ask = |audience: &[&str]| {
        asking(JwtsvidRequest {
            audience: audience.iter().map(|one| (*one).to_owned()).collect(),
            spiffe_id: String::new(),
        })
    };
    let none = client.fetch_jwtsvid(ask(&[])).await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument);
    let empty = client.fetch_jwtsvid(ask(&[""])).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    let one = client
        .fetch_jwtsvid(ask(&["a", "b"]))
        .await
        .unwrap()
        .into_inner();
    let again = client
        .fetch_jwtsvid(ask(&["b", "a"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(one, again);
    assert_eq!(node.plane.jwts.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(one.svids[0].spiffe_id, id("orders").as_str());
    // Half of five minutes.
    node.wall.jump(time::Duration::seconds(151));
    let fresh = client
        .fetch_jwtsvid(ask(&["a", "b"]))
        .await
        .unwrap()
        .into_inner();
    assert_ne!(fresh, one);
    node.plane.is_away(true);
    node.wall.jump(time::Duration::seconds(151));
    let kept = client
        .fetch_jwtsvid(ask(&["a", "b"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(kept, fresh, "it is good while the control plane is away");
    let valid = client
        .validate_jwtsvid(asking(ValidateJwtsvidRequest {
            audience: "b".into(),
            svid: fresh.svids[0].svid.clone(),
        }))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(valid.spiffe_id, id("orders").as_str());
    assert!(valid.claims.unwrap().fields.contains_key("exp"));
    node.wall.jump(time::Duration::seconds(300));
    let gone = client.fetch_jwtsvid(ask(&["a", "b"])).await.unwrap_err();
    assert_eq!(gone.code(), Code::Unavailable);
}

#[tokio::test]
async fn attack_jwt_svids_that_are_not_ours_are_refused() {
    let node = Node::new(&["orders"], Some("orders"));
    let now = node.wall.now().unix_timestamp();
    let good = json!({"sub": id("orders").as_str(), "aud": "b", "exp": now + 60});
    let key = &node.plane.jwt_key;
    let with = |claim: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[claim] = value;
        key.sign("JWT", &claims).unwrap()
    };
    let stranger = SigningKey::generate(Algorithm::Es256).unwrap();
    let tokens = [
        ("another key", stranger.sign("JWT", &good).unwrap()),
        ("another type", key.sign("ringwall-policy", &good).unwrap()),
        ("another audience", with("aud", json!(["x", "y"]))),
        ("expired", with("exp", json!(now - 60))),
        ("without an end", with("exp", json!(null))),
        ("exp as text", with("exp", json!("9999999999"))),
        ("from the future", with("nbf", json!(now + 60))),
        (
            "another domain",
            with("sub", json!("spiffe://other.example/orders")),
        ),
        ("no workload", with("sub", json!("spiffe://ringwall.local"))),
        ("no token", "a.b.c".to_owned()),
    ];
    let validate = |svid: String| {
        let mut client = node.client();
        async move {
            let audience = "b".to_owned();
            let request = ValidateJwtsvidRequest { audience, svid };
            client.validate_jwtsvid(asking(request)).await
        }
    };
    assert!(validate(key.sign("JWT", &good).unwrap()).await.is_ok());
    for (what, token) in tokens {
        let refused = validate(token).await.expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}");
    }
    let mut trust = node.plane.trust(2, &["orders", "payments"]);
    trust.revocations.as_mut().unwrap().spiffe_ids = vec![id("payments").to_string()];
    node.take(trust);
    let revoked = node.plane.token("payments", json!("b"), now + 60);
    assert!(
        validate(revoked)
            .await
            .unwrap_err()
            .message()
            .contains("revoked")
    );
}

#[tokio::test]
async fn connections_of_one_caller_are_limited() {
    let node = Node::new(&["orders"], Some("orders"));
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(node.svids().await.unwrap());
    }
    assert!(node.svids().await.is_err(), "closed without an answer");
    assert_eq!(node.metrics.refusals("too_many_connections"), 1);
    held.clear();
    while node.svids().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
