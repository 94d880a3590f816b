//! W3C trace context: continued from the client or begun here, and passed on.
//!
//! Owns: the strict reading of `traceparent` (W3C Trace Context §3.2), the outgoing field, and the span of this hop where
//! somebody collects spans. Where nobody does, or the client's context is not sampled, no span exists, the cost is one
//! field, and the client's context is passed on as it came: the next hop's parent is then one that exists. Must not: trust
//! a client's context for anything but correlation.

use http::{HeaderMap, HeaderValue, Method};
use ringwall_proto::paths;
use ringwall_service::telemetry;
use tracing::Span;

use crate::random::Random;

/// The field's name.
pub const TRACEPARENT: &str = "traceparent";

/// The trace that a request belongs to.
#[derive(Debug)]
pub struct Trace {
    /// `00-<trace id>-<span id>-<flags>`: what the upstream receives.
    text: [u8; 55],
    continued: bool,
    span: Option<Span>,
}

/// What a hop is to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// The platform's edge.
    Edge,
    /// The proxy of the service that is asked.
    Inbound,
    /// The proxy of the service that asks.
    Outbound,
}

/// What a proxy knows of its hop at the end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// Whom we ask (outbound), or who we are (inbound).
    pub service: &'a str,
    pub port: u16,
    /// Who asks, by its certificate.
    pub peer: &'a str,
    /// 0 where there was no answer.
    pub status: u16,
    pub refusal: Option<&'static str>,
    /// Whether policy allowed it, where it was asked, and what it says about that.
    pub decision: Option<(bool, &'a str)>,
    /// Attempts after the first.
    pub resends: u32,
}

impl Trace {
    /// Continues the trace that `headers` name, or begins one; with a span where `hop` is said.
    pub fn start(random: &Random, headers: &HeaderMap, hop: Option<Hop>) -> Self {
        let parent = headers
            .get(TRACEPARENT)
            .and_then(|value| parse(value.as_bytes()));
        // A proxy before a service begins no trace: it would tell of nothing but probes, whose callers have none.
        let begins = hop.filter(|hop| parent.is_some() || *hop != Hop::Inbound);
        let text = parent.unwrap_or_else(|| begun(random, hop.is_none() || begins.is_some()));
        let mut trace = Self {
            text,
            continued: parent.is_some(),
            span: None,
        };
        let sampled = parent.is_none_or(|parent| parent.last().is_some_and(|flag| flag & 1 == 1));
        if let Some(hop) = begins.filter(|_| sampled) {
            trace.open_span(hop, parent.as_ref());
        }
        trace
    }

    /// The 32 digits of the trace id.
    pub fn id(&self) -> &str {
        self.text
            .get(3..35)
            .and_then(|id| std::str::from_utf8(id).ok())
            .unwrap_or("")
    }

    /// Whether the client's context was taken over; if not, its `tracestate` means nothing.
    pub const fn is_continued(&self) -> bool {
        self.continued
    }

    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.text).unwrap_or(HeaderValue::from_static(""))
    }

    /// Names the span once the route is known.
    pub fn routed(&self, method: &str, route: &str, cluster: &str) {
        if let Some(span) = &self.span {
            telemetry::rename(span, format!("{method} {route}"));
            span.record("http.request.method", known_method(method));
            span.record("http.route", route);
            span.record("ringwall.cluster", cluster);
        }
    }

    /// Ends the span with the response's status.
    pub fn finish(&mut self, status: u16, refusal: Option<&'static str>) {
        let Some(span) = self.span.take() else { return };
        if status != 0 {
            span.record("http.response.status_code", status);
        }
        if let Some(refusal) = refusal {
            span.record("ringwall.refusal", refusal);
        }
        if status >= 500 {
            span.record("otel.status_code", "ERROR");
        }
        // A span ends, for the exporter, when it was last left, not when it is dropped.
        span.in_scope(|| ());
    }

    /// Ends the span of a proxy's hop with what it knows by then (OpenTelemetry semantic conventions for HTTP spans).
    pub fn finish_hop(&mut self, facts: &Facts<'_>) {
        let Some(span) = &self.span else { return };
        let method = known_method(facts.method);
        telemetry::rename(span, format!("{method} {}", facts.service));
        span.record("http.request.method", method);
        span.record("url.path", facts.path);
        span.record("server.address", facts.service);
        span.record("server.port", facts.port);
        if !facts.peer.is_empty() {
            span.record("ringwall.peer", facts.peer);
        }
        if let Some((allowed, reason)) = facts.decision {
            let decision = if allowed { "allow" } else { "deny" };
            span.record("ringwall.policy.decision", decision);
            span.record("ringwall.policy.reason", reason);
        }
        if facts.resends > 0 {
            span.record("http.request.resend_count", facts.resends);
        }
        // Of a client's errors the client is at fault (semantic conventions, "Status").
        let failed = facts.status >= 500 || facts.refusal.is_some() || facts.status == 0;
        if failed {
            let kind = facts.refusal.unwrap_or("aborted");
            span.record("error.type", kind);
            span.record("otel.status_code", "ERROR");
        }
        self.finish(facts.status, facts.refusal);
    }

    #[cold]
    fn open_span(&mut self, hop: Hop, parent: Option<&[u8; 55]>) {
        let (kind, proxy) = match hop {
            Hop::Edge => ("server", None),
            Hop::Inbound => ("server", Some("inbound")),
            Hop::Outbound => ("client", Some("outbound")),
        };
        let span = tracing::info_span!(
            parent: None,
            "request",
            otel.kind = kind,
            otel.status_code = tracing::field::Empty,
            error.r#type = tracing::field::Empty,
            http.request.method = tracing::field::Empty,
            http.request.resend_count = tracing::field::Empty,
            http.response.status_code = tracing::field::Empty,
            http.route = tracing::field::Empty,
            ringwall.cluster = tracing::field::Empty,
            ringwall.peer = tracing::field::Empty,
            ringwall.policy.decision = tracing::field::Empty,
            ringwall.policy.reason = tracing::field::Empty,
            ringwall.proxy = proxy,
            ringwall.refusal = tracing::field::Empty,
            server.address = tracing::field::Empty,
            server.port = tracing::field::Empty,
            url.path = tracing::field::Empty,
        );
        if let Some(parent) = parent.and_then(|parent| std::str::from_utf8(parent).ok()) {
            telemetry::follow(&span, parent);
        }
        let current = span.in_scope(telemetry::current_traceparent);
        // Without a subscriber that records, nobody will know a span of ours.
        if let Some(current) = current.as_deref().and_then(|text| parse(text.as_bytes())) {
            self.text = current;
            self.span = Some(span);
        }
    }
}

/// Whether a request is part of handing in spans: a span about it would be handed in, and so on for ever.
pub fn tells_of_spans(method: &Method, path: &str) -> bool {
    *method == Method::POST && path == paths::OTLP_TRACES
}

/// Methods of clients are no names of ours.
fn known_method(method: &str) -> &str {
    match method {
        "CONNECT" | "DELETE" | "GET" | "HEAD" | "OPTIONS" | "PATCH" | "POST" | "PUT" => method,
        _ => "_OTHER",
    }
}

fn begun(random: &Random, sampled: bool) -> [u8; 55] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    hex(text.get_mut(3..35), &[random.next(), random.next() | 1]);
    hex(text.get_mut(36..52), &[random.next() | 1]);
    if let Some(flags) = text.last_mut().filter(|_| sampled) {
        *flags = b'1';
    }
    text
}

/// Accepts version 00 exactly: lower-case hex, non-zero ids. What is not that starts a new trace.
fn parse(value: &[u8]) -> Option<[u8; 55]> {
    let text: [u8; 55] = value.try_into().ok()?;
    let shape = text.iter().enumerate().all(|(at, byte)| match at {
        2 | 35 | 52 => *byte == b'-',
        0 | 1 => *byte == b'0',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    });
    let nonzero = |range: std::ops::Range<usize>| {
        text.get(range)
            .is_some_and(|id| id.iter().any(|byte| *byte != b'0'))
    };
    (shape && nonzero(3..35) && nonzero(36..52)).then_some(text)
}

/// Writes `words` as lower-case hex digits into `out`.
fn hex(out: Option<&mut [u8]>, words: &[u64]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let Some(out) = out else { return };
    let nibbles = words
        .iter()
        .flat_map(|word| (0..16).rev().map(move |at| (word >> (at * 4)) & 0xf));
    for (slot, nibble) in out.iter_mut().zip(nibbles) {
        *slot = DIGITS
            .get(usize::try_from(nibble).unwrap_or(0))
            .copied()
            .unwrap_or(b'0');
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const SOUND: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_sound_parent_is_read() {
        assert_eq!(parse(SOUND).as_ref().map(<[u8; 55]>::as_slice), Some(SOUND));
    }

    #[test]
    fn anything_else_starts_a_new_trace() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    fn headers(parent: &'static [u8]) -> HeaderMap {
        let value = HeaderValue::from_bytes(parent).expect("value");
        HeaderMap::from_iter([(HeaderName::from_static(TRACEPARENT), value)])
    }

    #[test]
    fn r36_a_hop_that_tells_of_no_span_is_nobodys_parent() {
        let random = Random::default();
        let sampled = headers(SOUND);
        let unsampled = headers(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        for (headers, hop) in [
            (&sampled, None),
            (&unsampled, None),
            (&unsampled, Some(Hop::Inbound)),
            (&unsampled, Some(Hop::Outbound)),
            (&unsampled, Some(Hop::Edge)),
        ] {
            let trace = Trace::start(&random, headers, hop);
            assert_eq!(Some(&trace.header()), headers.get(TRACEPARENT), "{hop:?}");
        }
        let probe = Trace::start(&random, &HeaderMap::new(), Some(Hop::Inbound));
        assert!(probe.header().as_bytes().ends_with(b"-00"));
        assert!(!probe.is_continued());
    }

    #[test]
    fn hex_digits_are_written_most_significant_first() {
        let mut out = [0u8; 16];
        hex(Some(&mut out), &[0x0123_4567_89ab_cdef]);
        assert_eq!(&out, b"0123456789abcdef");
    }
}
