//! Properties, as a guest reads them.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;
use ringwall_plugin_host::{
    ConnectionInfo, Direction, Names, PeerCertificate, Properties, StreamInfo, UpstreamInfo, Value,
};

use crate::support::*;

/// Copies the property at the path in the plugin's VM configuration into the header x-status; without one, "none".
const COPY: &str = r#"(data (i32.const 100) "none")
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (drop (call $get_buffer (i32.const 6) (i32.const 0) (i32.const 999) (global.get $p) (global.get $n)))
        (if (call $get_property (i32.load (global.get $p)) (i32.load (global.get $n)) (i32.const 60) (i32.const 64))
            (then (i32.store (i32.const 60) (i32.const 100)) (i32.store (i32.const 64) (i32.const 4))))
        (drop (call $set_header (i32.const 0) (i32.const 8) (i32.const 8) (i32.load (i32.const 60)) (i32.load (i32.const 64))))
        (i32.const 0))"#;

struct Extra;

impl Properties for Extra {
    fn property(&self, path: &[&str]) -> Option<Value> {
        (path == ["extra", "one"]).then(|| Value::text("1"))
    }
}

fn facts() -> StreamInfo {
    let connection = ConnectionInfo {
        id: 0x4142_4344_4546_4748,
        source: Some("10.0.0.1:1234".parse().unwrap()),
        destination: Some("[::1]:443".parse().unwrap()),
        server_name: Some(Arc::from("a.example")),
        tls_version: Some(Arc::from("TLSv1.3")),
        peer: Some(PeerCertificate {
            uri_san: Some(Arc::from("spiffe://ringwall.local/orders")),
            ..PeerCertificate::default()
        }),
        local_uri_san: None,
        local_subject: Some(Arc::from("CN=gateway,O=Ringwall")),
    };
    let mut info = StreamInfo::new(
        Arc::new(connection),
        UNIX_EPOCH + Duration::from_nanos(0x41),
    );
    info.route_name = Arc::from("route");
    info.cluster_name = Arc::from("cluster");
    info.direction = Direction::Inbound;
    info.upstream = UpstreamInfo {
        address: Some("10.0.0.2:80".parse().unwrap()),
        ..UpstreamInfo::default()
    };
    let user = Value::map([("sub", Value::text("alice"))]);
    let filter = Value::map([("ringwall.user", user)]);
    info.metadata = Some(Value::map([("filter_metadata", filter)]));
    info.node = Some(Value::map([("id", Value::text("node-1"))]));
    info.properties = Some(Arc::new(Extra));
    info
}

async fn property(path: &str, allowed: Option<Names>) -> Vec<u8> {
    let mut spec = spec();
    spec.vm_configuration = path.replace('.', "\0").replace('+', ".").into();
    spec.root_id = Arc::from("root");
    spec.vm_id = Arc::from("vm");
    if let Some(allowed) = allowed {
        spec.capabilities.read_properties = allowed;
    }
    let bed = Bed::with(&guest(COPY), spec);
    let mut sent = request("abc");
    sent.headers_mut()
        .insert("x-own", HeaderValue::from_static("v"));
    let stream = bed.worker.open(&bed.chain(), facts());
    let passed = stream.request(sent).await.unwrap();
    passed.headers()["x-status"].as_bytes().to_vec()
}

#[tokio::test]
async fn r90_properties_have_envoy_s_names() {
    for (path, expected) in [
        ("request.path", "/path?query"),
        ("request.url_path", "/path"),
        ("request.query", "query"),
        ("request.host", "a.example"),
        ("request.method", "POST"),
        ("request.scheme", "https"),
        ("request.protocol", "HTTP/1.1"),
        ("request.headers.x-own", "v"),
        ("request.headers.x-none", "none"),
        ("request.unknown", "none"),
        ("request", "none"),
        ("response.code", "none"),
        ("source.address", "10.0.0.1:1234"),
        ("destination.address", "[::1]:443"),
        ("upstream.address", "10.0.0.2:80"),
        ("connection.requested_server_name", "a.example"),
        ("connection.tls_version", "TLSv1.3"),
        (
            "connection.uri_san_peer_certificate",
            "spiffe://ringwall.local/orders",
        ),
        ("connection.subject_peer_certificate", "none"),
        ("connection.uri_san_local_certificate", "none"),
        (
            "connection.subject_local_certificate",
            "CN=gateway,O=Ringwall",
        ),
        ("connection.id", "HGFEDCBA"), // little-endian
        ("connection_id", "HGFEDCBA"),
        ("route_name", "route"),
        ("cluster_name", "cluster"),
        ("plugin_name", "p"),
        ("plugin_root_id", "root"),
        ("plugin_vm_id", "vm"),
        ("node.id", "node-1"),
        ("metadata.filter_metadata.ringwall+user.sub", "alice"),
        ("metadata.filter_metadata.ringwall+user.none", "none"),
        ("extra.one", "1"),
        ("extra.two", "none"),
    ] {
        let seen = property(path, None).await;
        assert_eq!(String::from_utf8_lossy(&seen), expected, "{path}");
    }
}

#[tokio::test]
async fn r91_a_property_that_is_not_declared_is_not_there() {
    let some = || Some(Names::new(["request.path", "connection.*"]));
    assert_eq!(property("request.path", some()).await, b"/path?query");
    assert_eq!(property("connection.tls_version", some()).await, b"TLSv1.3");
    assert_eq!(property("request.method", some()).await, b"none");
    assert_eq!(
        property("metadata.filter_metadata.ringwall+user.sub", some()).await,
        b"none"
    );
}

#[tokio::test]
async fn r91_headers_are_not_read_past_the_declaration_as_properties() {
    let mut spec = spec();
    spec.vm_configuration = "request\0headers\0authorization".into();
    spec.capabilities.read_headers = Names::new(["x-*"]);
    let bed = Bed::with(&guest(COPY), spec);
    let mut sent = request("");
    sent.headers_mut()
        .insert("authorization", HeaderValue::from_static("secret"));
    let passed = bed.open().request(sent).await.unwrap();
    assert_eq!(passed.headers()["x-status"], "none");
}

#[tokio::test]
async fn r90_a_property_set_by_one_filter_is_read_by_the_next() {
    let set = r#"(data (i32.const 100) "mine") (data (i32.const 110) "hello")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $set_property (i32.const 100) (i32.const 4) (i32.const 110) (i32.const 5))) (i32.const 0))"#;
    for path in ["mine", "filter_state\0wasm.mine"] {
        let mut reading = spec();
        reading.vm_configuration = path.into();
        let bed = Bed::with(&guest(COPY), reading);
        let mut setting = spec();
        setting.name = Arc::from("setting");
        let first = ringwall_plugin_host::Plugin::new(&load(&bed.runtime, &guest(set)), setting);
        let chain = ringwall_plugin_host::Chain::new([first.unwrap(), bed.plugin.clone()]);
        let passed = bed
            .worker
            .open(&chain, info())
            .request(request(""))
            .await
            .unwrap();
        assert_eq!(passed.headers()["x-status"], "hello", "{path:?}");
        // Of another stream, it is not.
        assert_eq!(bed.get().await.unwrap().headers()["x-status"], "none");
    }
}
