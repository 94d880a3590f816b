//! The record of what happened to every token: one audit line and one count each.
//!
//! Owns: the events and their fields. Must not: write a token, or decide. The answer to a refused
//! redemption never says why; this does. Read next: `tokens.rs`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use ringwall_identity::SpiffeId;
use ringwall_service::Metrics;
use uuid::Uuid;

use crate::binding::{Binding, NewToken, OnBehalfOf, RefusalReason};
use crate::error::TokenizerError;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    event: &'static str,
    reason: &'static str,
}

/// Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audit {
    events: Family<Labels, Counter>,
}

impl Audit {
    pub(crate) fn register(&self, metrics: &Metrics) {
        metrics.register(
            "source_tokens",
            "Events of source tokens",
            self.events.clone(),
        );
    }

    pub(crate) fn issued(&self, token: &NewToken) {
        self.count("issued", "");
        let NewToken {
            id,
            binding,
            user,
            expires_at,
            ..
        } = token;
        tracing::info!(
            target: "audit",
            event = "source_token_issued",
            token = %id,
            caller = %binding.caller,
            audience = %binding.audience,
            htm = binding.htm.as_str(),
            htu = binding.htu.as_str(),
            sub = %user.sub,
            client_id = %user.client_id,
            expires_at = %expires_at,
            "source token issued"
        );
    }

    pub(crate) fn issue_refused(&self, caller: &SpiffeId, audience: &str, error: &TokenizerError) {
        let reason = match error {
            TokenizerError::Request(_) => "bad_request",
            TokenizerError::EdgeUndeclared => "undeclared_edge",
            TokenizerError::Subject(_) => "subject_token",
            TokenizerError::TooManyOutstanding { .. } => "too_many_outstanding",
            _ => "unavailable",
        };
        self.count("issue_refused", reason);
        tracing::warn!(
            target: "audit",
            event = "source_token_issue_refused",
            reason,
            %error,
            %caller,
            audience,
            "source token not issued"
        );
    }

    pub(crate) fn redeemed(&self, id: Uuid, presented: &Binding, user: &OnBehalfOf) {
        self.count("redeemed", "");
        tracing::info!(
            target: "audit",
            event = "source_token_redeemed",
            token = %id,
            caller = %presented.caller,
            audience = %presented.audience,
            sub = %user.sub,
            client_id = %user.client_id,
            "source token redeemed"
        );
    }

    pub(crate) fn redeem_refused(
        &self,
        id: Option<Uuid>,
        presented: &Binding,
        reason: RefusalReason,
    ) {
        self.count("redeem_refused", reason.as_str());
        tracing::warn!(
            target: "audit",
            event = "source_token_redeem_refused",
            reason = reason.as_str(),
            token = id.map(tracing::field::display),
            caller = %presented.caller,
            audience = %presented.audience,
            htm = presented.htm.as_str(),
            htu = presented.htu.as_str(),
            "source token not redeemed"
        );
    }

    pub(crate) fn revoked(&self, id: Uuid, peer: &SpiffeId) {
        self.count("revoked", "");
        tracing::info!(
            target: "audit",
            event = "source_token_revoked",
            token = %id,
            by = %peer,
            "source token revoked"
        );
    }

    fn count(&self, event: &'static str, reason: &'static str) {
        self.events.get_or_create(&Labels { event, reason }).inc();
    }

    #[cfg(test)]
    pub(crate) fn total(&self, event: &'static str, reason: &'static str) -> u64 {
        self.events.get_or_create(&Labels { event, reason }).get()
    }
}
