//! What is outside: names with scripted answers, and servers with certificates.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hickory_resolver::proto::op::{Message, MessageType, OpCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use ringwall_http_io::{BoxBody, body};
use ringwall_identity::TrustDomain;
use ringwall_identity::authority::Authority;
use ringwall_secret::{SecretProvider, SecretsConfig, private_file};
use time::OffsetDateTime;
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::super::*;

/// The secret that no workload may see.
pub(crate) const SECRET: &str = "canary-9c41";

/// Answers by name; the n-th question for addresses gets the n-th list, and the last one for ever.
type Script = HashMap<String, Vec<Vec<IpAddr>>>;

pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    authority: Authority,
    script: Arc<Mutex<Script>>,
    questions: Arc<Mutex<HashMap<String, usize>>>,
    dns: SocketAddr,
}

/// A server outside and what it has seen.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) requests: Arc<Mutex<Vec<Seen>>>,
}

/// A request as it arrived.
pub(crate) struct Seen {
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: usize,
    pub(crate) trailers: HeaderMap,
}

impl World {
    pub(crate) async fn new() -> Self {
        ringwall_tls::install_crypto_provider();
        let domain = TrustDomain::parse("outside.example").unwrap();
        let authority = Authority::generate(&domain, OffsetDateTime::now_utc()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("roots.pem"), authority.cert_pem()).unwrap();
        private_file::write(&directory.path().join("partner-key"), SECRET.as_bytes()).unwrap();
        let script = Arc::<Mutex<Script>>::default();
        let questions = Arc::<Mutex<HashMap<String, usize>>>::default();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns = socket.local_addr().unwrap();
        tokio::spawn(answer(socket, Arc::clone(&script), Arc::clone(&questions)));
        Self {
            directory,
            authority,
            script,
            questions,
            dns,
        }
    }

    /// What `name` resolves to, question by question.
    pub(crate) fn resolves(&self, name: &str, answers: &[&[&str]]) {
        let answers = answers
            .iter()
            .map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect());
        self.script
            .lock()
            .insert(name.to_owned(), answers.collect());
    }

    /// Questions for IPv4 addresses of `name`.
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.questions.lock().get(name).copied().unwrap_or(0)
    }

    fn roots(&self) -> PathBuf {
        self.directory.path().join("roots.pem")
    }

    /// A gateway with these rules (JSON, without roots and name servers).
    pub(crate) fn gateway(&self, networks: &str, rules: &str) -> (Arc<Egress>, Arc<Observer>) {
        let text = format!(
            r#"{{"roots":{:?},"dns":{{"servers":["{}"],"timeout":"1s"}},"networks":{networks},"rules":{rules}}}"#,
            self.roots(),
            self.dns,
        );
        let config: EgressConfig = serde_json::from_str(&text).unwrap();
        config.validate().unwrap();
        let secrets = SecretProvider::open(&SecretsConfig::File {
            directory: self.directory.path().to_owned(),
        });
        let observer = Observer::new("egress", &[]);
        let egress =
            Egress::open(&config, Arc::new(secrets.unwrap()), Arc::clone(&observer)).unwrap();
        (egress, observer)
    }

    fn certificate(&self, names: &[&str]) -> ServerConfig {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let hour = std::time::Duration::from_secs(3600);
        let issued = self
            .authority
            .issue_server(&names, &[], hour, OffsetDateTime::now_utc())
            .unwrap();
        let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
            .unwrap()
    }

    /// A TLS server at `ip` for `names` that speaks `alpn`.
    pub(crate) async fn server(&self, ip: &str, names: &[&str], alpn: &str) -> Upstream {
        let mut config = self.certificate(names);
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (listener, upstream) = Upstream::bind(ip).await;
        let server = upstream.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                server.connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, server) = (acceptor.clone(), server.clone());
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        server.serve(tls).await;
                    }
                });
            }
        });
        upstream
    }

    /// A server without TLS.
    pub(crate) async fn plain_server(&self, ip: &str) -> Upstream {
        let (listener, upstream) = Upstream::bind(ip).await;
        let server = upstream.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                server.connections.fetch_add(1, Ordering::SeqCst);
                let server = server.clone();
                tokio::spawn(async move { server.serve(tcp).await });
            }
        });
        upstream
    }
}

impl Upstream {
    async fn bind(ip: &str) -> (TcpListener, Self) {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        (listener, upstream)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    async fn serve<S>(self, stream: S)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request| self.clone().respond(request));
        let _ended = auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn respond(self, request: Request<Incoming>) -> Result<Response<BoxBody>, Infallible> {
        let (parts, incoming) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let body = incoming.collect().await.ok();
        let trailers = body.as_ref().and_then(|body| body.trailers().cloned());
        self.requests.lock().push(Seen {
            uri: parts.uri,
            headers: parts.headers,
            bytes: body.map_or(0, |body| body.to_bytes().len()),
            trailers: trailers.unwrap_or_default(),
        });
        let response = Response::builder();
        let response = match path.as_str() {
            "/redirect" => response
                .status(StatusCode::FOUND)
                .header("location", "http://169.254.169.254/latest/meta-data/")
                .body(body::empty()),
            "/big" => response.body(body::full(vec![b'x'; 200_000])),
            "/stall" => response.body(body::boxed(Stalled(Some("begun")))),
            "/trailers" => response.body(body::boxed(with_trailers())),
            "/never" => std::future::pending().await,
            "/last" => response
                .header("connection", "close")
                .body(body::full("last")),
            _ => response
                .header("x-ringwall-user-context", "forged")
                .header("alt-svc", "h3=\":443\"")
                .header("server", "outside")
                .body(body::full("hello")),
        };
        Ok(response.unwrap())
    }
}

/// A body whose trailers carry what must not pass beside what must.
pub(crate) fn with_trailers()
-> impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static {
    let mut trailers = HeaderMap::new();
    for name in ["grpc-status", "x-ringwall-user-context", "x-forwarded-for"] {
        trailers.insert(name, http::HeaderValue::from_static("0"));
    }
    let frames = [
        http_body::Frame::data(Bytes::from_static(b"body")),
        http_body::Frame::trailers(trailers),
    ];
    http_body_util::StreamBody::new(futures_util::stream::iter(frames.map(Ok)))
}

/// A body that begins and then says nothing.
struct Stalled(Option<&'static str>);

impl http_body::Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(text) => std::task::Poll::Ready(Some(Ok(http_body::Frame::data(text.into())))),
            None => std::task::Poll::Pending,
        }
    }
}

/// A name server with scripted answers, none of which may be kept.
async fn answer(
    socket: UdpSocket,
    script: Arc<Mutex<Script>>,
    questions: Arc<Mutex<HashMap<String, usize>>>,
) {
    let mut buffer = [0; 1500];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        let Ok(query) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let mut response = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        response.metadata.recursion_desired = true;
        response.metadata.recursion_available = true;
        for question in &query.queries {
            response.add_query(question.clone());
            let name = question
                .name()
                .to_ascii()
                .trim_end_matches('.')
                .to_ascii_lowercase();
            let index = {
                let mut questions = questions.lock();
                let asked = questions.entry(name.clone()).or_insert(0);
                if question.query_type() == RecordType::A {
                    *asked += 1;
                }
                asked.saturating_sub(1)
            };
            let script = script.lock();
            let Some(lists) = script.get(&name) else {
                continue;
            };
            for address in &lists[index.min(lists.len() - 1)] {
                let data = match (address, question.query_type()) {
                    (IpAddr::V4(address), RecordType::A) => RData::A(A(*address)),
                    (IpAddr::V6(address), RecordType::AAAA) => RData::AAAA(AAAA(*address)),
                    _ => continue,
                };
                response.add_answer(Record::from_rdata(question.name().clone(), 0, data));
            }
        }
        let bytes = response.to_vec().unwrap();
        let _gone = socket.send_to(&bytes, peer).await;
    }
}

/// A request of the workload `orders`.
pub(crate) async fn send(
    egress: &Egress,
    request: Request<BoxBody>,
) -> (StatusCode, HeaderMap, String) {
    send_as(egress, "orders", request).await
}

pub(crate) async fn send_as(
    egress: &Egress,
    caller: &str,
    request: Request<BoxBody>,
) -> (StatusCode, HeaderMap, String) {
    let (parts, body) = egress.handle(caller, request).await.into_parts();
    let text = match body.collect().await {
        Ok(body) => String::from_utf8(body.to_bytes().to_vec()).unwrap(),
        Err(error) => format!("cut: {error}"),
    };
    (parts.status, parts.headers, text)
}

pub(crate) fn get(uri: &str) -> Request<BoxBody> {
    Request::get(uri).body(body::empty()).unwrap()
}

/// The flows that the observer has kept.
pub(crate) fn kept(observer: &Observer) -> Vec<Flow> {
    observer.kept_flows()
}
