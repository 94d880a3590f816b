//! A real Envoy that gets certificate, key and roots from the agent by SDS.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ringwall_identity::SpiffeId;
use ringwall_tls::{IdentitySource, mesh_client_config, mesh_server_name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Test;
use crate::cgroup::Cgroup;
use crate::python::placed;
use crate::stack::{PATIENCE, Settings, Stack, runtime, unique, until};
use crate::tools;

pub(crate) const TESTS: &[Test] = &[(
    "r71_envoy_serves_mtls_with_an_identity_from_sds_and_rotates_it",
    mtls,
)];

/// A listener that asks for a client certificate of `caller`, and an agent behind a pipe.
fn configuration(socket: &Path, port: u16, caller: &str) -> String {
    let secret = |name: &str| {
        format!(
            r#"{{"name":"{name}","sds_config":{{"resource_api_version":"V3","api_config_source":{{"api_type":"GRPC","transport_api_version":"V3","grpc_services":[{{"envoy_grpc":{{"cluster_name":"agent"}}}}]}}}}}}"#
        )
    };
    let (certificate, roots) = (secret("default"), secret("ROOTCA"));
    let tls = format!(
        r#"{{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext","require_client_certificate":true,"common_tls_context":{{"alpn_protocols":["http/1.1"],"tls_certificate_sds_secret_configs":[{certificate}],"combined_validation_context":{{"default_validation_context":{{"match_typed_subject_alt_names":[{{"san_type":"URI","matcher":{{"exact":"spiffe://ringwall.local/{caller}"}}}}]}},"validation_context_sds_secret_config":{roots}}}}}}}"#
    );
    let http = r#"{"name":"envoy.filters.network.http_connection_manager","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"test","route_config":{"virtual_hosts":[{"name":"all","domains":["*"],"routes":[{"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"inline_string":"from envoy"}}}]}]},"http_filters":[{"name":"envoy.filters.http.router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}"#;
    let agent = format!(
        r#"{{"name":"agent","type":"STATIC","connect_timeout":"1s","typed_extension_protocol_options":{{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{{"http2_protocol_options":{{}}}}}}}},"load_assignment":{{"cluster_name":"agent","endpoints":[{{"lb_endpoints":[{{"endpoint":{{"address":{{"pipe":{{"path":"{}"}}}}}}}}]}}]}}}}"#,
        socket.display()
    );
    format!(
        r#"{{"node":{{"id":"test","cluster":"test"}},"static_resources":{{"listeners":[{{"address":{{"socket_address":{{"address":"127.0.0.1","port_value":{port}}}}},"filter_chains":[{{"filters":[{http}],"transport_socket":{{"name":"envoy.transport_sockets.tls","typed_config":{tls}}}}}]}}],"clusters":[{agent}]}}}}"#
    )
}

/// One request as `source`; the server's certificate and what it said.
async fn call(
    source: &Arc<IdentitySource>,
    address: SocketAddr,
    peer: SpiffeId,
) -> Result<(Vec<u8>, String), std::io::Error> {
    let tls = mesh_client_config(source, peer).unwrap();
    let tcp = TcpStream::connect(address).await?;
    let connecting = TlsConnector::from(tls).connect(mesh_server_name(address), tcp);
    let mut stream = connecting.await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n")
        .await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((leaf, text))
}

fn mtls() {
    let (orders, caller) = (unique("orders"), unique("caller"));
    let stack = Stack::start(&Settings {
        workloads: &[&orders, &caller],
        svid_ttl_s: 10,
        ..Settings::default()
    });
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let file = stack.path("envoy.json");
    fs::write(&file, configuration(&stack.socket(), port, &caller)).unwrap();
    let cgroup = Cgroup::v2(&format!("ringwall-proxy-{orders}.slice"));
    let mut command = Command::new(tools::envoy());
    command
        .arg("-c")
        .arg(&file)
        .args(["-l", "warning", "--concurrency", "1"]);
    command.arg("--disable-hot-restart");
    let mut envoy = placed(&cgroup, &mut command);

    let runtime = runtime();
    stack.vouch(std::process::id(), &caller);
    let socket = stack.socket();
    let identity = ringwall_workload_api::identity(&socket, PATIENCE);
    let source = runtime.block_on(identity).unwrap();
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let id = |name: &str| SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap();
    let asked = |peer: &str| runtime.block_on(call(&source, address, id(peer)));
    let (first, text) = until("Envoy answers over mTLS", || asked(&orders).ok());
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("from envoy"),
        "{text}"
    );
    let wrong = asked(&caller).unwrap_err().to_string();
    assert!(wrong.contains("was dialled"), "our side verifies: {wrong}");
    until("Envoy has taken a rotation over", || {
        asked(&orders).ok().filter(|(leaf, _)| *leaf != first)
    });
    // Another workload of the same trust domain is not the one that Envoy lets in.
    let stranger = tempfile::tempdir().unwrap();
    for file in ["svid.pem", "svid.key", "bundle.pem"] {
        let from = stack.path("agent/identity").join(file);
        ringwall_secret::private_file::write(&stranger.path().join(file), &fs::read(from).unwrap())
            .unwrap();
    }
    let stranger = IdentitySource::load(stranger.path()).unwrap();
    assert!(
        runtime
            .block_on(call(&stranger, address, id(&orders)))
            .is_err()
    );
    envoy.kill().unwrap();
    envoy.wait().unwrap();
}
