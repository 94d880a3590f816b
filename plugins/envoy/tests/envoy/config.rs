//! What Envoy is told: a listener for each case, whose chain is the plugin and the router; a cluster for the upstream and
//! one for each that plugins call.

use std::collections::BTreeMap;
use std::path::Path;

use ringwall_plugin_cases::{BodyAccess, Capabilities, Case, Suite};
use serde_json::{Map, Value, json};

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

/// The declared capabilities in Envoy's words: functions of the ABI. Whatever is not named fails.
fn allowed(capabilities: &Capabilities) -> Value {
    /// For every plugin: its life, its clock, its log, metrics, and the WASI calls of a standard library's start.
    const ALWAYS: &[&str] = &[
        "proxy_on_vm_start",
        "proxy_on_configure",
        "proxy_on_context_create",
        "proxy_on_tick",
        "proxy_on_request_headers",
        "proxy_on_request_trailers",
        "proxy_on_response_headers",
        "proxy_on_response_trailers",
        "proxy_on_done",
        "proxy_on_log",
        "proxy_on_delete",
        "proxy_log",
        "proxy_get_log_level",
        "proxy_get_current_time_nanoseconds",
        "proxy_set_tick_period_milliseconds",
        "proxy_set_effective_context",
        "proxy_get_buffer_bytes",
        "proxy_get_status",
        "proxy_done",
        "proxy_define_metric",
        "proxy_increment_metric",
        "proxy_record_metric",
        "proxy_get_metric",
        "fd_write",
        "clock_time_get",
        "random_get",
        "environ_get",
        "environ_sizes_get",
        "args_get",
        "args_sizes_get",
        "proc_exit",
        "sched_yield",
    ];
    let Capabilities {
        read_headers,
        write_headers,
        body,
        local_response,
        clusters,
        shared_data,
        queues,
        read_properties,
        write_properties,
        foreign_functions,
    } = capabilities;
    let groups: [(bool, &[&str]); 12] = [
        (true, ALWAYS),
        (
            !read_headers.is_empty() || !clusters.is_empty(),
            &[
                "proxy_get_header_map_value",
                "proxy_get_header_map_pairs",
                "proxy_get_header_map_size",
            ],
        ),
        (
            !write_headers.is_empty(),
            &[
                "proxy_add_header_map_value",
                "proxy_replace_header_map_value",
                "proxy_remove_header_map_value",
                "proxy_set_header_map_pairs",
            ],
        ),
        (
            *body > BodyAccess::None,
            &["proxy_on_request_body", "proxy_on_response_body"],
        ),
        (*body == BodyAccess::Write, &["proxy_set_buffer_bytes"]),
        (*local_response, &["proxy_send_local_response"]),
        (
            !clusters.is_empty(),
            &[
                "proxy_http_call",
                "proxy_on_http_call_response",
                "proxy_grpc_call",
                "proxy_grpc_stream",
                "proxy_grpc_send",
                "proxy_grpc_cancel",
                "proxy_grpc_close",
                "proxy_on_grpc_receive",
                "proxy_on_grpc_receive_initial_metadata",
                "proxy_on_grpc_receive_trailing_metadata",
                "proxy_on_grpc_close",
            ],
        ),
        (
            !clusters.is_empty() || *body > BodyAccess::None,
            &["proxy_continue_stream", "proxy_close_stream"],
        ),
        (
            !shared_data.is_empty(),
            &["proxy_get_shared_data", "proxy_set_shared_data"],
        ),
        (
            !queues.is_empty(),
            &[
                "proxy_register_shared_queue",
                "proxy_resolve_shared_queue",
                "proxy_enqueue_shared_queue",
                "proxy_dequeue_shared_queue",
                "proxy_on_queue_ready",
            ],
        ),
        (!read_properties.is_empty(), &["proxy_get_property"]),
        (!write_properties.is_empty(), &["proxy_set_property"]),
    ];
    let mut allowed = Map::new();
    for (_, names) in groups.iter().filter(|(declared, _)| *declared) {
        allowed.extend(names.iter().map(|name| ((*name).to_owned(), json!({}))));
    }
    if !foreign_functions.is_empty() {
        allowed.insert("proxy_call_foreign_function".into(), json!({}));
    }
    Value::Object(allowed)
}
