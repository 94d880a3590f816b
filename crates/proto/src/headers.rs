//! Names of HTTP header fields that components agree on (lower case, as HTTP/2 has them, RFC 9113 §8.2.1).
//!
//! Must not: decide which of them are trusted; `ringwall_http_io::headers` does that.

/// The gateway's signed statement about the user, for exactly one upstream service.
pub const USER_CONTEXT: &str = "x-ringwall-user-context";
/// Required on unsafe methods of the SPA's own API: a cross-site form cannot set it.
pub const CSRF: &str = "x-ringwall-csrf";
/// A caller's API key; never accepted without the workload identity that it is bound to.
pub const API_KEY: &str = "x-api-key";
/// Makes `POST /v1/orders` safe to repeat (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// W3C Trace Context.
pub const TRACEPARENT: &str = "traceparent";
/// W3C Trace Context, vendor part.
pub const TRACESTATE: &str = "tracestate";
/// Where an event stream resumes (WHATWG HTML, server-sent events).
pub const LAST_EVENT_ID: &str = "last-event-id";
/// Who called, in the words of the service proxy before a component (Envoy's `x-forwarded-client-cert`).
pub const CLIENT_CERT: &str = "x-forwarded-client-cert";
/// On `/readyz`: the process that answers, since two may share a socket while one replaces the other.
pub const PROCESS: &str = "x-ringwall-process";
/// The secret that a component and the service proxy beside it share. It never leaves loopback.
pub const LOOPBACK: &str = "x-ringwall-loopback";
