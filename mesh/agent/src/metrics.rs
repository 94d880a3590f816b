//! What the agent counts.
//!
//! Must not: take a label from a caller; labels are registered workloads and our own words.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::error::AgentError;
use crate::plane::Want;
use crate::renewal::Issued;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Workload {
    workload: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Renewal {
    kind: &'static str,
    workload: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

/// Clones share the counts.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    expiry: Family<Workload, Gauge>,
    renewals: Family<Renewal, Counter>,
    refusals: Family<Refusal, Counter>,
    streams: Family<Method, Gauge>,
    calls: Family<Method, Counter>,
    clock_ahead: Gauge,
}

impl Metrics {
    pub(crate) fn register(&self, metrics: &ringwall_service::Metrics) {
        metrics.register(
            "agent_svid_not_after_seconds",
            "End of each workload's SVID in use, in seconds since 1970",
            self.expiry.clone(),
        );
        metrics.register(
            "agent_renewals",
            "Attempts to get a certificate",
            self.renewals.clone(),
        );
        metrics.register(
            "agent_refusals",
            "Callers of the Workload API that got nothing",
            self.refusals.clone(),
        );
        metrics.register(
            "agent_streams",
            "Open streams of the Workload API and of secret discovery",
            self.streams.clone(),
        );
        metrics.register(
            "agent_calls",
            "Calls of the Workload API and of secret discovery",
            self.calls.clone(),
        );
        metrics.register(
            "agent_clock_ahead_seconds",
            "This machine's clock minus the control plane's, when a certificate was issued last; more than 300 either way breaks mTLS",
            self.clock_ahead.clone(),
        );
    }

    /// Seconds; negative where it is behind.
    pub(crate) fn clock_ahead(&self, seconds: i64) {
        self.clock_ahead.set(seconds);
    }

    pub(crate) fn renewed(&self, want: &Want, result: &Result<Issued, AgentError>) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(AgentError::Refused(_)) => "refused",
            Err(AgentError::Away(_)) => "away",
            Err(_) => "unusable",
        };
        let labels = Renewal {
            kind: want.kind(),
            workload: want.workload().to_owned(),
            outcome,
        };
        self.renewals.get_or_create(&labels).inc();
    }

    pub(crate) fn svid(&self, workload: &str, not_after: i64) {
        let workload = workload.to_owned();
        self.expiry
            .get_or_create(&Workload { workload })
            .set(not_after);
    }

    pub(crate) fn svid_gone(&self, workload: &str) {
        let workload = workload.to_owned();
        self.expiry.remove(&Workload { workload });
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Refusal { reason }).inc();
    }

    pub(crate) fn called(&self, method: &'static str) {
        self.calls.get_or_create(&Method { method }).inc();
    }

    /// Counts a stream until it is dropped.
    pub(crate) fn stream(&self, method: &'static str) -> Arc<StreamCount> {
        let gauge = self.streams.get_or_create(&Method { method }).clone();
        gauge.inc();
        Arc::new(StreamCount(gauge))
    }

    #[cfg(test)]
    pub(crate) fn clock_was_ahead(&self) -> i64 {
        self.clock_ahead.get()
    }

    #[cfg(test)]
    pub(crate) fn refusals(&self, reason: &'static str) -> u64 {
        self.refusals.get_or_create(&Refusal { reason }).get()
    }

    #[cfg(test)]
    pub(crate) fn open_streams(&self, method: &'static str) -> i64 {
        self.streams.get_or_create(&Method { method }).get()
    }
}

/// One open stream.
pub(crate) struct StreamCount(Gauge);

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.dec();
    }
}
