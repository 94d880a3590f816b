//! Who is not let in, and what is not let through.

use http::Request;

use ringwall_identity::SpiffeId;
use ringwall_tls::IdentitySource;

use super::peers::{is_let_in, tls};
use super::world::{ADMIN, HOUR, HTTP, TCP, World, authority, bundle, identity};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r50_an_undeclared_caller_is_refused_in_the_handshake() {
    let world = World::start().await;
    let payments = world.source("payments");
    for at in [
        world.at(HTTP),
        world.at(ADMIN),
        world.at(TCP),
        world.hbone(),
    ] {
        assert!(!is_let_in(&payments, at).await);
    }
    // An edge to one port is none to another.
    assert!(!is_let_in(&world.source("gateway"), world.at(ADMIN)).await);
    assert!(!is_let_in(&world.source("ringwall"), world.at(HTTP)).await);
    assert!(is_let_in(&world.source("gateway"), world.at(HTTP)).await);
    assert_eq!(world.app.seen(), 1, "the last one alone");
    let line = world.line(|line| line["caller"] == "payments").await;
    assert_eq!(line["refusal"], "edge-denied");
    assert!(line["reason"].as_str().expect("reason").contains("no edge"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_boot_without_policy_denies() {
    let world = World::ignorant(&[]).await;
    let gateway = world.source("gateway");
    assert!(!is_let_in(&gateway, world.at(HTTP)).await);
    let line = world.line(|line| line["refusal"] == "edge-denied").await;
    assert!(
        line["reason"]
            .as_str()
            .expect("reason")
            .contains("no policy")
    );
    world.publish(bundle());
    assert!(is_let_in(&gateway, world.at(HTTP)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r71_attack_a_caller_of_another_trust_domain_is_refused() {
    let world = World::start().await;
    let other = authority("other.example");
    let directory = identity(&other, world.directory.path(), "gateway", HOUR);
    // It believes us, so that the refusal is ours.
    std::fs::write(directory.join("bundle.pem"), world.authority.cert_pem()).expect("bundle");
    let stranger = IdentitySource::load(&directory).expect("identity");
    assert_eq!(
        stranger.spiffe_id(),
        SpiffeId::parse("spiffe://other.example/gateway").expect("id")
    );
    assert!(!is_let_in(&stranger, world.at(HTTP)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r60_attack_a_stolen_name_without_its_certificate_is_worth_nothing() {
    let world = World::start().await;
    // inventory has an edge, says that it is the gateway in every field, and stays inventory.
    let request = "GET /v1/orders HTTP/1.1\r\nHost: orders\r\nX-Forwarded-Client-Cert: URI=spiffe://ringwall.local/gateway\r\nX_Forwarded_Client_Cert: URI=spiffe://ringwall.local/gateway\r\nX-Ringwall-Loopback: tests-only-0123456789abcdef0123456789abcdef0\r\nConnection: close\r\n\r\n";
    let answer = world.send("inventory", HTTP, request).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(
        answer.field("content-type"),
        Some("application/problem+json")
    );
    assert!(
        !answer.body.contains("gateway-calls"),
        "reasons are for the operator"
    );
    assert_eq!(world.app.seen(), 0);
    let line = world.line(|line| line["caller"] == "inventory").await;
    assert_eq!(line["refusal"], "policy-denied");
    assert_eq!(line["reason"], "no policy permits");
    assert_eq!(line["flag"], "UAEX");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_forged_fields_never_reach_the_application() {
    let world = World::start().await;
    let request = "GET /v1/orders HTTP/1.1\r\nHost: orders\r\nX-Forwarded-Client-Cert: URI=spiffe://ringwall.local/ringwall\r\nx_forwarded_client_cert: forged\r\nX-Ringwall-Loopback: forged\r\nx_ringwall_loopback: forged\r\nx_ringwall_user_context: forged\r\nConnection: close\r\n\r\n";
    let answer = world.send("gateway", HTTP, request).await;
    assert_eq!(answer.status, 200);
    assert!(
        !answer.body.contains("forged") && !answer.body.contains("local/ringwall"),
        "{answer:?}"
    );
    let mut peer = world.http2("gateway", HTTP).await;
    let request = Request::get("http://orders/v1/orders")
        .header("x-forwarded-client-cert", "forged")
        .header("x-forwarded-client-cert", "forged")
        .header("x-ringwall-loopback", "forged")
        .header("x_ringwall-loopback", "forged")
        .body(&[][..])
        .expect("request");
    let answer = peer.send(request).await;
    assert_eq!(answer.head.status, 200);
    assert!(!String::from_utf8_lossy(&answer.body).contains("forged"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r57_the_proxy_decides_by_path_header_and_method() {
    let world = World::start().await;
    assert_eq!(world.get("gateway", "/v1/orders").await.status, 200);
    assert_eq!(world.get("gateway", "/forbidden/x").await.status, 403);
    let evil =
        "GET /v1/orders HTTP/1.1\r\nHost: orders\r\nX-Tenant: evil\r\nConnection: close\r\n\r\n";
    assert_eq!(world.send("gateway", HTTP, evil).await.status, 403);
    let good = evil.replace("evil", "good");
    assert_eq!(world.send("gateway", HTTP, &good).await.status, 200);
    // Again, now that decisions are remembered.
    assert_eq!(world.send("gateway", HTTP, evil).await.status, 403);
    assert_eq!(world.send("gateway", HTTP, &good).await.status, 200);
    let line = world.line(|line| line["reason"] == "tenants").await;
    assert_eq!(line["refusal"], "policy-denied");
    let mut peer = world.http2("gateway", HTTP).await;
    let call = Request::post("http://orders/forbidden.Service/Call")
        .header("content-type", "application/grpc")
        .body(&[][..])
        .expect("request");
    let answer = peer.send(call).await;
    assert_eq!(answer.head.headers["grpc-status"], "7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r57_a_new_policy_counts_for_the_next_request_on_an_open_connection() {
    let world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    assert_eq!(peer.get("/v1/orders").await.head.status, 200);
    let mut stricter = bundle();
    let text = stricter.policies.values().next().expect("policy").clone();
    let text = text.replace("/forbidden*", "/v1/*");
    stricter.policies.insert("main.cedar".to_owned(), text);
    world.publish(stricter);
    assert_eq!(peer.get("/v1/orders").await.head.status, 403);
    world.publish(bundle());
    assert_eq!(peer.get("/v1/orders").await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_in_dry_run_is_logged_and_not_enforced() {
    let world = World::start().await;
    assert_eq!(world.get("gateway", "/trial").await.status, 200);
    let line = world.line(|line| line["path"] == "/trial").await;
    assert_eq!(line["dry_run"], "deny");
    assert_eq!(line["dry_run_reason"], "trial");
    let report = world.state.usage.take().expect("uses");
    let tried = report.uses.iter().find(|used| used.policy == "trial");
    assert_eq!(tried.map(|used| used.dry_run), Some(1));
    let edge = report
        .uses
        .iter()
        .find(|used| used.policy == "edge:gateway>orders");
    assert_eq!(edge.map(|used| used.permitted), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_revoked_workload_is_refused_in_the_handshake() {
    let world = World::start().await;
    let gateway = world.source("gateway");
    assert!(is_let_in(&gateway, world.at(HTTP)).await);
    world.revoke("gateway");
    assert!(!is_let_in(&gateway, world.at(HTTP)).await);
    assert!(is_let_in(&world.source("inventory"), world.at(HTTP)).await);
    let line = world.line(|line| line["refusal"] == "edge-denied").await;
    assert!(line["reason"].as_str().expect("reason").contains("revoked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r43_plaintext_is_no_way_in() {
    let world = World::start().await;
    for at in [world.at(HTTP), world.at(TCP), world.hbone()] {
        let mut stream = tokio::net::TcpStream::connect(at).await.expect("connect");
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
            .await
            .expect("write");
        let mut answer = Vec::new();
        super::peers::read_some(&mut stream, &mut answer).await;
        assert!(
            !answer.starts_with(b"HTTP"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    drop(tls(&world.source("gateway"), world.at(HTTP)).await);
    assert_eq!(world.app.seen(), 0);
}
