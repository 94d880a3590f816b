//! A component behind a service proxy, met by its proxy and by others who know its port.

use std::{io::Write, net::SocketAddr, sync::Arc};

use axum::{Router, routing::get};
use http::{HeaderMap, HeaderName, Method, Request};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use proptest::prelude::*;
use ringwall_http_io::{Client, ClientError, ClientLimits, Transport, body::empty};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{
    App, Shell,
    extract::Json,
    fixture::{Mesh, Running, id},
};

/// What the two share in these tests.
const TOKEN: &str = "Zm9ydHktdGhyZWUtbGV0dGVycy1vZi1iYXNlNjR1cmw";
const ORDERS: &str = "By=spiffe://ringwall.local/inventory;URI=spiffe://ringwall.local/orders";

/// The shell of `inventory` behind a proxy whose outbound listener is at `outbound`.
fn shell(mesh: &Mesh, outbound: SocketAddr) -> Shell {
    let extra = format!(
        "sidecar: {{ outbound: \"{outbound}\" }}\nadmin_callers: [ringwall, inventory]\n\
         upstreams: {{ payments: {{ address: \"{outbound}\", identity: payments }} }}\n"
    );
    mesh.secret("loopback-token", TOKEN);
    mesh.shell_behind_a_proxy("inventory", &["orders"], &extra)
}

async fn running(mesh: &Mesh) -> Running {
    let seen = |headers: HeaderMap, peer: Peer| async move {
        let names: Vec<String> = headers.keys().map(ToString::to_string).collect();
        Json(json!({ "peer": peer.0, "fields": names }))
    };
    let app = App::new(Router::new().route("/seen", get(seen)));
    Running::start(shell(mesh, "127.0.0.1:9".parse().unwrap()), app).await
}

/// What the listener at `address` answers to a request with these header fields.
async fn ask(
    address: SocketAddr,
    path: &str,
    fields: &[(&str, &str)],
) -> Result<Value, ClientError> {
    let client = Client::plain(address, ClientLimits::default());
    let mut call = client.request(Method::GET, path);
    for (name, value) in fields {
        call = call.header(name, value);
    }
    call.receive().await.map(|answer| answer.body)
}

fn is_refused(answer: &Result<Value, ClientError>) -> bool {
    let error = answer.as_ref().err();
    error.is_some_and(|e| {
        e.status() == Some(StatusCode::FORBIDDEN) && e.slug() == Some("peer-refused")
    })
}

#[tokio::test]
async fn the_proxy_says_who_calls_and_handlers_see_neither_of_its_fields() {
    let mesh = Mesh::new();
    let running = running(&mesh).await;
    let fields = [(headers::LOOPBACK, TOKEN), (headers::CLIENT_CERT, ORDERS)];
    let answer = ask(running.mesh, "/seen", &fields).await.unwrap();
    assert_eq!(answer["peer"], "spiffe://ringwall.local/orders");
    assert_eq!(answer["fields"], json!(["host"]));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_alike() {
    let mesh = Mesh::new();
    let running = running(&mesh).await;
    let tcp = TcpStream::connect(running.mesh).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = |token: &str| {
        Request::get("http://inventory/seen")
            .header(headers::LOOPBACK, token)
            .header(headers::CLIENT_CERT, ORDERS)
            .body(empty())
            .unwrap()
    };
    let answer = sender.send_request(request(TOKEN)).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["peer"], "spiffe://ringwall.local/orders");
    // The next request of the same connection is judged for itself.
    let refused = sender.send_request(request("another")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    drop(sender);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn r25_attack_a_direct_dial_of_the_loopback_port_is_refused_on_every_path() {
    let mesh = Mesh::new();
    let running = running(&mesh).await;
    for (address, path) in [
        (running.mesh, "/seen"),
        (running.mesh, "/nothing"),
        (running.admin, "/healthz"),
        (running.admin, "/readyz"),
        (running.admin, "/metrics"),
    ] {
        assert!(is_refused(&ask(address, path, &[]).await), "{path}");
    }
    assert_eq!(running.shell.metrics.loopback_refusals.get(), 5);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn r25_attack_a_forged_caller_without_the_token_is_refused() {
    let mesh = Mesh::new();
    let running = running(&mesh).await;
    let named = (headers::CLIENT_CERT, ORDERS);
    let almost = format!("{}X", &TOKEN[..TOKEN.len() - 1]);
    for fields in [
        vec![named],
        vec![named, (headers::LOOPBACK, "")],
        vec![named, (headers::LOOPBACK, "guess")],
        vec![named, (headers::LOOPBACK, almost.as_str())],
        vec![
            named,
            (headers::LOOPBACK, TOKEN),
            (headers::LOOPBACK, "guess"),
        ],
        vec![
            named,
            (headers::LOOPBACK, TOKEN),
            (headers::LOOPBACK, TOKEN),
        ],
        vec![named, ("x_ringwall_loopback", TOKEN)],
    ] {
        let answer = ask(running.mesh, "/seen", &fields).await;
        assert!(is_refused(&answer), "{fields:?}");
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_caller_that_is_missing_unreadable_or_undeclared_is_refused_with_the_token() {
    let mesh = Mesh::new();
    let running = running(&mesh).await;
    for named in [
        None,
        Some("URI=spiffe://ringwall.local/notifications"),
        Some("URI=spiffe://ringwall.example/orders"),
        Some("URI=spiffe://ringwall.local/orders,URI=spiffe://ringwall.local/orders"),
        Some("orders"),
    ] {
        let mut fields = vec![(headers::LOOPBACK, TOKEN)];
        fields.extend(named.map(|text| (headers::CLIENT_CERT, text)));
        let answer = ask(running.mesh, "/seen", &fields).await;
        assert!(is_refused(&answer), "{named:?}");
    }
    // The admin listener has callers of its own.
    let orders = [(headers::LOOPBACK, TOKEN), (headers::CLIENT_CERT, ORDERS)];
    assert!(is_refused(&ask(running.admin, "/readyz", &orders).await));
    let operator = "URI=spiffe://ringwall.local/ringwall";
    let operator = [(headers::LOOPBACK, TOKEN), (headers::CLIENT_CERT, operator)];
    let ready = ask(running.admin, "/readyz", &operator).await.unwrap();
    assert_eq!(ready["ready"], true);
    running.stop().await.unwrap();
}

/// Everything that is logged, as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn r69_attack_the_token_stands_in_no_log_line_whoever_sends_it() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mesh = Mesh::new();
    let running = running(&mesh).await;
    let with = |token: &'static str, named: &'static str| {
        [(headers::LOOPBACK, token), (headers::CLIENT_CERT, named)]
    };
    let wrong = "canary-of-a-wrong-token-that-is-long-enough";
    ask(running.mesh, "/seen", &with(TOKEN, ORDERS))
        .await
        .unwrap();
    ask(running.mesh, "/seen", &with(wrong, ORDERS))
        .await
        .unwrap_err();
    ask(running.mesh, "/seen", &with(TOKEN, "URI=x"))
        .await
        .unwrap_err();
    // The way out is closed: the error of the call is logged as well.
    let payments = running.shell.upstream("payments").unwrap();
    payments.get("/v1").send().await.unwrap_err();
    running.stop().await.unwrap();
    let text = String::from_utf8(lines.0.lock().clone()).unwrap();
    assert!(text.contains("request refused on loopback"), "{text}");
    assert!(text.contains("upstream call failed"), "{text}");
    assert!(!text.contains(TOKEN) && !text.contains(wrong), "{text}");
}

#[tokio::test]
async fn calls_of_upstreams_go_to_the_proxy_by_name_and_with_the_token() {
    let mesh = Mesh::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let seen = |headers: HeaderMap| async move {
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        axum::Json(json!({ "host": text("host"), "token": text(headers::LOOPBACK) }))
    };
    let router = Router::new().route("/v1/payments", get(seen));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let shell = shell(&mesh, proxy);
    let payments = shell.upstream("payments").unwrap();
    let answer = payments.get_json::<Value>("/v1/payments").await.unwrap();
    assert_eq!(answer.body, json!({ "host": "payments", "token": TOKEN }));
    assert!(shell.upstream("orders").is_err(), "only what is declared");
    assert!(shell.identity().is_err(), "the proxy has it");
    assert_eq!(shell.spiffe_id(), id("inventory"));
}

#[tokio::test]
async fn a_token_that_could_be_guessed_or_is_missing_stops_the_start() {
    let mesh = Mesh::new();
    let extra = "sidecar: { outbound: \"127.0.0.1:9\" }";
    let config = mesh.config_behind_a_proxy("inventory", &["orders"], extra);
    let error = Shell::open("inventory", config.clone()).err().unwrap();
    assert!(error.to_string().contains("loopback-token"), "{error}");
    mesh.secret("loopback-token", "short");
    let error = Shell::open("inventory", config).err().unwrap();
    assert_eq!(error.code(), crate::exit::CONFIG);
    assert!(error.to_string().contains("could be guessed"), "{error}");
}

fn door() -> Door {
    Door {
        token: TOKEN.to_owned().into(),
        own: id("inventory"),
        callers: vec![id("orders")],
    }
}

proptest! {
    /// Whatever else a request carries, only the one token and the one caller pass, and neither field
    /// goes on.
    #[test]
    fn only_the_token_and_a_declared_caller_pass(
        tokens in proptest::collection::vec(prop_oneof![Just(TOKEN.to_owned()), "[!-~]{0,50}"], 0..3),
        callers in proptest::collection::vec(prop_oneof![
            Just(ORDERS.to_owned()),
            Just("URI=spiffe://ringwall.local/gateway".to_owned()),
            "[ -~]{0,60}",
        ], 0..3),
    ) {
        let mut request = Request::new(());
        for (name, values) in [(PASS, &tokens), (CALLER, &callers)] {
            for value in values {
                request.headers_mut().append(name.clone(), HeaderValue::from_str(value).unwrap());
            }
        }
        let expected = tokens == [TOKEN] && callers == [ORDERS];
        let admitted = door().admit(&mut request);
        prop_assert_eq!(admitted.is_ok(), expected);
        prop_assert_eq!(request.headers(), &HeaderMap::new());
    }

    #[test]
    fn any_quoted_subject_is_skipped_as_one(subject in "[ -~]{0,40}") {
        let quoted = subject.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!("Subject=\"{quoted}\";URI=spiffe://ringwall.local/orders");
        let mut fields = HeaderMap::new();
        fields.insert(CALLER, HeaderValue::from_str(&text).unwrap());
        let name: HeaderName = CALLER;
        let read = caller::of(&fields, &name, &id("inventory"));
        prop_assert_eq!(read, Ok(id("orders")));
    }
}
