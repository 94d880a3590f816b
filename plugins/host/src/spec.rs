//! What an operator declares about a plugin: its configuration, its limits, what it may touch, what happens if it fails.
//!
//! Owns: the names and defaults of all limits. Must not: run anything. Read next: `spec/capabilities.rs`.

mod capabilities;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::capabilities::{BodyAccess, Capabilities, Names};

/// Everything about a plugin but its code.
#[derive(Debug, Clone)]
pub struct PluginSpec {
    /// Unique among plugins; label of metrics and logs, property `plugin_name`.
    pub name: Arc<str>,
    /// Property `plugin_root_id`; chooses among several roots of one module.
    pub root_id: Arc<str>,
    /// Whose shared data and queues it uses; plugins with one `vm_id` share them.
    pub vm_id: Arc<str>,
    /// What `proxy_on_vm_start` reads.
    pub vm_configuration: Bytes,
    /// What `proxy_on_configure` reads.
    pub configuration: Bytes,
    /// The guest's environment variables: only these, never the host's.
    pub environment: Vec<(String, String)>,
    pub limits: Limits,
    pub capabilities: Capabilities,
    pub on_failure: OnFailure,
    pub headers_pause: HeadersPause,
}

impl PluginSpec {
    /// A plugin that may do nothing but look at the method, fails closed and has the default limits.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        Self {
            root_id: Arc::clone(&name),
            vm_id: Arc::clone(&name),
            name,
            vm_configuration: Bytes::new(),
            configuration: Bytes::new(),
            environment: Vec::new(),
            limits: Limits::default(),
            capabilities: Capabilities::default(),
            on_failure: OnFailure::default(),
            headers_pause: HeadersPause::default(),
        }
    }
}

/// What becomes of a stream whose plugin has trapped, timed out or cannot be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Refused with 503 and the failure's id.
    #[default]
    Closed,
    /// Passed on as if the plugin were not there, and counted.
    Open,
}

/// What a `PAUSE` from the headers callbacks holds.
///
/// The specification calls body callbacks "even when the processing is paused". A plugin that waits for an answer from
/// elsewhere and leaves its body callback at the SDK's default, `CONTINUE`, would then be released by the first byte of
/// a body, unanswered. Envoy therefore holds the whole stream unless `allow_on_headers_stop_iteration` says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeadersPause {
    /// With a call of its own under way, as [`Self::Stream`]; otherwise as [`Self::Headers`].
    #[default]
    Auto,
    /// Headers and body wait for `proxy_continue_stream`: Envoy's default.
    Stream,
    /// Body callbacks go on, and a `CONTINUE` from them releases the headers too: Envoy's
    /// `allow_on_headers_stop_iteration`.
    Headers,
}

/// What one instance, one callback or one stream may use at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Processor time of one callback. Waiting for the processor does not count.
    pub callback_time: Duration,
    /// Processor time of start and configuration, each.
    pub start_time: Duration,
    /// Linear memory of an instance, in bytes.
    pub memory: usize,
    /// Elements of each of its tables.
    pub table_elements: usize,
    /// Bytes of the module.
    pub module: usize,
    /// Calls into the host in one callback; one more is a trap.
    pub hostcalls: u32,
    /// Body bytes that a paused stream may hold, in each direction.
    pub buffered_body: usize,
    /// Fields in one header map, and the bytes of all their names and values.
    pub header_count: usize,
    pub header_bytes: usize,
    /// Calls under way: of one stream (or of the plugin itself), and of one instance.
    pub calls_per_stream: usize,
    pub calls: usize,
    /// A call without a time-out of its own, and the longest that it may ask for.
    pub call_time: Duration,
    /// How long a gRPC stream may last.
    pub grpc_stream_time: Duration,
    /// Bytes of a call's response body, or of one gRPC message.
    pub call_body: usize,
    /// gRPC messages that wait to be sent.
    pub grpc_queue: usize,
    /// Log lines in a second; more are counted and dropped.
    pub log_lines_per_second: u32,
    /// Bytes of one log line; the rest is cut off.
    pub log_line: usize,
    /// Keys and values of shared data of a `vm_id`, in bytes.
    pub shared_data: usize,
    /// Queues of a `vm_id`, items of a queue, bytes of a queue.
    pub queues: usize,
    pub queue_items: usize,
    pub queue_bytes: usize,
    /// Metrics that a plugin may define.
    pub metrics: usize,
    /// Properties set on one stream, in bytes.
    pub properties: usize,
    /// The shortest period of a timer; shorter ones are lengthened.
    pub tick_period: Duration,
    /// How long a stream may be paused before it is refused.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            callback_time: Duration::from_millis(10),
            start_time: Duration::from_secs(1),
            memory: 32 << 20,
            table_elements: 20_000,
            module: 16 << 20,
            hostcalls: 10_000,
            buffered_body: 1 << 20,
            header_count: 100,
            header_bytes: 64 << 10,
            calls_per_stream: 4,
            calls: 256,
            call_time: Duration::from_secs(5),
            grpc_stream_time: Duration::from_secs(3600),
            call_body: 1 << 20,
            grpc_queue: 64,
            log_lines_per_second: 100,
            log_line: 4096,
            shared_data: 1 << 20,
            queues: 16,
            queue_items: 1024,
            queue_bytes: 1 << 20,
            metrics: 128,
            properties: 64 << 10,
            tick_period: Duration::from_millis(100),
            pause: Duration::from_secs(15),
        }
    }
}
