//! The authorization server as this component uses it: over the mesh, as the client `spa-proxy`,
//! which the server knows by its certificate (RFC 8705 §2.1), so there is no client secret.
//!
//! Owns: the OAuth calls and the verification of what the server signs.
//! Must not: keep tokens, or decide what a failure means for a session.

use std::time::{Duration, SystemTime};

use ringwall_http_io::ClientError;
use ringwall_proto::{
    WireToken,
    introspection::IntrospectionResponse,
    oauth::{GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN, ParResponse, TokenResponse},
    paths,
};
use ringwall_service::{Transport, Upstream};
use ringwall_token::{
    Expectation, JwksCache, TokenError,
    claims::{IdToken, LogoutToken},
};
use serde::de::DeserializeOwned;
use url::Url;

use crate::config::Config;

/// Difference between two machines' clocks that is forgiven.
const LEEWAY: Duration = Duration::from_secs(30);

/// How a call to the authorization server failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// It answered, and the answer is no.
    #[error("refused with status {0}")]
    Refused(u16),
    /// No usable answer; the outcome may be unknown.
    #[error("no answer: {0}")]
    NoAnswer(String),
}

impl From<ClientError> for AuthorityError {
    fn from(error: ClientError) -> Self {
        match error.status() {
            Some(status) if status.is_client_error() && status.as_u16() != 429 => {
                Self::Refused(status.as_u16())
            }
            _ => Self::NoAnswer(error.to_string()),
        }
    }
}

/// What a sign-in asks for.
pub(crate) struct AuthorizationRequest<'a> {
    pub(crate) state: &'a str,
    pub(crate) nonce: &'a str,
    /// S256 challenge (RFC 7636 §4.2).
    pub(crate) code_challenge: &'a str,
}

pub(crate) struct Authority {
    upstream: Upstream,
    keys: JwksCache,
    pub(crate) issuer: String,
    client_id: String,
    scope: String,
    redirect_uri: String,
    post_logout_redirect_uri: String,
}

impl Authority {
    pub(crate) fn new(upstream: Upstream, config: &Config) -> Self {
        let keys = upstream.jwks(paths::AUTHZ_JWKS);
        Self {
            upstream,
            keys,
            issuer: config.issuer.clone(),
            client_id: config.client_id.clone(),
            scope: config.scope.clone(),
            redirect_uri: config.redirect_uri(),
            post_logout_redirect_uri: config.post_logout_redirect_uri(),
        }
    }

    /// Pushes the request (RFC 9126) and answers where to send the browser: the URL holds nothing
    /// but a reference.
    pub(crate) async fn authorize_url(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> Result<String, AuthorityError> {
        let form = [
            ("client_id", self.client_id.as_str()),
            ("response_type", "code"),
            ("redirect_uri", &self.redirect_uri),
            ("scope", &self.scope),
            ("state", request.state),
            ("nonce", request.nonce),
            ("code_challenge", request.code_challenge),
            ("code_challenge_method", "S256"),
        ];
        let pushed: ParResponse = self.post(paths::AUTHZ_PAR, &form).await?;
        let parameters = [
            ("client_id", self.client_id.as_str()),
            ("request_uri", &pushed.request_uri),
        ];
        self.browser_url(paths::AUTHZ_AUTHORIZE, &parameters)
    }

    /// Redeems an authorization code (RFC 6749 §4.1.3, RFC 7636 §4.5).
    pub(crate) async fn redeem_code(
        &self,
        code: &str,
        verifier: &str,
    ) -> Result<TokenResponse, AuthorityError> {
        let form = [
            ("grant_type", GRANT_AUTHORIZATION_CODE),
            ("client_id", &self.client_id),
            ("code", code),
            ("redirect_uri", &self.redirect_uri),
            ("code_verifier", verifier),
        ];
        self.post(paths::AUTHZ_TOKEN, &form).await
    }

    /// RFC 6749 §6.
    pub(crate) async fn refresh(&self, token: &WireToken) -> Result<TokenResponse, AuthorityError> {
        let form = [
            ("grant_type", GRANT_REFRESH_TOKEN),
            ("client_id", self.client_id.as_str()),
            ("refresh_token", token.expose()),
        ];
        self.post(paths::AUTHZ_TOKEN, &form).await
    }

    /// RFC 7662 §2.1.
    pub(crate) async fn introspect(
        &self,
        access_token: &WireToken,
    ) -> Result<IntrospectionResponse, AuthorityError> {
        let form = [
            ("client_id", self.client_id.as_str()),
            ("token", access_token.expose()),
            ("token_type_hint", "access_token"),
        ];
        self.post(paths::AUTHZ_INTROSPECT, &form).await
    }

    /// RFC 7009 §2.1.
    pub(crate) async fn revoke(&self, refresh_token: &WireToken) -> Result<(), AuthorityError> {
        let form = [
            ("client_id", self.client_id.as_str()),
            ("token", refresh_token.expose()),
            ("token_type_hint", "refresh_token"),
        ];
        self.tell(paths::AUTHZ_REVOKE, &form).await
    }

    /// Ends the server's own session, named by the ID token, without the browser: so the ID token
    /// stays out of every URL (OpenID Connect RP-Initiated Logout 1.0 §2, sent over the mesh).
    pub(crate) async fn end_session(&self, id_token: &WireToken) -> Result<(), AuthorityError> {
        let form = [
            ("client_id", self.client_id.as_str()),
            ("id_token_hint", id_token.expose()),
        ];
        self.tell(paths::AUTHZ_LOGOUT, &form).await
    }

    /// Where the browser drops its cookie of the authorization server and comes back from.
    pub(crate) fn end_session_url(&self) -> Result<String, AuthorityError> {
        let parameters = [
            ("client_id", self.client_id.as_str()),
            ("post_logout_redirect_uri", &self.post_logout_redirect_uri),
        ];
        self.browser_url(paths::AUTHZ_LOGOUT, &parameters)
    }

    /// OpenID Connect Core 1.0 §3.1.3.7, apart from the nonce.
    pub(crate) async fn verify_id_token(
        &self,
        token: &WireToken,
        now: SystemTime,
    ) -> Result<IdToken, TokenError> {
        self.verify(token.expose(), IdToken::TYP, now).await
    }

    /// OpenID Connect Back-Channel Logout 1.0 §2.6, apart from [`LogoutToken::check`] and replay.
    pub(crate) async fn verify_logout_token(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<LogoutToken, TokenError> {
        self.verify(token, LogoutToken::TYP, now).await
    }

    async fn verify<C: DeserializeOwned>(
        &self,
        token: &str,
        typ: &'static str,
        now: SystemTime,
    ) -> Result<C, TokenError> {
        let expectation = Expectation {
            issuer: self.issuer.clone(),
            audience: self.client_id.clone(),
            typ,
            leeway: LEEWAY,
        };
        self.keys.verify(token, &expectation, now).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        form: &[(&str, &str)],
    ) -> Result<T, AuthorityError> {
        Ok(self
            .upstream
            .post(path)
            .form(form)
            .receive::<T>()
            .await?
            .body)
    }

    /// For answers of which only the status matters: a page or a redirect is fine too.
    async fn tell(&self, path: &str, form: &[(&str, &str)]) -> Result<(), AuthorityError> {
        let response = self.upstream.post(path).form(form).send().await?;
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        Err(AuthorityError::Refused(status.as_u16()))
    }

    fn browser_url(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
    ) -> Result<String, AuthorityError> {
        let base = format!("{}{path}", self.issuer.trim_end_matches('/'));
        Url::parse_with_params(&base, parameters)
            .map(String::from)
            .map_err(|error| AuthorityError::NoAnswer(error.to_string()))
    }
}
