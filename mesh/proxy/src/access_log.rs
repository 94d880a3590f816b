//! One structured line per exchange and per refused connection, whatever way it ends.
//!
//! Owns: [`Flow`], the facts of one exchange in either direction, and its form as a line. Observers
//! (`observe.rs`) see the same facts. Must not: wait, or write a query, a header's value or a token.

use std::net::SocketAddr;
use std::time::Duration;

use ringwall_data_path::log::{Line, LogBuffer};
use time::OffsetDateTime;

use ringwall_observe::{self as observe, Verdict};

pub(crate) use ringwall_observe::Direction;

/// What a flow was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlowKind {
    Request,
    WebSocket,
    /// Opaque bytes.
    Tcp,
    /// A connection that ended before there was a request.
    Connection,
}

/// One exchange, finished.
#[derive(Debug, Clone)]
pub(crate) struct Flow<'a> {
    pub(crate) direction: Direction,
    pub(crate) kind: FlowKind,
    /// Names of workloads.
    pub(crate) caller: &'a str,
    pub(crate) callee: &'a str,
    pub(crate) port: u16,
    /// Empty for opaque bytes.
    pub(crate) method: &'a str,
    /// Without the query.
    pub(crate) path: &'a str,
    pub(crate) http: &'static str,
    /// 0 where there is none.
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<&'a str>,
    pub(crate) refusal: Option<&'static str>,
    /// Envoy's response flag, `-` for none.
    pub(crate) flag: &'static str,
    /// Policies that decided, or what else explains a refusal to an operator.
    pub(crate) reason: Option<&'a str>,
    /// Whether policies on probation would have allowed it, and which.
    pub(crate) dry_run: Option<(bool, &'a str)>,
    pub(crate) user: Option<&'a str>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) took: Duration,
    /// Until the response head of the other side.
    pub(crate) upstream: Option<Duration>,
    /// Outbound: attempts that were made.
    pub(crate) attempts: u32,
    pub(crate) peer: SocketAddr,
    /// Outbound: where it went at last.
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) trace_id: &'a str,
    /// The last byte was handed over; otherwise the line says `aborted`.
    pub(crate) complete: bool,
}

impl FlowKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::WebSocket => "websocket",
            Self::Tcp => "tcp",
            Self::Connection => "connection",
        }
    }
}

impl<'a> Flow<'a> {
    /// A flow of which nothing is known but who and where.
    pub(crate) const fn new(
        direction: Direction,
        kind: FlowKind,
        (caller, callee): (&'a str, &'a str),
        port: u16,
        peer: SocketAddr,
    ) -> Self {
        Self {
            direction,
            kind,
            caller,
            callee,
            port,
            method: "",
            path: "",
            http: "",
            status: 0,
            grpc_status: None,
            refusal: None,
            flag: "-",
            reason: None,
            dry_run: None,
            user: None,
            bytes_in: 0,
            bytes_out: 0,
            took: Duration::ZERO,
            upstream: None,
            attempts: 0,
            peer,
            endpoint: None,
            trace_id: "",
            complete: true,
        }
    }

    /// What became of it, in an operator's words.
    pub(crate) fn verdict(&self) -> Verdict {
        match (self.refusal, self.flag, self.dry_run) {
            (Some(_), "UAEX" | "NR" | "DPE", _) => Verdict::Denied,
            (Some(_), ..) => Verdict::Error,
            (None, _, Some((false, _))) => Verdict::DryRunDenied,
            _ if !self.complete => Verdict::Error,
            _ => Verdict::Allowed,
        }
    }

    /// The same facts for observers.
    pub(crate) fn observed(&self) -> observe::Flow {
        let names = |text: &str| {
            let names = text.split(", ").filter(|name| !name.is_empty());
            names.map(Into::into).collect()
        };
        let mut flow = observe::Flow::new(OffsetDateTime::now_utc() - self.took, self.direction);
        flow.caller = self.caller.into();
        flow.callee = self.callee.into();
        flow.port = self.port;
        flow.protocol = match (self.kind, self.http) {
            (FlowKind::WebSocket, _) => "websocket",
            (FlowKind::Request, "2") => "h2",
            (FlowKind::Request, _) => "http/1.1",
            _ => "tcp",
        };
        flow.method = self.method.into();
        flow.path = self.path.into();
        flow.status = self.status;
        flow.verdict = self.verdict();
        match self.refusal {
            Some(refusal) => {
                let reason = self.reason.unwrap_or("");
                flow.reason = format!("{refusal}: {reason}").trim_end_matches(": ").into();
            }
            None => flow.policies = names(self.reason.unwrap_or("")),
        }
        flow.bytes_sent = self.bytes_in;
        flow.bytes_received = self.bytes_out;
        flow.duration_us = micros(self.took);
        flow.retries = self.attempts.saturating_sub(1);
        flow.trace_id = self.trace_id.into();
        flow
    }

    /// Appends the line.
    pub(crate) fn write(&self, log: &LogBuffer) {
        log.write(|buffer, stamp| self.line(Line::begin(buffer, stamp)));
    }

    fn line(&self, mut line: Line<'_>) {
        let mut some = |name: &str, value: &str| {
            if !value.is_empty() {
                line.text(name, value);
            }
        };
        some("direction", self.direction.as_str());
        some("flow", self.kind.as_str());
        some("caller", self.caller);
        some("callee", self.callee);
        some("method", self.method);
        some("path", self.path);
        some("http", self.http);
        some("grpc_status", self.grpc_status.unwrap_or(""));
        some("refusal", self.refusal.unwrap_or(""));
        some("flag", if self.flag == "-" { "" } else { self.flag });
        some("reason", self.reason.unwrap_or(""));
        some("sub", self.user.unwrap_or(""));
        some("trace_id", self.trace_id);
        some("end", if self.complete { "" } else { "aborted" });
        if let Some((allowed, reasons)) = self.dry_run {
            line.text("dry_run", if allowed { "allow" } else { "deny" });
            line.text("dry_run_reason", reasons);
        }
        line.number("port", u64::from(self.port));
        if self.status != 0 {
            line.number("status", u64::from(self.status));
        }
        line.number("bytes_in", self.bytes_in);
        line.number("bytes_out", self.bytes_out);
        line.number("us", micros(self.took));
        if let Some(upstream) = self.upstream {
            line.number("upstream_us", micros(upstream));
        }
        if self.attempts > 1 {
            line.number("attempts", u64::from(self.attempts));
        }
        line.display("peer", &self.peer);
        if let Some(endpoint) = &self.endpoint {
            line.display("endpoint", endpoint);
        }
        line.end();
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known_and_no_more() {
        let peer = "127.0.0.1:9".parse().expect("address");
        let edge = ("gateway", "orders");
        let mut flow = Flow::new(Direction::Inbound, FlowKind::Request, edge, 7105, peer);
        flow.dry_run = Some((false, "trial"));
        flow.status = 200;
        let log = LogBuffer::new(true);
        flow.write(&log);
        let mut bytes = Vec::new();
        log.take(&mut bytes);
        let line: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(line["caller"], "gateway");
        assert_eq!(line["dry_run"], "deny");
        assert_eq!(line["peer"], "127.0.0.1:9");
        assert!(line["refusal"].is_null() && line["flag"].is_null() && line["end"].is_null());
    }
}
