//! What Envoy is told: a listener for each case, whose chain is the plugin and the router; a cluster for the upstream and
//! one for each that plugins call.

use std::collections::BTreeMap;
use std::path::Path;

use ringwall_plugin_cases::{BodyAccess, Capabilities, Case, Suite};
use serde_json::{Value, json};

use crate::restriction::allowed;

const TYPES: &str = "type.googleapis.com/envoy.extensions";
const UPSTREAM: &str = "upstream";
/// As much of a paused body is held, in bytes.
const BUFFER: u32 = 1024 * 1024;

/// Where the small servers listen.
pub(crate) struct Ports {
    pub(crate) upstream: u16,
    pub(crate) clusters: BTreeMap<String, Port>,
}

pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) http2: bool,
}

/// The name of a case's listener, plugin and VM: nothing is shared between cases.
pub(crate) fn id(index: usize) -> String {
    format!("case-{index}")
}

/// The configuration that Envoy starts with.
pub(crate) fn bootstrap(ports: &Ports, listeners: &Path) -> Value {
    let mut clusters = vec![cluster(UPSTREAM, ports.upstream, false)];
    let others = ports.clusters.iter();
    clusters.extend(others.map(|(name, port)| cluster(name, port.number, port.http2)));
    json!({
        "node": { "id": "cases", "cluster": "cases" },
        "admin": { "address": address(0) },
        "static_resources": { "clusters": clusters },
        // Not static: Envoy would not start with a plugin that refuses its configuration.
        "dynamic_resources": { "lds_config": {
            "resource_api_version": "V3", "path_config_source": { "path": listeners },
        } },
    })
}

/// All listeners, as the file that Envoy watches has them.
pub(crate) fn listeners(suite: &Suite, module: &Path) -> Value {
    let listeners = suite.cases.iter().enumerate();
    let listeners: Vec<Value> = listeners
        .map(|(index, case)| listener(&id(index), case, &suite.capabilities, module))
        .collect();
    json!({ "version_info": "1", "resources": listeners })
}

fn listener(id: &str, case: &Case, capabilities: &Capabilities, module: &Path) -> Value {
    let mut plugin = json!({
        "name": id, "root_id": id, "failure_policy": "FAIL_CLOSED",
        // With it, headers wait for their body's verdict; see plugins/README.md.
        "allow_on_headers_stop_iteration": capabilities.body > BodyAccess::None,
        "capability_restriction_config": { "allowed_capabilities": allowed(capabilities) },
        "vm_config": {
            "vm_id": id, "runtime": "envoy.wasm.runtime.v8",
            "code": { "local": { "filename": module } },
        },
    });
    if let (Some(fields), false) = (plugin.as_object_mut(), case.configuration.is_empty()) {
        let text = String::from_utf8_lossy(&case.configuration);
        let value =
            json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": text });
        fields.insert("configuration".into(), value);
    }
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": id,
        "route_config": { "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": UPSTREAM } }],
        }] },
        // Else `source.address` would be what the client writes into x-forwarded-for; see plugins/README.md.
        "use_remote_address": true, "skip_xff_append": true,
        // What the upstream says of itself is what a plugin shall see.
        "server_header_transformation": "PASS_THROUGH",
        "http_filters": [
            { "name": "envoy.filters.http.wasm", "typed_config": {
                "@type": format!("{TYPES}.filters.http.wasm.v3.Wasm"), "config": plugin,
            } },
            { "name": "envoy.filters.http.router", "typed_config": {
                "@type": format!("{TYPES}.filters.http.router.v3.Router"),
            } },
        ],
    });
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": id, "address": address(0), "per_connection_buffer_limit_bytes": BUFFER,
        // Clients say in it which address they come from.
        "listener_filters": [{ "name": "envoy.filters.listener.proxy_protocol", "typed_config": {
            "@type": format!("{TYPES}.filters.listener.proxy_protocol.v3.ProxyProtocol"),
        } }],
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
        }] }],
    })
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

fn cluster(name: &str, port: u16, http2: bool) -> Value {
    let protocol = if http2 {
        json!({ "explicit_http_config": { "http2_protocol_options": {} } })
    } else {
        json!({ "explicit_http_config": { "http_protocol_options": {} } })
    };
    let mut options = protocol;
    if let Some(fields) = options.as_object_mut() {
        let kind = format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions");
        fields.insert("@type".into(), kind.into());
    }
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options,
        },
        "load_assignment": { "cluster_name": name, "endpoints": [{
            "lb_endpoints": [{ "endpoint": { "address": address(port) } }],
        }] },
    })
}
