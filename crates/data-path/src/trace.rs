//! W3C trace context: continued from the client or begun here, and passed on.
//!
//! Owns: the strict reading of `traceparent` (W3C Trace Context §3.2), the outgoing field, and the server span
//! when telemetry is on. Without telemetry no span exists and the cost is one field. Must not: trust a client's
//! context for anything but correlation.

use http::{HeaderMap, HeaderValue};
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

impl Trace {
    /// Continues the trace that `headers` name, or begins one; `telemetry`: somebody collects spans.
    pub fn start(random: &Random, headers: &HeaderMap, telemetry: bool) -> Self {
        let parent = headers
            .get(TRACEPARENT)
            .and_then(|value| parse(value.as_bytes()));
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        match parent {
            Some(parent) => text = parent,
            None => hex(text.get_mut(3..35), &[random.next(), random.next()]),
        }
        // Our own span id: the upstream's parent is this hop.
        hex(text.get_mut(36..52), &[random.next() | 1]);
        let mut trace = Self {
            text,
            continued: parent.is_some(),
            span: None,
        };
        let sampled = parent.is_none_or(|parent| parent.last().is_some_and(|flag| flag & 1 == 1));
        if telemetry && sampled {
            trace.open_span(parent.as_ref());
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
            span.record("otel.name", format_args!("{method} {route}"));
            span.record("http.route", route);
            span.record("ringwall.cluster", cluster);
        }
    }

    /// Ends the span with the response's status.
    pub fn finish(&mut self, status: u16, refusal: Option<&'static str>) {
        let Some(span) = self.span.take() else { return };
        span.record("http.response.status_code", status);
        if let Some(refusal) = refusal {
            span.record("ringwall.refusal", refusal);
        }
        if status >= 500 {
            span.record("otel.status_code", "ERROR");
        }
        // A span ends, for the exporter, when it was last left, not when it is dropped.
        span.in_scope(|| ());
    }

    #[cold]
    fn open_span(&mut self, parent: Option<&[u8; 55]>) {
        let span = tracing::info_span!(
            parent: None,
            "request",
            otel.name = tracing::field::Empty,
            otel.kind = "server",
            otel.status_code = tracing::field::Empty,
            http.route = tracing::field::Empty,
            http.response.status_code = tracing::field::Empty,
            ringwall.cluster = tracing::field::Empty,
            ringwall.refusal = tracing::field::Empty,
        );
        if let Some(parent) = parent.and_then(|parent| std::str::from_utf8(parent).ok()) {
            ringwall_service::telemetry::follow(&span, parent);
        }
        let current = span.in_scope(ringwall_service::telemetry::current_traceparent);
        if let Some(current) = current.as_deref().and_then(|text| parse(text.as_bytes())) {
            self.text = current;
        }
        self.span = Some(span);
    }
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

    #[test]
    fn hex_digits_are_written_most_significant_first() {
        let mut out = [0u8; 16];
        hex(Some(&mut out), &[0x0123_4567_89ab_cdef]);
        assert_eq!(&out, b"0123456789abcdef");
    }
}
