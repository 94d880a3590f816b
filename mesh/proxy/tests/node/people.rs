//! Who asks: the applications over loopback, and the operator over mTLS.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::unfold;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use ringwall_http_io::{Address, BoxBody, Client, ClientLimits, Transport as _, body};
use ringwall_identity::certificate::serial_of;
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_mesh_api::v1::authority_client::AuthorityClient;
use ringwall_mesh_api::v1::{RestoreRequest, RevokeRequest, revoke_request::What};
use ringwall_policy::mesh::administration::{PATH, Proposal, VersionWithBundle};
use ringwall_tls::{mesh_client_config, mesh_grpc_client_config, mesh_server_name};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::world::{NODE, OUTBOUND, PATIENCE, PLANE, World, until};

/// Between two requests of a [`Load`], and between two signs of life of `/stream`.
const PACE: Duration = Duration::from_millis(10);

/// Requests without a pause, and what became of them.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
    outcomes: Arc<Mutex<Outcomes>>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Outcomes {
    pub(crate) good: usize,
    /// At most some of them, with the time since the beginning.
    pub(crate) bad: Vec<(Duration, String)>,
}

/// Serves `/stream` for ever and everything else at once.
pub(crate) async fn application(at: (&str, u16)) {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(answer);
                let _ended = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody>, Infallible> {
    if request.uri().path() != "/stream" {
        return Ok(Response::new(body::full("stock")));
    }
    let ticks = unfold((), |()| async {
        tokio::time::sleep(PACE).await;
        let tick = Frame::data(Bytes::from_static(b"."));
        Some((Ok::<_, Infallible>(tick), ()))
    });
    Ok(Response::new(body::boxed(StreamBody::new(ticks))))
}

fn outbound() -> Client {
    let limits = ClientLimits {
        request_timeout: Duration::from_secs(20),
        ..ClientLimits::default()
    };
    Client::plain(OUTBOUND.parse::<Address>().unwrap(), limits)
}

fn to(host: &str, path: &str) -> Request<BoxBody> {
    let request = Request::get(path).header("host", host);
    request.body(body::empty()).unwrap()
}

async fn whole(sent: Result<Response<Incoming>, ringwall_http_io::ClientError>) -> (u16, String) {
    let response = match sent {
        Ok(response) => response,
        Err(error) => return (0, error.to_string()),
    };
    let status = response.status().as_u16();
    match body::collect(response.into_body(), 1 << 20).await {
        Ok(bytes) => (status, String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => (0, error.to_string()),
    }
}

fn good((status, text): (u16, String)) -> Result<String, (u16, String)> {
    match status {
        200 => Ok(text),
        _ => Err((status, text)),
    }
}

impl World {
    /// `GET path` of `inventory`, as the application `orders` asks it.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.get_of("inventory", path)
    }

    pub(crate) fn get_of(&self, host: &str, path: &str) -> (u16, String) {
        let request = to(host, path);
        self.node
            .run(async move { whole(outbound().send(request).await).await })
    }

    /// Asks `GET path` until it is answered by `status`; how long that took.
    pub(crate) fn until_status(&self, path: &str, status: u16) -> Duration {
        let begun = Instant::now();
        loop {
            let (seen, text) = self.get(path);
            if seen == status {
                return begun.elapsed();
            }
            let waited = begun.elapsed();
            assert!(
                waited < PATIENCE,
                "{path} is not answered by {status}: {seen} {text}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Begins to ask `GET /v1` again and again.
    pub(crate) fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let outcomes = Arc::<Mutex<Outcomes>>::default();
        let (stopping, counted) = (Arc::clone(&stop), Arc::clone(&outcomes));
        let task = self.node.meanwhile(async move {
            let client = outbound();
            let begun = Instant::now();
            while !stopping.load(Ordering::Relaxed) {
                let (status, text) = whole(client.send(to("inventory", "/v1")).await).await;
                counted.lock().count(begun.elapsed(), status, &text);
                tokio::time::sleep(PACE).await;
            }
        });
        Load {
            stop,
            task,
            outcomes,
        }
    }

    /// Opens `/stream` of `inventory` and returns when its first bytes have come; the task ends with the stream.
    pub(crate) fn stream(&self) -> JoinHandle<Instant> {
        let (began, begun) = std::sync::mpsc::sync_channel(1);
        let task = self.node.meanwhile(async move {
            let response = outbound().send(to("inventory", "/stream")).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {
                let _told = began.send(());
            }
            Instant::now()
        });
        begun.recv().expect("a stream");
        task
    }

    /// `GET path` of the admin listener of the proxy of `workload`, which has `port`, as the operator.
    pub(crate) fn admin(&self, workload: &str, port: u16, path: &str) -> (u16, String) {
        let tls = mesh_client_config(&self.operator, id(workload)).unwrap();
        let address: Address = format!("127.0.0.1:{port}").parse().unwrap();
        let request = to(workload, path);
        self.node.run(async move {
            let client = Client::mesh(address, tls, ClientLimits::default());
            whole(client.send(request).await).await
        })
    }

    /// A gauge of the proxy of `workload`; nothing while it does not answer.
    pub(crate) fn gauge(&self, workload: &str, port: u16, name: &str) -> Option<f64> {
        let (status, text) = self.admin(workload, port, "/metrics");
        if status != 200 {
            return None;
        }
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
    }

    /// Replaces `from` by `to` in the policy, as the operator; returns its new version, before proxies have it.
    pub(crate) fn change_policy(&self, from: &str, to: &str) -> u64 {
        self.try_change(from, to)
            .unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    /// The same where it may be refused: by which status, in which words.
    pub(crate) fn try_change(&self, from: &str, to: &str) -> Result<u64, (u16, String)> {
        let tls = mesh_client_config(&self.operator, id("control-plane")).unwrap();
        let address: Address = format!("{PLANE}:{}", self.leader).parse().unwrap();
        let (from, to) = (from.to_owned(), to.to_owned());
        self.plane.run(async move {
            let client = Client::mesh(address, tls, ClientLimits::default());
            let newest = Request::get(PATH).body(body::empty()).unwrap();
            let newest = good(whole(client.send(newest).await).await)?;
            let mut newest: VersionWithBundle = serde_json::from_str(&newest).unwrap();
            for policy in newest.bundle.policies.values_mut() {
                assert!(policy.contains(&from), "no {from:?} in the policy");
                *policy = policy.replace(&from, &to);
            }
            let proposal = Proposal {
                bundle: newest.bundle,
                note: "a test".into(),
                author: String::new(),
            };
            let request = Request::put(PATH)
                .header("if-match", format!("\"{}\"", newest.version.version))
                .header("content-type", "application/json")
                .body(body::full(serde_json::to_vec(&proposal).unwrap()))
                .unwrap();
            good(whole(client.send(request).await).await)?;
            Ok(newest.version.version + 1)
        })
    }

    /// The serial number of the certificate that the proxy of `workload` serves to its peers at `port`.
    pub(crate) fn served_serial(&self, workload: &str, port: u16) -> Vec<u8> {
        let tls = mesh_client_config(&self.operator, id(workload)).unwrap();
        self.node.run(async move {
            let tcp = TcpStream::connect((NODE, port)).await.unwrap();
            let name = mesh_server_name(tcp.peer_addr().unwrap());
            let stream = TlsConnector::from(tls).connect(name, tcp).await.unwrap();
            let chain = stream.get_ref().1.peer_certificates().unwrap();
            serial_of(&chain[0]).unwrap().as_bytes().to_vec()
        })
    }

    /// Revokes a workload by its name.
    pub(crate) fn revoke(&self, workload: &str) {
        let spiffe_id = id(workload).to_string();
        let mut client = self.authority();
        let answered = self.plane.run(async move {
            let request = RevokeRequest {
                what: Some(What::SpiffeId(spiffe_id)),
                reason: "a test".into(),
            };
            client.revoke(request).await
        });
        answered.unwrap();
    }

    pub(crate) fn restore(&self, workload: &str) {
        let spiffe_id = id(workload).to_string();
        let mut client = self.authority();
        let answered = self
            .plane
            .run(async move { client.restore(RestoreRequest { spiffe_id }).await });
        answered.unwrap();
    }

    fn authority(&self) -> AuthorityClient<tonic::transport::Channel> {
        let tls = mesh_grpc_client_config(&self.operator, id("control-plane")).unwrap();
        let address: Address = format!("{PLANE}:{}", self.leader).parse().unwrap();
        self.plane
            .run(async move { AuthorityClient::new(ringwall_service::grpc::channel(address, tls)) })
    }
}

impl Outcomes {
    fn count(&mut self, at: Duration, status: u16, text: &str) {
        if status == 200 {
            self.good += 1;
        } else if self.bad.len() < 20 {
            self.bad.push((at, format!("{status}: {text}")));
        }
    }
}

impl Load {
    pub(crate) fn so_far(&self) -> Outcomes {
        self.outcomes.lock().clone()
    }

    /// Ends it. Every request must have been answered well.
    pub(crate) fn ends_without_error(self, what: &str) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        until("the load ends", || self.task.is_finished().then_some(()));
        let outcomes = self.so_far();
        assert!(
            outcomes.bad.is_empty(),
            "{what}: {} were good, and these not: {:#?}",
            outcomes.good,
            outcomes.bad
        );
        assert!(outcomes.good > 0, "{what}: nothing was asked");
        outcomes.good
    }
}

pub(crate) fn id(workload: &str) -> SpiffeId {
    let domain = TrustDomain::parse("ringwall.local").unwrap();
    SpiffeId::workload(&domain, workload).unwrap()
}
