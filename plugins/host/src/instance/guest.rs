//! The functions that a guest exports.
//!
//! Owns: their names and types. All are optional; what is missing is not called.

use wasmtime::{Instance, Store, TypedFunc, WasmParams, WasmResults};

use crate::instance::Host;

/// Name, number of parameters, number of results; all of them 32-bit integers.
type Signature = (&'static str, usize, usize);

/// Those of every ABI.
const SIGNATURES: [Signature; 31] = [
    ("_initialize", 0, 0),
    ("_start", 0, 0),
    ("proxy_on_memory_allocate", 1, 1),
    ("malloc", 1, 1),
    ("proxy_on_context_create", 2, 0),
    ("proxy_on_done", 1, 1),
    ("proxy_on_log", 1, 0),
    ("proxy_on_delete", 1, 0),
    ("proxy_on_vm_start", 2, 1),
    ("proxy_on_configure", 2, 1),
    ("proxy_on_tick", 1, 0),
    ("proxy_on_new_connection", 1, 1),
    ("proxy_on_downstream_data", 3, 1),
    ("proxy_on_downstream_connection_close", 2, 0),
    ("proxy_on_upstream_data", 3, 1),
    ("proxy_on_upstream_connection_close", 2, 0),
    ("proxy_on_request_body", 3, 1),
    ("proxy_on_request_trailers", 2, 1),
    ("proxy_on_response_body", 3, 1),
    ("proxy_on_response_trailers", 2, 1),
    ("proxy_on_http_call_response", 5, 0),
    ("proxy_on_grpc_receive_initial_metadata", 3, 0),
    ("proxy_on_grpc_receive", 3, 0),
    ("proxy_on_grpc_receive_trailing_metadata", 3, 0),
    ("proxy_on_grpc_close", 3, 0),
    ("proxy_on_queue_ready", 2, 0),
    ("proxy_on_foreign_function", 3, 0),
    ("proxy_on_request_metadata", 2, 1),
    ("proxy_on_response_metadata", 2, 1),
    ("proxy_validate_configuration", 2, 1),
    ("main", 2, 1),
];

/// What each export must look like, if it is there.
pub(crate) fn signatures(
    is_0_1_0: bool,
) -> impl Iterator<Item = (&'static &'static str, usize, usize)> {
    // Without the flag for the end of the stream in the oldest ABI.
    const OLD: [Signature; 2] = [
        ("proxy_on_request_headers", 2, 1),
        ("proxy_on_response_headers", 2, 1),
    ];
    const NEW: [Signature; 2] = [
        ("proxy_on_request_headers", 3, 1),
        ("proxy_on_response_headers", 3, 1),
    ];
    let headers: &'static [Signature; 2] = if is_0_1_0 { &OLD } else { &NEW };
    let all = SIGNATURES.iter().chain(headers);
    all.map(|(name, params, results)| (name, *params, *results))
}

type Func<P, R> = Option<TypedFunc<P, R>>;
/// Context; context and one more; and so on.
type One<R> = Func<u32, R>;
type Two<R> = Func<(u32, u32), R>;
type Three<R> = Func<(u32, u32, u32), R>;

/// A headers callback, which has grown a parameter in 0.2.0.
pub(crate) enum OnHeaders {
    Old(Two<u32>),
    New(Three<u32>),
}

pub(crate) struct Guest {
    pub(crate) initialize: Func<(), ()>,
    pub(crate) main: Two<u32>,
    pub(crate) start: Func<(), ()>,
    pub(crate) context_create: Two<()>,
    pub(crate) done: One<u32>,
    pub(crate) log: One<()>,
    pub(crate) delete: One<()>,
    pub(crate) vm_start: Two<u32>,
    pub(crate) configure: Two<u32>,
    pub(crate) tick: One<()>,
    pub(crate) new_connection: One<u32>,
    pub(crate) downstream_data: Three<u32>,
    pub(crate) downstream_close: Two<()>,
    pub(crate) upstream_data: Three<u32>,
    pub(crate) upstream_close: Two<()>,
    pub(crate) request_headers: OnHeaders,
    pub(crate) request_body: Three<u32>,
    pub(crate) request_trailers: Two<u32>,
    pub(crate) response_headers: OnHeaders,
    pub(crate) response_body: Three<u32>,
    pub(crate) response_trailers: Two<u32>,
    pub(crate) http_call_response: Func<(u32, u32, u32, u32, u32), ()>,
    pub(crate) grpc_initial_metadata: Three<()>,
    pub(crate) grpc_receive: Three<()>,
    pub(crate) grpc_trailing_metadata: Three<()>,
    pub(crate) grpc_close: Three<()>,
    pub(crate) queue_ready: Two<()>,
}

impl Guest {
    pub(crate) fn new(store: &mut Store<Host>, instance: &Instance) -> Self {
        let mut find = Finder { store, instance };
        Self {
            initialize: find.get("_initialize"),
            main: find.get("main"),
            start: find.get("_start"),
            context_create: find.get("proxy_on_context_create"),
            done: find.get("proxy_on_done"),
            log: find.get("proxy_on_log"),
            delete: find.get("proxy_on_delete"),
            vm_start: find.get("proxy_on_vm_start"),
            configure: find.get("proxy_on_configure"),
            tick: find.get("proxy_on_tick"),
            new_connection: find.get("proxy_on_new_connection"),
            downstream_data: find.get("proxy_on_downstream_data"),
            downstream_close: find.get("proxy_on_downstream_connection_close"),
            upstream_data: find.get("proxy_on_upstream_data"),
            upstream_close: find.get("proxy_on_upstream_connection_close"),
            request_headers: find.headers("proxy_on_request_headers"),
            request_body: find.get("proxy_on_request_body"),
            request_trailers: find.get("proxy_on_request_trailers"),
            response_headers: find.headers("proxy_on_response_headers"),
            response_body: find.get("proxy_on_response_body"),
            response_trailers: find.get("proxy_on_response_trailers"),
            http_call_response: find.get("proxy_on_http_call_response"),
            grpc_initial_metadata: find.get("proxy_on_grpc_receive_initial_metadata"),
            grpc_receive: find.get("proxy_on_grpc_receive"),
            grpc_trailing_metadata: find.get("proxy_on_grpc_receive_trailing_metadata"),
            grpc_close: find.get("proxy_on_grpc_close"),
            queue_ready: find.get("proxy_on_queue_ready"),
        }
    }
}

struct Finder<'a> {
    store: &'a mut Store<Host>,
    instance: &'a Instance,
}

impl Finder<'_> {
    fn get<P: WasmParams, R: WasmResults>(&mut self, name: &str) -> Func<P, R> {
        self.instance.get_typed_func(&mut *self.store, name).ok()
    }

    fn headers(&mut self, name: &str) -> OnHeaders {
        match self.get(name) {
            None => OnHeaders::Old(self.get(name)),
            new => OnHeaders::New(new),
        }
    }
}
