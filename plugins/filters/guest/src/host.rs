//! The host's functions in the form that filters use: bytes instead of text, and no panic where there is an answer.

use proxy_wasm::hostcalls;
use proxy_wasm::types::{Action, BufferType, LogLevel, MapType, MetricType};

/// Writes to the host's log, with the plugin's name put before it there.
pub fn log(level: LogLevel, line: &str) {
    // A log that does not take the line is no reason to fail a request.
    let _ = hostcalls::log(level, line);
}

/// Whether a header map belongs to the request or to the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

impl Side {
    fn map(self) -> MapType {
        match self {
            Self::Request => MapType::HttpRequestHeaders,
            Self::Response => MapType::HttpResponseHeaders,
        }
    }

    fn buffer(self) -> BufferType {
        match self {
            Self::Request => BufferType::HttpRequestBody,
            Self::Response => BufferType::HttpResponseBody,
        }
    }
}

/// The first value of a header; none where it is absent or may not be read.
#[must_use]
pub fn header(side: Side, name: &str) -> Option<Vec<u8>> {
    hostcalls::get_map_value_bytes(side.map(), name)
        .ok()
        .flatten()
}

/// The same as text; what is not UTF-8 has replacement characters.
#[must_use]
pub fn header_text(side: Side, name: &str) -> Option<String> {
    header(side, name).map(|value| String::from_utf8_lossy(&value).into_owned())
}

/// All headers in their order, pseudo-headers included.
#[must_use]
pub fn headers(side: Side) -> Vec<(String, Vec<u8>)> {
    hostcalls::get_map_bytes(side.map()).unwrap_or_default()
}

/// Sets a header to one value, or removes it.
pub fn set_header(side: Side, name: &str, value: Option<&[u8]>) {
    let done = hostcalls::set_map_value_bytes(side.map(), name, value);
    if done.is_err() {
        log(LogLevel::Warn, &format!("header {name} could not be set"));
    }
}

/// Adds a value, beside those that are there.
pub fn add_header(side: Side, name: &str, value: &[u8]) {
    if hostcalls::add_map_value_bytes(side.map(), name, value).is_err() {
        log(LogLevel::Warn, &format!("header {name} could not be added"));
    }
}

/// The body that is held, up to a limit in bytes.
#[must_use]
pub fn body(side: Side, limit: usize) -> Vec<u8> {
    hostcalls::get_buffer(side.buffer(), 0, limit)
        .ok()
        .flatten()
        .unwrap_or_default()
}

/// Replaces the body that is held.
pub fn set_body(side: Side, body: &[u8]) {
    if hostcalls::set_buffer(side.buffer(), 0, usize::MAX, body).is_err() {
        log(LogLevel::Warn, "the body could not be replaced");
    }
}

/// A property, by its path.
#[must_use]
pub fn property(path: &[&str]) -> Option<Vec<u8>> {
    hostcalls::get_property(path.to_vec()).ok().flatten()
}

/// Nanoseconds since 1970.
#[must_use]
pub fn now_nanoseconds() -> u64 {
    let since = hostcalls::get_current_time()
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Answers the request with a problem (RFC 9457) of type `urn:ringwall:problem:<slug>`, as every refusal of the platform is.
/// Both texts are fixed ones of filters, never input, so nothing has to be escaped. Gives what the callback then returns.
pub fn refuse(status: u32, slug: &'static str, title: &'static str) -> Action {
    refuse_with(status, slug, title, &[])
}

/// The same with more headers.
pub fn refuse_with(
    status: u32,
    slug: &'static str,
    title: &'static str,
    headers: &[(&'static str, &str)],
) -> Action {
    let body = format!(
        "{{\"type\":\"urn:ringwall:problem:{slug}\",\"title\":\"{title}\",\"status\":{status}}}"
    );
    let mut all = vec![
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
    ];
    all.extend(headers);
    if hostcalls::send_http_response(status, all, Some(body.as_bytes())).is_err() {
        // A paused stream that nobody continues is refused by the host: closed all the same.
        log(LogLevel::Error, "the refusal could not be sent");
    }
    Action::Pause
}

/// A counter of the host; none where it cannot be defined, which is no reason to fail requests.
#[derive(Clone, Copy, Debug)]
pub struct Counter(Option<u32>);

impl Counter {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(hostcalls::define_metric(MetricType::Counter, name).ok())
    }

    pub fn add(self, count: i64) {
        if let Some(id) = self.0 {
            let _ = hostcalls::increment_metric(id, count);
        }
    }
}

/// Sets the period of `Filter::tick`; nothing for none.
pub fn set_timer(period: std::time::Duration) {
    let _ = hostcalls::set_tick_period(period);
}

/// An unpredictable number, from the host's random source.
#[must_use]
pub fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    // The keys of a `RandomState` come from WASI's random_get, and differ each time.
    RandomState::new().build_hasher().finish()
}
