//! The record of what was issued, joined, revoked and refused: one line and one count each.
//!
//! Owns: the events, their fields and the metrics. The table in the store has the same events; this
//! is what a collector sees. Must not: write a token or a key.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use ringwall_identity::SpiffeId;
use ringwall_service::Metrics;
use time::OffsetDateTime;

use crate::error::Error;
use crate::store::Store;
use crate::store::model::{AuditEntry, IssuedCertificate, Target};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    what: &'static str,
    reason: &'static str,
}

/// Clones share the counts.
#[derive(Clone, Default)]
pub(crate) struct Audit {
    issued: Family<KindLabel, Counter>,
    refused: Family<RefusalLabels, Counter>,
    joined: Counter,
    revoked: Gauge,
    intermediate_not_after: Gauge,
    leads: Gauge,
}

impl Audit {
    pub(crate) fn register(&self, metrics: &Metrics) {
        metrics.register(
            "authority_issued",
            "Certificates and tokens issued, by kind",
            self.issued.clone(),
        );
        metrics.register(
            "authority_refused",
            "Requests refused, by what was asked and why",
            self.refused.clone(),
        );
        metrics.register(
            "authority_joined",
            "Nodes that joined by a token",
            self.joined.clone(),
        );
        metrics.register(
            "authority_revocations",
            "Revocations in force",
            self.revoked.clone(),
        );
        metrics.register(
            "authority_intermediate_not_after_seconds",
            "End of the intermediate in use, in seconds since 1970",
            self.intermediate_not_after.clone(),
        );
        metrics.register(
            "control_plane_leads",
            "1 while this replica leads",
            self.leads.clone(),
        );
    }

    pub(crate) fn issued(&self, issued: &IssuedCertificate) {
        let kind = issued.kind.as_str();
        self.issued.get_or_create(&KindLabel { kind }).inc();
        tracing::info!(
            target: "audit",
            event = "certificate_issued",
            kind,
            spiffe_id = %issued.holder,
            serial = %issued.serial,
            by = issued.by,
            detail = issued.detail,
            not_after = %issued.not_after,
            "certificate issued"
        );
    }

    pub(crate) fn jwt_issued(&self, id: &SpiffeId, audience: &[String], by: &str) {
        self.issued.get_or_create(&KindLabel { kind: "jwt" }).inc();
        tracing::info!(
            target: "audit",
            event = "jwt_issued",
            spiffe_id = %id,
            audience = ?audience,
            by,
            "JWT-SVID issued"
        );
    }

    pub(crate) fn joined(&self, node: &str) {
        self.joined.inc();
        tracing::info!(target: "audit", event = "joined", node, "a node has joined");
    }

    pub(crate) fn join_token_created(&self, node: &str, not_after: OffsetDateTime, by: &str) {
        tracing::info!(
            target: "audit",
            event = "join_token_created",
            node,
            not_after = %not_after,
            by,
            "join token created"
        );
    }

    pub(crate) fn revoked(&self, target: &Target, reason: &str, by: &str) {
        tracing::warn!(target: "audit", event = "revoked", what = %target, reason, by, "revoked");
    }

    pub(crate) fn restored(&self, id: &SpiffeId, by: &str) {
        tracing::warn!(target: "audit", event = "restored", spiffe_id = %id, by, "restored");
    }

    /// One line, one count. `detail` is for us alone.
    pub(crate) fn refused(&self, what: &'static str, error: &Error, by: &str, detail: &str) {
        let reason = error.reason();
        self.refused
            .get_or_create(&RefusalLabels { what, reason })
            .inc();
        tracing::warn!(
            target: "audit",
            event = "refused",
            what,
            reason,
            %error,
            by,
            detail,
            "refused"
        );
    }

    /// The same, and a row in the table. For refusals that are limited in number.
    pub(crate) async fn refused_on_record(
        &self,
        store: &Arc<dyn Store>,
        what: &'static str,
        error: &Error,
        by: &str,
        detail: &str,
        at: OffsetDateTime,
    ) {
        self.refused(what, error, by, detail);
        let entry = AuditEntry {
            at,
            event: format!("{what}_refused"),
            actor: by.to_owned(),
            subject: String::new(),
            serial: None,
            reason: detail.to_owned(),
        };
        if let Err(error) = store.audit(&entry).await {
            tracing::error!(%error, "the audit log cannot be written");
        }
    }

    pub(crate) fn revocations_in_force(&self, number: usize) {
        self.revoked.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    pub(crate) fn intermediate_ends(&self, at: OffsetDateTime) {
        self.intermediate_not_after.set(at.unix_timestamp());
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leads.set(leads.into());
    }
}
