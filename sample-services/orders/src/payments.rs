//! Client of payments (C): captures the money of one order, and asks what became of it.
//!
//! Owns: which of C's answers prove that no money was taken. It must not retry: `place_order.rs`
//! decides that, with a new source token. Read next: `credentials.rs`.

use std::sync::Arc;

use ringwall_http_io::client::{Call, ClientError};
use ringwall_proto::ids::OrderId;
use ringwall_proto::payments::{Payment, PaymentRequest, PaymentTerms};
use ringwall_proto::{headers, paths, problems};
use ringwall_secret::SecretProvider;
use ringwall_service::{Transport, Upstream};

use crate::credentials::PaymentCredentials;
use crate::error::OrderError;

/// Name of the secret that holds our API key for payments.
const API_KEY_SECRET: &str = "api-key-payments";

/// Speaks to payments. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Payments {
    upstream: Upstream,
    secrets: Arc<SecretProvider>,
}

impl Payments {
    pub(crate) fn new(upstream: Upstream, secrets: Arc<SecretProvider>) -> Self {
        Self { upstream, secrets }
    }

    /// Captures `terms` with all three credentials. Idempotent by order id at C.
    pub(crate) async fn capture(
        &self,
        terms: PaymentTerms,
        credentials: PaymentCredentials,
    ) -> Result<Payment, OrderError> {
        let request = PaymentRequest {
            order_id: terms.order_id,
            amount_minor: terms.amount_minor,
            currency: terms.currency,
            source_token: Some(credentials.source_token),
        };
        let answer = self
            .authenticated(self.upstream.post(paths::PAYMENTS))?
            .bearer(credentials.access_token.expose())
            .json(&request)
            .receive::<Payment>()
            .await;
        answer.map(|response| response.body).map_err(outcome)
    }

    /// What C knows of the payment of an order; `None` when it captured nothing.
    pub(crate) async fn payment_of(
        &self,
        order_id: OrderId,
    ) -> Result<Option<Payment>, OrderError> {
        let path = format!("{}/{order_id}", paths::PAYMENTS);
        let call = self.authenticated(self.upstream.get(&path))?;
        match call.receive::<Payment>().await {
            Ok(response) => Ok(Some(response.body)),
            // The slug, not the bare status: a 404 of something in between proves nothing.
            Err(error) if error.slug() == Some(problems::NOT_FOUND) => Ok(None),
            Err(error) => Err(OrderError::Payments(error)),
        }
    }

    fn authenticated<'a>(
        &self,
        call: Call<'a, Upstream>,
    ) -> Result<Call<'a, Upstream>, OrderError> {
        let key = self.secrets.get_string(API_KEY_SECRET)?;
        Ok(call.header(headers::API_KEY, key.expose()))
    }
}

/// Answers after which nothing was captured: C's own refusals, and those of the proxies on the way before anybody has seen the
/// request.
const NOTHING_CAPTURED: [&str; 20] = [
    problems::ACCESS_TOKEN_MISSING,
    problems::ACCESS_TOKEN_REFUSED,
    problems::API_KEY_MISSING,
    problems::API_KEY_REFUSED,
    problems::SOURCE_TOKEN_MISSING,
    problems::SOURCE_TOKEN_REFUSED,
    problems::PEER_REFUSED,
    problems::BAD_REQUEST,
    problems::INVALID_BODY,
    problems::PAYMENTS_UNAVAILABLE,
    problems::UNAVAILABLE,
    problems::TOO_MANY_REQUESTS,
    problems::UPSTREAM_UNREACHABLE,
    problems::NO_ENDPOINT,
    problems::NOT_READY,
    problems::OVERLOADED,
    problems::CIRCUIT_OPEN,
    problems::DENIED,
    problems::EDGE_NOT_DECLARED,
    problems::UNKNOWN_SERVICE,
];

/// Any other ending (a time-out, a cut connection, a bare 5xx, a word that we do not know) proves nothing.
fn outcome(error: ClientError) -> OrderError {
    match error.slug() {
        Some(problems::PAYMENT_DECLINED) => OrderError::PaymentDeclined,
        Some(slug) if NOTHING_CAPTURED.contains(&slug) => OrderError::Payments(error),
        None if error.is_connect() => OrderError::Payments(error),
        _ => OrderError::PaymentUnresolved(error),
    }
}
