//! The two tokens that a payment needs besides the API key, both derived from the user's own.
//!
//! Owns: asking the tokenizer for a source token and the authorization server for an access token
//! with audience `payments` (RFC 8693). It must not keep either: they are made for one order and
//! dropped with it. Read next: `payments.rs`.

use ringwall_http_io::client::ClientError;
use ringwall_proto::WireToken;
use ringwall_proto::ids::Name;
use ringwall_proto::oauth::{ACCESS_TOKEN_TYPE, GRANT_TOKEN_EXCHANGE, TokenResponse};
use ringwall_proto::paths;
use ringwall_proto::payments::{AUDIENCE, PaymentTerms};
use ringwall_proto::tokenizer::{SourceTokenRequest, SourceTokenResponse, TokenMethod, TokenPath};
use ringwall_service::{Transport, Upstream};

use crate::error::OrderError;

/// Our client id at the authorization server, authenticated by mutual TLS (RFC 8705 §2.1).
const CLIENT_ID: &str = "orders";

/// Asks for the tokens of one payment. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Credentials {
    tokenizer: Upstream,
    authz_server: Upstream,
}

/// What C asks for besides the API key.
#[derive(Debug)]
pub(crate) struct PaymentCredentials {
    /// Good once, for these terms only, for at most 30 s.
    pub(crate) source_token: WireToken,
    /// Audience `payments`; says that orders acts for the user.
    pub(crate) access_token: WireToken,
}

impl Credentials {
    pub(crate) fn new(tokenizer: Upstream, authz_server: Upstream) -> Self {
        Self {
            tokenizer,
            authz_server,
        }
    }

    /// Both tokens, asked for at the same time.
    pub(crate) async fn for_payment(
        &self,
        users_token: &WireToken,
        terms: &PaymentTerms,
    ) -> Result<PaymentCredentials, OrderError> {
        let (source_token, access_token) = tokio::try_join!(
            self.source_token(users_token, terms),
            self.exchange(users_token)
        )?;
        Ok(PaymentCredentials {
            source_token,
            access_token,
        })
    }

    async fn source_token(
        &self,
        users_token: &WireToken,
        terms: &PaymentTerms,
    ) -> Result<WireToken, OrderError> {
        let request = SourceTokenRequest::new(
            users_token.clone(),
            Name::parse(AUDIENCE).expect("the audience is a valid name"),
            TokenMethod::Post,
            TokenPath::parse(paths::PAYMENTS).expect("the path is a valid token path"),
            terms.digest(),
        );
        let answer = self
            .tokenizer
            .post(paths::SOURCE_TOKENS)
            .form(&request.form())
            .receive::<SourceTokenResponse>()
            .await;
        answer
            .map(|response| response.body.access_token)
            .map_err(refusal)
    }

    async fn exchange(&self, users_token: &WireToken) -> Result<WireToken, OrderError> {
        let answer = self
            .authz_server
            .post(paths::AUTHZ_TOKEN)
            .form(&[
                ("grant_type", GRANT_TOKEN_EXCHANGE),
                ("client_id", CLIENT_ID),
                ("subject_token", users_token.expose()),
                ("subject_token_type", ACCESS_TOKEN_TYPE),
                ("requested_token_type", ACCESS_TOKEN_TYPE),
                ("audience", AUDIENCE),
            ])
            .receive::<TokenResponse>()
            .await;
        answer
            .map(|response| response.body.access_token)
            .map_err(refusal)
    }
}

/// A refusal (4xx) is about the user's token; everything else means that the peer is away.
fn refusal(error: ClientError) -> OrderError {
    match error.status() {
        Some(status) if status.is_client_error() => OrderError::UsersToken(error),
        _ => OrderError::Credentials(error),
    }
}
