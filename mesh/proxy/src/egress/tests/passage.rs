use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::super::*;
use super::world::*;

async fn bank(limits: &str) -> (World, Upstream, Arc<Egress>, Arc<Observer>) {
    let world = World::new().await;
    let upstream = world
        .server("127.0.0.2", &["bank.example", "other.example"], "http/1.1")
        .await;
    world.resolves("bank.example", &[&["127.0.0.2"]]);
    let rules = format!(
        r#"[{{"name":"bank","callers":["payments"],"host":"bank.example","port":{},"tls":"passthrough","private":true,"limits":{limits}}}]"#,
        upstream.port()
    );
    let (egress, observer) = world.gateway(r#"["127.0.0.2/32"]"#, &rules);
    (world, upstream, egress, observer)
}

fn authority(upstream: &Upstream) -> String {
    format!("bank.example:{}", upstream.port())
}

#[tokio::test]
async fn r27_a_declared_tunnel_carries_the_workload_s_own_tls() {
    let (world, upstream, egress, _) = bank("{}").await;
    let passage = egress
        .connect("payments", &authority(&upstream))
        .await
        .unwrap();
    let (near, far) = tokio::io::duplex(16 * 1024);
    let carrying = tokio::spawn(passage.carry(far));
    let config =
        ringwall_tls::external_client_config(&world.directory.path().join("roots.pem")).unwrap();
    let mut config = tokio_rustls::rustls::ClientConfig::clone(&config);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("bank.example").unwrap();
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(name, near)
        .await
        .unwrap();
    tls.write_all(b"GET /v1 HTTP/1.1\r\nhost: bank.example\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    tls.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("hello"), "{text}");
    drop(tls);
    carrying.await.unwrap().unwrap();
}

async fn refused(first: &[u8]) -> (Refusal, usize, Arc<Observer>) {
    let (_world, upstream, egress, observer) = bank("{}").await;
    let passage = egress
        .connect("payments", &authority(&upstream))
        .await
        .unwrap();
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    near.write_all(first).await.unwrap();
    near.shutdown().await.unwrap();
    let refusal = passage.carry(far).await.unwrap_err();
    let seen = upstream.requests.lock().len();
    (refusal, seen, observer)
}

/// The first message of a client that asks for `name`.
fn hello(name: &str) -> Vec<u8> {
    let config = tokio_rustls::rustls::ClientConfig::builder()
        .with_root_certificates(tokio_rustls::rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = tokio_rustls::rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn attack_a_tunnel_that_asks_for_another_host_is_ended() {
    ringwall_tls::install_crypto_provider();
    for first in [
        hello("other.example"),
        hello("192.0.2.1"),
        b"GET / HTTP/1.1\r\nhost: bank.example\r\n\r\n".to_vec(),
        b"\x16\x03".to_vec(),
        Vec::new(),
        [&[22, 3, 1, 0x40, 0][..], &[0; 20_000]].concat(),
    ] {
        let (refusal, seen, observer) = refused(&first).await;
        assert!(matches!(refusal, Refusal::Sni { .. }), "{refusal}");
        assert_eq!(seen, 0);
        let flows = kept(&observer);
        assert_eq!(flows[0].verdict, Verdict::Denied);
        assert_eq!(flows[0].bytes_sent, 0, "not a byte went out");
    }
}

#[tokio::test]
async fn attack_tunnels_to_what_is_not_declared_are_denied() {
    let (world, upstream, egress, observer) = bank("{}").await;
    world.resolves("evil.example", &[&["127.0.0.2"]]);
    let port = upstream.port();
    for (caller, authority) in [
        ("orders", format!("bank.example:{port}")),
        ("payments", format!("evil.example:{port}")),
        (
            "payments",
            format!("bank.example:{}", port.wrapping_add(1).max(1)),
        ),
        ("payments", "bank.example".to_owned()),
        ("payments", format!("x@bank.example:{port}")),
        ("payments", format!("127.0.0.2:{port}")),
        ("payments", format!("2130706434:{port}")),
    ] {
        let refusal = egress.connect(caller, &authority).await.err().unwrap();
        assert_eq!(
            refusal.verdict(),
            Verdict::Denied,
            "{caller} {authority}: {refusal}"
        );
    }
    assert_eq!(upstream.connections(), 0);
    assert_eq!(kept(&observer).len(), 7);
    world.resolves("bank.example", &[&["169.254.169.254"]]);
    let refusal = egress
        .connect("payments", &format!("bank.example:{port}"))
        .await
        .err()
        .unwrap();
    assert!(matches!(refusal, Refusal::Address { .. }));
}

#[tokio::test]
async fn a_silent_client_and_a_silent_tunnel_end() {
    let (_world, upstream, egress, _) =
        bank(r#"{"connect_timeout":"50ms","idle_timeout":"50ms"}"#).await;
    let passage = egress
        .connect("payments", &authority(&upstream))
        .await
        .unwrap();
    let (_near, far) = tokio::io::duplex(1024);
    assert_eq!(passage.carry(far).await.unwrap_err(), Refusal::Timeout);
    let passage = egress
        .connect("payments", &authority(&upstream))
        .await
        .unwrap();
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    near.write_all(&hello("bank.example")).await.unwrap();
    let carried = tokio::time::timeout(Duration::from_secs(5), passage.carry(far))
        .await
        .unwrap();
    assert_eq!(
        carried.unwrap_err(),
        Refusal::Timeout,
        "the handshake was never finished"
    );
}

#[tokio::test]
async fn tunnels_at_once_have_a_limit() {
    let (_world, upstream, egress, _) = bank(r#"{"max_requests":1}"#).await;
    let first = egress
        .connect("payments", &authority(&upstream))
        .await
        .unwrap();
    let second = egress
        .connect("payments", &authority(&upstream))
        .await
        .err()
        .unwrap();
    assert!(matches!(second, Refusal::Busy(_)));
    drop(first);
    assert!(
        egress
            .connect("payments", &authority(&upstream))
            .await
            .is_ok()
    );
}
