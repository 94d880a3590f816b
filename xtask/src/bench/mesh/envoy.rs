//! The peer: two Envoys as sidecars, as Istio's data plane does it: HTTP/2 over mutual TLS 1.3 between them, the caller's
//! SPIFFE id and an RBAC rule checked at the far side, opaque TCP through a TLS listener of its own.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Addresses, BACK, FRONT, Side};
use crate::bench::running::{PROXY_CORE, Program};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// How much of its work a pair does: each has all of those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layers {
    Forwarding,
    MutualTls,
    Rbac,
    AccessLog,
}

/// A pair before it is started.
pub(super) struct Design<'a> {
    pub(super) binary: &'a Path,
    /// Has the certificates.
    pub(super) material: &'a Path,
    /// Gets the configurations and logs.
    pub(super) folder: &'a Path,
    pub(super) layers: Layers,
}

impl Design<'_> {
    /// Writes both configurations and says how to start them: far side first.
    pub(super) fn programs(&self, at: &Addresses) -> Result<[Program; 2]> {
        let server = || self.tls(server_tls);
        let far = [
            listener(at.far_http, self.http_filters("app", true), server()),
            listener(at.far_tcp, self.tcp_filters("app", true), server()),
            listener(at.far_bulk, self.tcp_filters("bulk", true), server()),
        ];
        let far_clusters = [
            cluster("app", at.back_end, None, false),
            cluster("bulk", at.bulk, None, false),
        ];
        let near = [
            listener(at.near_http, self.http_filters("http", false), None),
            listener(at.near_tcp, self.tcp_filters("tcp", false), None),
            listener(at.near_bulk, self.tcp_filters("bulk", false), None),
        ];
        let client = |protocol| self.tls(|material| client_tls(material, protocol));
        let near_clusters = [
            cluster("http", at.far_http, client("h2"), true),
            cluster("tcp", at.far_tcp, client("istio"), false),
            cluster("bulk", at.far_bulk, client("istio"), false),
        ];
        Ok([
            self.program(Side::Far, at.far_http, &far, &far_clusters)?,
            self.program(Side::Near, at.near_http, &near, &near_clusters)?,
        ])
    }

    fn has(&self, layer: Layers) -> bool {
        self.layers >= layer
    }

    fn tls(&self, make: impl Fn(&Path) -> Value) -> Option<Value> {
        self.has(Layers::MutualTls).then(|| make(self.material))
    }

    fn program(
        &self,
        side: Side,
        port: u16,
        listeners: &[Value],
        clusters: &[Value],
    ) -> Result<Program> {
        let name = side.name("envoy");
        let file = self.folder.join(format!("{name}.json"));
        let config =
            json!({ "static_resources": { "listeners": listeners, "clusters": clusters } });
        fs::write(&file, config.to_string()).context("writing Envoy's configuration")?;
        let arguments = ["-c", &file.display().to_string()].map(str::to_owned);
        let fixed =
            ["--concurrency", "1", "--disable-hot-restart", "-l", "warn"].map(str::to_owned);
        Ok(Program {
            name,
            path: self.binary.to_owned(),
            arguments: arguments.into_iter().chain(fixed).collect(),
            port,
            log: self.folder.join(format!("{name}.log")),
            core: PROXY_CORE,
        })
    }

    /// The HTTP connection manager; the far side asks RBAC for the caller's SPIFFE id, method and path, and writes a
    /// log line as our proxies do.
    fn http_filters(&self, cluster: &str, far: bool) -> Value {
        let mut filters = Vec::new();
        if far && self.has(Layers::Rbac) {
            filters.push(json!({ "name": "envoy.filters.http.rbac", "typed_config": {
                "@type": format!("{TYPES}.filters.http.rbac.v3.RBAC"),
                "rules": { "action": "ALLOW", "policies": { "front": {
                    "permissions": [{ "and_rules": { "rules": [
                        { "header": { "name": ":method", "string_match": { "exact": "GET" } } },
                        { "url_path": { "path": { "prefix": "/v1/" } } },
                    ] } }],
                    "principals": [caller()],
                } } },
            } }));
        }
        filters.push(
            json!({ "name": "envoy.filters.http.router", "typed_config": {
            "@type": format!("{TYPES}.filters.http.router.v3.Router"),
        } }),
        );
        json!([{ "name": "envoy.filters.network.http_connection_manager", "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": if far { "far" } else { "near" },
            "forward_client_cert_details": if far { "SANITIZE_SET" } else { "SANITIZE" },
            "set_current_client_cert_details": { "uri": true },
            "access_log": self.access_log(far),
            "route_config": { "virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster } }],
            }] },
            "http_filters": filters,
        } }])
    }

    fn access_log(&self, far: bool) -> Value {
        if !self.has(Layers::AccessLog) {
            return json!([]);
        }
        let side = if far { "far" } else { "near" };
        json!([{ "name": "envoy.access_loggers.file", "typed_config": {
            "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
            "path": self.folder.join(format!("envoy-{side}.access")),
            "log_format": { "json_format": {
                "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%",
                "ms": "%DURATION%", "peer": "%DOWNSTREAM_PEER_URI_SAN%",
            } },
        } }])
    }

    fn tcp_filters(&self, cluster: &str, far: bool) -> Value {
        let proxy = json!({ "name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": cluster, "cluster": cluster,
        } });
        if !far || !self.has(Layers::Rbac) {
            return json!([proxy]);
        }
        let rbac = json!({ "name": "envoy.filters.network.rbac", "typed_config": {
            "@type": format!("{TYPES}.filters.network.rbac.v3.RBAC"),
            "stat_prefix": "rbac",
            "rules": { "action": "ALLOW", "policies": { "front": {
                "permissions": [{ "any": true }], "principals": [caller()],
            } } },
        } });
        json!([rbac, proxy])
    }
}

fn listener(port: u16, filters: Value, tls: Option<Value>) -> Value {
    let mut chain = json!({ "filters": filters });
    if let (Some(tls), Some(chain)) = (tls, chain.as_object_mut()) {
        chain.insert("transport_socket".into(), tls);
    }
    json!({ "address": address(port), "filter_chains": [chain] })
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

fn caller() -> Value {
    let id = format!("spiffe://ringwall.local/{FRONT}");
    json!({ "authenticated": { "principal_name": { "exact": id } } })
}

fn cluster(name: &str, port: u16, tls: Option<Value>, http2: bool) -> Value {
    let mut cluster = json!({
        "name": name, "type": "STATIC",
        "load_assignment": { "cluster_name": name, "endpoints": [{
            "lb_endpoints": [{ "endpoint": { "address": address(port) } }],
        }] },
    });
    let Some(fields) = cluster.as_object_mut() else {
        return cluster;
    };
    if let Some(tls) = tls {
        fields.insert("transport_socket".into(), tls);
    }
    if http2 {
        let protocol = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": { "http2_protocol_options": {} },
        } });
        fields.insert("typed_extension_protocol_options".into(), protocol);
    }
    cluster
}

fn server_tls(folder: &Path) -> Value {
    let mut common = common_tls(folder, BACK, FRONT);
    if let Some(fields) = common.as_object_mut() {
        fields.insert("alpn_protocols".into(), json!(["h2", "istio"]));
    }
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": common,
    } })
}

fn client_tls(folder: &Path, protocol: &str) -> Value {
    let mut common = common_tls(folder, FRONT, BACK);
    if let Some(fields) = common.as_object_mut() {
        fields.insert("alpn_protocols".into(), json!([protocol]));
    }
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": common,
    } })
}

fn common_tls(folder: &Path, own: &str, peer: &str) -> Value {
    let file = |name: &str| json!({ "filename": folder.join(name) });
    json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": file(&format!("{own}.pem")),
            "private_key": file(&format!("{own}.key")),
        }],
        "validation_context": {
            "trusted_ca": file("root.pem"),
            "match_typed_subject_alt_names": [{
                "san_type": "URI",
                "matcher": { "exact": format!("spiffe://ringwall.local/{peer}") },
            }],
        },
    })
}
