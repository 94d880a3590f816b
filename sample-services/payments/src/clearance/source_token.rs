//! Third credential: the source token, redeemed at the tokenizer.
//!
//! The tokenizer burns it in one durable statement, bound to caller, method, path and the digest of
//! the payment's terms; this module only states what the token must have been issued for. It must
//! not cache an answer. Read next: `../store.rs`.

use ringwall_proto::payments::PaymentTerms;
use ringwall_proto::tokenizer::{self, RedeemRequest, TokenMethod, TokenPath};
use ringwall_proto::{WireToken, paths, problems};
use ringwall_service::{Transport, Upstream};

use super::KnownCaller;
use crate::error::PaymentError;

/// Redeems source tokens. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SourceTokens {
    tokenizer: Upstream,
}

/// Evidence that a source token for exactly these terms was spent now, by this request.
#[must_use]
#[derive(Debug)]
pub(crate) struct Redeemed {
    user: String,
}

impl SourceTokens {
    pub(crate) fn new(tokenizer: Upstream) -> Self {
        Self { tokenizer }
    }

    /// No retry: if the answer is lost the token is spent, and the caller brings a new one.
    pub(super) async fn redeem(
        &self,
        caller: &KnownCaller,
        terms: &PaymentTerms,
        token: Option<WireToken>,
    ) -> Result<Redeemed, PaymentError> {
        let request = RedeemRequest {
            token: token.ok_or(PaymentError::SourceTokenMissing)?,
            caller: caller.spiffe_id().clone(),
            htm: TokenMethod::Post,
            htu: TokenPath::parse(paths::PAYMENTS).expect("our own path is a valid token path"),
            body_digest: terms.digest(),
        };
        let answer = self
            .tokenizer
            .post(paths::SOURCE_TOKENS_REDEEM)
            .json(&request)
            .receive::<tokenizer::Redeemed>()
            .await;
        match answer {
            Ok(response) => Ok(Redeemed {
                user: response.body.sub.into(),
            }),
            Err(error) if error.slug() == Some(problems::SOURCE_TOKEN_REFUSED) => {
                Err(PaymentError::SourceToken("the tokenizer refused it"))
            }
            Err(error) => Err(PaymentError::Tokenizer(error)),
        }
    }
}

impl Redeemed {
    pub(super) fn user(&self) -> &str {
        &self.user
    }
}
