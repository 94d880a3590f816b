//! The client against real sockets on loopback: what it sends, and how each failure is named.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::body::{collect, empty};

/// A server that reads one request and answers with fixed bytes; returns what it read.
async fn server(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let n = stream.read(&mut buffer).await.unwrap();
            seen.extend_from_slice(&buffer[..n]);
            let text = String::from_utf8_lossy(&seen).into_owned();
            let complete = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                let length = head
                    .lines()
                    .find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
                body.len() >= length.unwrap_or(0)
            });
            if complete || n == 0 {
                stream.write_all(answer.as_bytes()).await.unwrap();
                return text;
            }
        }
    });
    (address, task)
}

fn client(address: SocketAddr) -> Client {
    let limits = ClientLimits {
        request_timeout: Duration::from_millis(500),
        max_body: 64,
        ..ClientLimits::default()
    };
    Client::plain(address, limits).named("inventory")
}

#[tokio::test]
async fn a_json_call_is_sent_and_decoded() {
    let answer = "HTTP/1.1 201 Created\r\ncontent-length: 10\r\nx-a: 1\r\n\r\n{\"ok\":true}";
    let answer = answer
        .replace("content-length: 10", "content-length: 11")
        .leak();
    let (address, seen) = server(answer).await;
    let response: JsonResponse<Value> = client(address)
        .post("/v1/x?y=1")
        .header("x-api-key", "rwk_1")
        .bearer("token")
        .json(&json!({"a": 1}))
        .receive()
        .await
        .unwrap();
    assert_eq!(response.status, 201);
    assert_eq!(response.headers["x-a"], "1");
    assert_eq!(response.body, json!({"ok": true}));
    let seen = seen.await.unwrap();
    assert!(seen.starts_with("POST /v1/x?y=1 HTTP/1.1\r\n"), "{seen}");
    for line in [
        "x-api-key: rwk_1",
        "authorization: Bearer token",
        "content-type: application/json",
    ] {
        assert!(seen.contains(line), "{line} in {seen}");
    }
    assert!(seen.contains(&format!("host: {address}")));
    assert!(seen.ends_with(r#"{"a":1}"#));
}

#[tokio::test]
async fn a_form_is_encoded() {
    let (address, seen) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    client(address)
        .post("/token")
        .form(&[("a b", "c&d")])
        .receive::<Value>()
        .await
        .unwrap();
    assert!(seen.await.unwrap().ends_with("\r\n\r\na+b=c%26d"));
}

#[tokio::test]
async fn an_absolute_uri_cannot_redirect_the_client() {
    let (address, seen) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
    let request = Request::get("http://169.254.169.254/latest")
        .body(empty())
        .unwrap();
    assert_eq!(client(address).send(request).await.unwrap().status(), 204);
    assert!(seen.await.unwrap().starts_with("GET /latest HTTP/1.1"));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (address, _seen) =
        server("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n").await;
    let error = client(address).get_json::<Value>("/").await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::FOUND));
}

#[tokio::test]
async fn an_empty_answer_reads_as_unit() {
    let (address, _seen) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
    client(address)
        .delete("/v1/x")
        .receive::<()>()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_problem_is_a_refusal_with_its_slug() {
    let body = r#"{"type":"urn:ringwall:problem:out-of-stock","title":"t","status":409}"#;
    let answer = format!(
        "HTTP/1.1 409 Conflict\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (address, _seen) = server(answer.leak()).await;
    let limits = ClientLimits::default();
    let error = Client::plain(address, limits)
        .named("inventory")
        .get_json::<Value>("/")
        .await;
    let error = error.unwrap_err();
    assert_eq!(
        (error.status(), error.slug()),
        (Some(StatusCode::CONFLICT), Some("out-of-stock"))
    );
    assert_eq!(
        error.to_string(),
        "inventory answered 409 Conflict (out-of-stock)"
    );
}

#[tokio::test]
async fn an_answer_over_the_limit_is_refused() {
    let (address, _seen) = server("HTTP/1.1 200 OK\r\ncontent-length: 65\r\n\r\n").await;
    let error = client(address).get_json::<Value>("/").await.unwrap_err();
    let too_large = BodyError::TooLarge { limit: 64 };
    assert!(
        matches!(&error, ClientError::Body { source, .. } if source.to_string() == too_large.to_string())
    );
}

#[tokio::test]
async fn json_of_another_shape_is_a_decode_error() {
    let (address, _seen) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let error = client(address).get_json::<Vec<u8>>("/").await.unwrap_err();
    assert!(matches!(error, ClientError::Decode { .. }));
}

#[tokio::test]
async fn a_silent_upstream_times_out() {
    let (address, _seen) = server("").await;
    // The server closes instead of answering: an exchange error. A listener that never accepts is the timeout.
    assert!(matches!(
        client(address).get_json::<Value>("/").await.unwrap_err(),
        ClientError::Exchange { .. }
    ));
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let error = client(silent.local_addr().unwrap())
        .get_json::<Value>("/")
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }));
}

#[tokio::test]
async fn a_closed_port_is_a_connect_error() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = client(address).get_json::<Value>("/").await.unwrap_err();
    assert!(error.is_connect());
    assert!(
        error
            .to_string()
            .starts_with("cannot connect to inventory: Connection refused")
    );
}

#[tokio::test]
async fn connect_is_refused_and_bad_headers_are_named() {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let connect = Request::builder()
        .method(Method::CONNECT)
        .uri("x:1")
        .body(empty())
        .unwrap();
    assert!(matches!(
        client(address).send(connect).await,
        Err(ClientError::Request(_))
    ));
    let smuggled = client(address)
        .get("/")
        .header("x-a", "1\r\nx-b: 2")
        .send()
        .await;
    assert!(matches!(smuggled, Err(ClientError::Request(_))));
    let bad_path = client(address).get("/ x").send().await;
    assert!(matches!(bad_path, Err(ClientError::Request(_))));
}

#[tokio::test]
async fn a_streamed_answer_outlives_the_request_timeout() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        let _request = stream.read(&mut buffer).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        stream.write_all(b"cd").await.unwrap();
    });
    let response = client(address).get("/stream").send().await.unwrap();
    assert_eq!(collect(response.into_body(), 64).await.unwrap(), "abcd");
}

#[tokio::test]
async fn by_way_of_a_proxy_the_service_is_named_and_every_request_carries_the_pass() {
    let (address, seen) = server("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue").await;
    let pass = (
        HeaderName::from_static("x-pass"),
        "of-the-proxy".parse().unwrap(),
    );
    let limits = ClientLimits::default();
    let client = Client::through(address, "inventory", pass, limits).unwrap();
    // What a caller sets under that name is replaced.
    let call = client.get("/v1/items").header("x-pass", "another");
    assert!(call.receive::<bool>().await.unwrap().body);
    let text = seen.await.unwrap();
    assert!(text.starts_with("GET /v1/items HTTP/1.1\r\n"), "{text}");
    assert!(text.contains("host: inventory\r\n"), "{text}");
    assert!(text.contains("x-pass: of-the-proxy\r\n"), "{text}");
    assert!(!text.contains("another"), "{text}");
    let pass = (
        HeaderName::from_static("x-pass"),
        "of-the-proxy".parse().unwrap(),
    );
    assert!(Client::through(address, "no name", pass, ClientLimits::default()).is_err());
}
