//! One flow: a request or an opaque connection, as it ended.
//!
//! Owns: the names of the fields that `/observe` shows. Must not: hold a header, a body or a query.

use serde::Serialize;
use time::OffsetDateTime;

/// Longest text in a record, in bytes. A path may be 64 KiB; a record of it need not.
const MAX_TEXT: usize = 512;
/// Most policies that one record names.
const MAX_POLICIES: usize = 16;

/// Which way a flow goes, seen from the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Inbound,
    Outbound,
    /// Through the egress gateway, out of the platform.
    Egress,
}

impl Direction {
    /// The word of the log and of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Egress => "egress",
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Allowed,
    Denied,
    /// Allowed, and a policy in dry run would have denied it.
    DryRunDenied,
    /// Allowed, and then it failed on the way.
    Error,
    /// The kernel has refused it, before any proxy saw it.
    Dropped,
}

impl Verdict {
    /// Whether a record is kept for those who look afterwards. Ordinary traffic is not.
    pub(crate) const fn is_kept(self) -> bool {
        matches!(
            self,
            Self::Denied | Self::DryRunDenied | Self::Error | Self::Dropped
        )
    }
}

/// One flow. Fields that a protocol does not have are empty or zero, and then not shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    pub direction: Direction,
    /// Workload names; of a peer outside of the trust domain, its SPIFFE id.
    pub caller: Box<str>,
    /// Workload name, or the external host.
    pub callee: Box<str>,
    pub port: u16,
    /// `http/1.1`, `h2`, `websocket`, `tcp` or `udp`; of a dropped one `other`, where it is none of these.
    pub protocol: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub method: Box<str>,
    /// Without the query, which may hold what must not be recorded.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub path: Box<str>,
    #[serde(skip_serializing_if = "is_zero")]
    pub status: u16,
    pub verdict: Verdict,
    /// `@id`s of the policies that decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Box<str>>,
    /// Of a denial or an error, the step that said no.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: Box<str>,
    /// From the caller to the callee.
    pub bytes_sent: u64,
    /// From the callee to the caller.
    pub bytes_received: u64,
    pub duration_us: u64,
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub retries: u32,
    /// W3C, 32 hexadecimal digits.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub trace_id: Box<str>,
}

impl Flow {
    /// A flow of which only the ends are known yet.
    pub fn new(time: OffsetDateTime, direction: Direction) -> Self {
        Self {
            time,
            direction,
            caller: Box::default(),
            callee: Box::default(),
            port: 0,
            protocol: "tcp",
            method: Box::default(),
            path: Box::default(),
            status: 0,
            verdict: Verdict::Allowed,
            policies: Vec::new(),
            reason: Box::default(),
            bytes_sent: 0,
            bytes_received: 0,
            duration_us: 0,
            retries: 0,
            trace_id: Box::default(),
        }
    }

    /// The same with nothing longer than a record may be, and without a query, whoever has filled it in.
    pub(crate) fn bounded(mut self, verdict: Verdict) -> Self {
        self.verdict = verdict;
        if let Some((path, _query)) = self.path.split_once(['?', '#']) {
            self.path = path.into();
        }
        for text in [
            &mut self.caller,
            &mut self.callee,
            &mut self.method,
            &mut self.path,
            &mut self.reason,
            &mut self.trace_id,
        ] {
            shorten(text);
        }
        self.policies.truncate(MAX_POLICIES);
        self.policies.iter_mut().for_each(shorten);
        self
    }
}

fn shorten(text: &mut Box<str>) {
    if text.len() > MAX_TEXT {
        let end = text.floor_char_boundary(MAX_TEXT);
        *text = format!("{}…", text.get(..end).unwrap_or_default()).into();
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
const fn is_zero(number: &u16) -> bool {
    *number == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
const fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}
