//! Guests, plugins and streams for the tests.
//!
//! Owns: the text that every guest begins with (imports, memory, a bump allocator, `$say`) and the smallest embedder.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use ringwall_plugin_host::{
    Capabilities, Chain, ConnectionInfo, Filtered, HttpStream, Limits, Module, NoCallouts, Plugin,
    PluginSpec, Refused, Runtime, RuntimeOptions, StreamInfo, Verification, Worker,
};

/// Every import of the ABI, with the name of its last words.
pub(crate) const IMPORTS: &[(&str, &str, usize)] = &[
    ("log", "proxy_log", 3),
    ("get_log_level", "proxy_get_log_level", 1),
    ("get_time", "proxy_get_current_time_nanoseconds", 1),
    ("set_tick", "proxy_set_tick_period_milliseconds", 1),
    ("call_foreign", "proxy_call_foreign_function", 6),
    ("define_metric", "proxy_define_metric", 4),
    ("get_metric", "proxy_get_metric", 2),
    ("get_map_size", "proxy_get_header_map_size", 2),
    ("get_map", "proxy_get_header_map_pairs", 3),
    ("set_map", "proxy_set_header_map_pairs", 3),
    ("get_header", "proxy_get_header_map_value", 5),
    ("add_header", "proxy_add_header_map_value", 5),
    ("set_header", "proxy_replace_header_map_value", 5),
    ("remove_header", "proxy_remove_header_map_value", 3),
    ("get_buffer", "proxy_get_buffer_bytes", 5),
    ("get_buffer_status", "proxy_get_buffer_status", 3),
    ("set_buffer", "proxy_set_buffer_bytes", 5),
    ("continue", "proxy_continue_stream", 1),
    ("close", "proxy_close_stream", 1),
    ("respond", "proxy_send_local_response", 8),
    ("set_context", "proxy_set_effective_context", 1),
    ("done", "proxy_done", 0),
    ("get_status", "proxy_get_status", 3),
    ("http_call", "proxy_http_call", 10),
    ("grpc_call", "proxy_grpc_call", 12),
    ("grpc_stream", "proxy_grpc_stream", 9),
    ("grpc_send", "proxy_grpc_send", 4),
    ("grpc_cancel", "proxy_grpc_cancel", 1),
    ("grpc_close", "proxy_grpc_close", 1),
    ("set_data", "proxy_set_shared_data", 5),
    ("get_data", "proxy_get_shared_data", 5),
    ("register_queue", "proxy_register_shared_queue", 3),
    ("resolve_queue", "proxy_resolve_shared_queue", 5),
    ("enqueue", "proxy_enqueue_shared_queue", 3),
    ("dequeue", "proxy_dequeue_shared_queue", 3),
    ("get_property", "proxy_get_property", 4),
    ("set_property", "proxy_set_property", 4),
];

/// Imports, two pages of memory, the marker of 0.2.1, an allocator from 65536 on, and:
/// `$say` puts a number of two digits into the request header `x-status`; `$name` (8) is its name;
/// `$p` (48) and `$n` (52) are where results are asked to.
fn prelude() -> String {
    let mut text = String::new();
    for (name, import, params) in IMPORTS {
        let params = "i32 ".repeat(*params);
        text += &format!(
            "(import \"env\" \"{import}\" (func ${name} (param {params}) (result i32)))\n"
        );
    }
    text += r#"
        (import "env" "proxy_record_metric" (func $record_metric (param i32 i64) (result i32)))
        (import "env" "proxy_increment_metric" (func $increment_metric (param i32 i64) (result i32)))
        (memory (export "memory") 2 200)
        (data (i32.const 8) "x-status")
        (global $heap (mut i32) (i32.const 65536))
        (global $p i32 (i32.const 48))
        (global $n i32 (i32.const 52))
        (func (export "proxy_abi_version_0_2_1"))
        (func $say (param $number i32)
            (i32.store8 (i32.const 32) (i32.add (i32.const 48) (i32.div_u (local.get $number) (i32.const 10))))
            (i32.store8 (i32.const 33) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
            (drop (call $set_header (i32.const 0) (i32.const 8) (i32.const 8) (i32.const 32) (i32.const 2))))
    "#;
    text
}

/// What stands in for an allocator where a test has none of its own.
const ALLOCATOR: &str = r#"
    (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
        (local $at i32)
        (local.set $at (global.get $heap))
        (global.set $heap (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7)) (i32.const -8)))
        (if (i32.gt_u (global.get $heap) (i32.const 131072)) (then (global.set $heap (i32.const 65536)) (local.set $at (i32.const 65536))))
        (local.get $at))
"#;

/// A guest with the prelude, the allocator and `body`.
pub(crate) fn guest(body: &str) -> Vec<u8> {
    bare(&format!("{ALLOCATOR}{body}"))
}

/// The same without an allocator.
pub(crate) fn bare(body: &str) -> Vec<u8> {
    let text = format!("(module {} {body})", prelude());
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// `proxy_on_request_headers` that runs `body` and goes on.
pub(crate) fn on_request(body: &str) -> String {
    format!(
        "(func (export \"proxy_on_request_headers\") (param $id i32) (param $count i32) (param $end i32) (result i32)
            {body} (i32.const 0))"
    )
}

pub(crate) fn runtime() -> Runtime {
    let time = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
    Runtime::new(RuntimeOptions {
        clock: Arc::new(move || time),
        ..RuntimeOptions::default()
    })
    .unwrap()
}

pub(crate) fn load(runtime: &Runtime, bytes: &[u8]) -> Module {
    Module::load(runtime, bytes, &Verification::none()).unwrap()
}

/// Everything is allowed, and little time is needed.
pub(crate) fn spec() -> PluginSpec {
    let mut spec = PluginSpec::new("p");
    spec.capabilities = Capabilities::all();
    spec.limits = Limits {
        callback_time: Duration::from_millis(30),
        hostcalls: 1000,
        tick_period: Duration::from_millis(1),
        ..Limits::default()
    };
    spec
}

/// One worker with one plugin.
pub(crate) struct Bed {
    pub(crate) runtime: Runtime,
    pub(crate) worker: Worker,
    pub(crate) plugin: Arc<Plugin>,
}

impl Bed {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self::with(bytes, spec())
    }

    pub(crate) fn with(bytes: &[u8], spec: PluginSpec) -> Self {
        let runtime = runtime();
        let worker = Worker::new(&runtime, Arc::new(NoCallouts));
        let plugin = Plugin::new(&load(&runtime, bytes), spec).unwrap();
        Self {
            runtime,
            worker,
            plugin,
        }
    }

    pub(crate) fn chain(&self) -> Chain {
        Chain::new([Arc::clone(&self.plugin)])
    }

    pub(crate) fn open(&self) -> HttpStream {
        self.worker.open(&self.chain(), info())
    }

    /// One request without a body; what came of it.
    pub(crate) async fn get(&self) -> Result<Request<Filtered<Full<Bytes>>>, Refused> {
        self.open().request(request("")).await
    }

    /// A line of the metrics.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        metric(&self.runtime, name)
    }
}

pub(crate) fn metric(runtime: &Runtime, name: &str) -> u64 {
    let text = runtime.metrics();
    let prefix = format!("ringwall_plugin_{name}{{plugin=\"p\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.unwrap_or_else(|| panic!("{name} in {text}"))
        .parse()
        .unwrap()
}

pub(crate) fn info() -> StreamInfo {
    StreamInfo::new(Arc::new(ConnectionInfo::default()), UNIX_EPOCH)
}

pub(crate) fn request(body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::post("/path?query").header("host", "a.example");
    let request = if body.is_empty() {
        request
    } else {
        request.header("content-length", body.len())
    };
    request.body(Full::from(body)).unwrap()
}

pub(crate) fn response(body: &'static str) -> Response<Full<Bytes>> {
    let response = Response::builder().header("content-length", body.len());
    response.body(Full::from(body)).unwrap()
}

/// All of a body as text.
pub(crate) async fn text<B>(body: B) -> String
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let bytes = body.collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What `call`, a host call in a request's headers callback, has returned.
pub(crate) async fn status_of(setup: &str, call: &str) -> u32 {
    let body = format!("{setup}{}", on_request(&format!("(call $say {call})")));
    let bed = Bed::new(&guest(&body));
    let request = bed
        .get()
        .await
        .unwrap_or_else(|refused| panic!("{call}: {refused:?}"));
    let status = request.headers()["x-status"].to_str().unwrap();
    status.parse().unwrap()
}
