//! The capabilities of a suite in Envoy's words: functions of the ABI, of which those that are not named fail.

use ringwall_plugin_cases::{BodyAccess, Capabilities};
use serde_json::{Map, Value, json};

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
const READ_HEADERS: &[&str] = &[
    "proxy_get_header_map_value",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_size",
];
const WRITE_HEADERS: &[&str] = &[
    "proxy_add_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_remove_header_map_value",
    "proxy_set_header_map_pairs",
];
const BODIES: &[&str] = &["proxy_on_request_body", "proxy_on_response_body"];
const WRITE_BODIES: &[&str] = &["proxy_set_buffer_bytes"];
const LOCAL_RESPONSE: &[&str] = &["proxy_send_local_response"];
const CALLS: &[&str] = &[
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
];
const CONTINUE: &[&str] = &["proxy_continue_stream", "proxy_close_stream"];
const SHARED_DATA: &[&str] = &["proxy_get_shared_data", "proxy_set_shared_data"];
const QUEUES: &[&str] = &[
    "proxy_register_shared_queue",
    "proxy_resolve_shared_queue",
    "proxy_enqueue_shared_queue",
    "proxy_dequeue_shared_queue",
    "proxy_on_queue_ready",
];
const READ_PROPERTIES: &[&str] = &["proxy_get_property"];
const WRITE_PROPERTIES: &[&str] = &["proxy_set_property"];
const FOREIGN_FUNCTIONS: &[&str] = &["proxy_call_foreign_function"];

/// What a plugin with these capabilities may call and be called with.
pub(crate) fn allowed(capabilities: &Capabilities) -> Value {
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
    let calls = !clusters.is_empty();
    let sees_bodies = *body > BodyAccess::None;
    let groups = [
        (true, ALWAYS),
        // The headers of a call's answer are read in the same way.
        (calls || !read_headers.is_empty(), READ_HEADERS),
        (!write_headers.is_empty(), WRITE_HEADERS),
        (sees_bodies, BODIES),
        (*body == BodyAccess::Write, WRITE_BODIES),
        (*local_response, LOCAL_RESPONSE),
        (calls, CALLS),
        (calls || sees_bodies, CONTINUE),
        (!shared_data.is_empty(), SHARED_DATA),
        (!queues.is_empty(), QUEUES),
        (!read_properties.is_empty(), READ_PROPERTIES),
        (!write_properties.is_empty(), WRITE_PROPERTIES),
        (!foreign_functions.is_empty(), FOREIGN_FUNCTIONS),
    ];
    let mut allowed = Map::new();
    for (_, names) in groups.iter().filter(|(declared, _)| *declared) {
        allowed.extend(names.iter().map(|name| ((*name).to_owned(), json!({}))));
    }
    Value::Object(allowed)
}
