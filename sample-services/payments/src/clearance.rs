//! The rule of this service: a payment needs three credentials, and each must be proven.
//!
//! 1. an **API key** that belongs to the caller's mTLS identity: *this workload may ask*;
//! 2. an **access token** for this service in which `orders` acts for a user: *the user's sign-in
//!    stands behind it*;
//! 3. a **source token**, redeemed at the tokenizer: *for exactly this payment, and only once*.
//!
//! Each submodule proves one and returns evidence that nothing else can build. [`Cleared`] is made
//! from all three and is the only thing that the ledger captures, so forgetting a check does not
//! compile. It must not capture anything itself. Read next: `clearance/access_token.rs`.

mod access_token;
mod caller;
mod source_token;

use http::request::Parts;
use ringwall_proto::WireToken;
use ringwall_proto::payments::PaymentTerms;
use ringwall_service::api_keys::ApiKeys;

pub(crate) use access_token::{AccessTokens, OnBehalfOf};
pub(crate) use caller::KnownCaller;
pub(crate) use source_token::{Redeemed, SourceTokens};

use crate::error::PaymentError;

/// Proves the three credentials. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Clearance {
    pub(crate) keys: ApiKeys,
    pub(crate) access_tokens: AccessTokens,
    pub(crate) source_tokens: SourceTokens,
}

/// Evidence that all three credentials hold for these terms. Not `Clone`: one clearance is one
/// capture.
#[must_use = "a clearance is good for one capture; dropping it wastes the source token"]
#[derive(Debug)]
pub(crate) struct Cleared {
    terms: PaymentTerms,
    user: String,
    client: String,
}

impl Clearance {
    /// The cheap local checks come first; the source token is consumed last, so that a request that
    /// fails otherwise leaves it unspent.
    pub(crate) async fn clear(
        &self,
        caller: KnownCaller,
        on_behalf_of: OnBehalfOf,
        terms: PaymentTerms,
        source_token: Option<WireToken>,
    ) -> Result<Cleared, PaymentError> {
        let redeemed = self
            .source_tokens
            .redeem(&caller, &terms, source_token)
            .await?;
        Cleared::from_all_three(caller, on_behalf_of, redeemed, terms)
    }

    /// First credential: an API key with `scope`, bound to the peer of the connection.
    pub(crate) fn caller(&self, parts: &Parts, scope: &str) -> Result<KnownCaller, PaymentError> {
        KnownCaller::prove(&self.keys, parts, scope)
    }

    /// Second credential: the bearer token of the request.
    pub(crate) async fn on_behalf_of(&self, parts: &Parts) -> Result<OnBehalfOf, PaymentError> {
        self.access_tokens.prove(&parts.headers).await
    }
}

impl Cleared {
    fn from_all_three(
        _caller: KnownCaller,
        on_behalf_of: OnBehalfOf,
        redeemed: Redeemed,
        terms: PaymentTerms,
    ) -> Result<Self, PaymentError> {
        // Two honest tokens of two users must not add up to one payment.
        if on_behalf_of.user() != redeemed.user() {
            return Err(PaymentError::SourceToken("it was issued for another user"));
        }
        Ok(Self {
            terms,
            user: redeemed.user().to_owned(),
            client: on_behalf_of.client().to_owned(),
        })
    }

    pub(crate) fn terms(&self) -> &PaymentTerms {
        &self.terms
    }

    /// `sub` of the paying user.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// OAuth client in which the user signed in.
    pub(crate) fn client(&self) -> &str {
        &self.client
    }
}
