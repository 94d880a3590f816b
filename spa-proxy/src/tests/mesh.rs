//! The whole component on a real mesh listener: who gets through the handshake, and as whom.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use http::{Request, StatusCode, header};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use ringwall_http_io::{Client, ClientError, ClientLimits, Transport, body};
use ringwall_identity::{SpiffeId, TrustDomain, authority::Authority};
use ringwall_secret::private_file;
use ringwall_service::{ComponentConfig, Shell, serve};
use ringwall_tls::{IdentitySource, mesh_client_config};
use serde_json::json;
use time::OffsetDateTime;

use crate::{app, config::Config};

/// One trust domain with its authority and the directories of its workloads.
pub(crate) struct Mesh {
    authority: Authority,
    directory: tempfile::TempDir,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        ringwall_tls::install_crypto_provider();
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        let authority = Authority::generate(&domain, OffsetDateTime::now_utc()).unwrap();
        Self {
            authority,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn identity(&self, name: &str) -> PathBuf {
        let directory = self.directory.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let hour = Duration::from_secs(3_600);
        let issued = self
            .authority
            .issue_svid(&id(name), &[], hour, OffsetDateTime::now_utc())
            .unwrap();
        for (file, text) in [
            ("bundle.pem", self.authority.cert_pem()),
            ("svid.key", &issued.key_pem),
            ("svid.pem", &issued.chain_pem),
        ] {
            private_file::write(&directory.join(file), text.as_bytes()).unwrap();
        }
        directory
    }

    pub(crate) fn client(&self, from: &str, address: SocketAddr) -> Client {
        let source = IdentitySource::load(&self.identity(from)).unwrap();
        let tls = mesh_client_config(&source, id("spa-proxy")).unwrap();
        Client::mesh(address, tls, ClientLimits::default())
    }

    pub(crate) fn config(&self, port: u16, admin: u16) -> Config {
        let identity = self.identity("spa-proxy");
        let bundle = self.directory.path().join("dist");
        std::fs::create_dir_all(bundle.join("assets")).unwrap();
        std::fs::write(bundle.join("index.html"), "<!doctype html>").unwrap();
        serde_json::from_value(json!({
            "service": {
                "name": "spa-proxy", "trust_domain": "ringwall.local", "profile": "demo",
                "listen": format!("127.0.0.1:{port}"), "admin": format!("127.0.0.1:{admin}"),
                "identity": identity, "callers": ["gateway", "orders"],
                "upstreams": { "authz-server": { "address": "127.0.0.1:1", "identity": "authz-server" } },
                "secrets": { "provider": "file", "directory": self.directory.path() },
            },
            "public_origin": "https://app.localhost:8443",
            "issuer": "https://auth.localhost:8443",
            "api": { "url": "https://api.localhost:8443", "address": "127.0.0.1:1",
                "roots": identity.join("bundle.pem") },
            "assets": bundle,
        }))
        .unwrap()
    }
}

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

async fn get(client: &Client, path: &str) -> Result<StatusCode, ClientError> {
    let request = Request::builder().uri(path).body(body::empty()).unwrap();
    client.send(request).await.map(|response| response.status())
}

fn export() -> Request<body::BoxBody> {
    let span = Span {
        trace_id: vec![7; 16],
        span_id: vec![7; 8],
        name: "POST /v1/orders".into(),
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans {
        spans: vec![span],
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        scope_spans,
        ..ResourceSpans::default()
    }];
    let export = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    Request::post("/v1/traces")
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .body(body::full(export))
        .unwrap()
}

#[tokio::test]
async fn r71_each_workload_reaches_its_own_routes_and_no_stranger_gets_in() {
    let mesh = Mesh::new();
    let (port, admin) = (free_port(), free_port());
    let config = mesh.config(port, admin);
    config.validate().unwrap();
    let shell = Shell::open("spa-proxy", config.service.clone()).unwrap();
    let app = app::start(shell.clone(), config).await.unwrap();
    let running = tokio::spawn(serve(shell.clone(), app));
    let address: SocketAddr = ([127, 0, 0, 1], port).into();

    let gateway = mesh.client("gateway", address);
    let mut first = get(&gateway, "/").await;
    for _attempt in 0..50 {
        if first.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        first = get(&gateway, "/").await;
    }
    assert_eq!(first.unwrap(), StatusCode::OK);

    let orders = mesh.client("orders", address);
    assert_eq!(get(&orders, "/").await.unwrap(), StatusCode::FORBIDDEN);
    assert_eq!(
        orders.send(export()).await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(
        gateway.send(export()).await.unwrap().status(),
        StatusCode::OK
    );

    let stranger = mesh.client("payments", address);
    assert!(get(&stranger, "/").await.is_err());
    assert!(stranger.send(export()).await.is_err());

    shell.begin_shutdown();
    running.await.unwrap().unwrap();
}

#[test]
fn r43_the_configuration_accepts_no_plaintext_and_no_long_cache() {
    let mesh = Mesh::new();
    let good = mesh.config(1, 2);
    assert!(good.validate().is_ok());
    let change = |change: fn(&mut Config)| {
        let mut config = good.clone();
        change(&mut config);
        config.validate()
    };
    assert!(change(|c| c.public_origin = "http://app.localhost".parse().unwrap()).is_err());
    assert!(change(|c| c.public_origin = "https://app.localhost/x".parse().unwrap()).is_err());
    assert!(change(|c| c.public_origin = "https://u@app.localhost".parse().unwrap()).is_err());
    assert!(change(|c| c.api.url = "http://api.localhost".parse().unwrap()).is_err());
    assert!(change(|c| c.issuer = "http://auth.localhost".into()).is_err());
    assert!(change(|c| c.introspection_cache = Duration::from_secs(2)).is_err());
    assert!(change(|c| c.session.idle = Duration::ZERO).is_err());
    assert!(change(|c| c.session.max = 0).is_err());
    assert!(change(|c| c.traces.max_spans = 0).is_err());
    assert!(change(|c| c.traces.export_to = Some("authz-server".into())).is_ok());
    let itself = change(|c| {
        let upstream = c.service.upstreams.get_mut("authz-server").unwrap();
        upstream.identity = "spa-proxy".into();
        c.traces.export_to = Some("authz-server".into());
    });
    assert!(itself.is_err(), "a copy of a copy of a copy");
    let unknown = change(|c| c.traces.export_to = Some("jaeger".into()));
    let text = unknown.unwrap_err().to_string();
    assert!(
        text.contains("traces.export_to") && text.contains("jaeger: { address:"),
        "{text}"
    );
}
