//! The way between a component and the service proxy beside it: plaintext on loopback, where every
//! process of the machine could knock.
//!
//! Owns: the shared secret on both legs, and who counts as the caller of a request. The order is
//! fixed: the secret first, in constant time; only then is anything believed that the request says.
//! Must not: log the secret, or hand it or the caller's header on to a handler.
//! Read next: `loopback/caller.rs` for how a proxy names the caller.

mod caller;

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use ringwall_http_io::Problem;
use ringwall_identity::SpiffeId;
use ringwall_proto::{headers, problems};
use ringwall_secret::{SecretProvider, SecretString};

use crate::{
    config::{ConfigError, ServiceConfig, SidecarConfig},
    error::StartError,
    peer::Peer,
};

const PASS: HeaderName = HeaderName::from_static(headers::LOOPBACK);
const CALLER: HeaderName = HeaderName::from_static(headers::CLIENT_CERT);
/// A shorter secret could be guessed; 32 random bytes are 43 letters of base64url.
const SHORTEST_TOKEN: usize = 32;

/// Reads the secret that the component shares with its proxy.
pub(crate) fn token(
    sidecar: &SidecarConfig,
    secrets: &SecretProvider,
) -> Result<SecretString, StartError> {
    let token = secrets.get_string(&sidecar.loopback_token)?;
    if token.expose().len() < SHORTEST_TOKEN {
        return Err(StartError::config(format!(
            "the secret `{}` has fewer than {SHORTEST_TOKEN} letters, so that it could be guessed\n  fix: make it of 32 random bytes",
            sidecar.loopback_token
        )));
    }
    Ok(token)
}

/// The header that says to the proxy who we are.
pub(crate) fn pass(token: &SecretString) -> Result<(HeaderName, HeaderValue), ConfigError> {
    let mut value = HeaderValue::from_str(token.expose()).map_err(|_| {
        ConfigError::invalid(
            "service.sidecar.loopback_token",
            "a secret with other letters than a header may have",
            "visible ASCII",
            "write it as base64url",
        )
    })?;
    value.set_sensitive(true);
    Ok((PASS, value))
}

/// How a component names itself to its own admin listener, where no proxy does it.
pub(crate) fn named(id: &SpiffeId) -> (&'static str, String) {
    (headers::CLIENT_CERT, format!("URI={id}"))
}

/// Who may pass one plaintext listener.
pub(crate) struct Door {
    token: SecretString,
    own: SpiffeId,
    callers: Vec<SpiffeId>,
}

/// Why a request does not pass; said to the log, never to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the loopback token is missing, wrong, or there twice")]
    Token,
    #[error("{0}")]
    Caller(#[from] caller::Unnamed),
    #[error("the calling workload is not among the declared callers")]
    Undeclared,
}

impl Door {
    /// A door for `callers`, all of them workloads of our own trust domain.
    pub(crate) fn new(
        config: &ServiceConfig,
        own: SpiffeId,
        token: SecretString,
        callers: &[String],
    ) -> Result<Self, StartError> {
        let callers: Result<Vec<_>, _> = callers.iter().map(|name| config.workload(name)).collect();
        Ok(Self {
            token,
            own,
            callers: callers?,
        })
    }

    /// Takes our two header fields off the request and says who calls.
    pub(crate) fn admit<B>(&self, request: &mut Request<B>) -> Result<Peer, Refused> {
        let fields = request.headers_mut();
        let passed = self.holds_token(fields);
        let named = caller::of(fields, &CALLER, &self.own);
        fields.remove(PASS);
        fields.remove(CALLER);
        if !passed {
            return Err(Refused::Token);
        }
        let id = named?;
        if !self.callers.contains(&id) {
            return Err(Refused::Undeclared);
        }
        Ok(Peer(id))
    }

    fn holds_token(&self, fields: &HeaderMap) -> bool {
        let mut values = fields.get_all(PASS).iter();
        match (values.next(), values.next()) {
            (Some(one), None) => self.token.ct_eq(one.as_bytes()),
            _ => false,
        }
    }
}

/// What a caller learns: nothing about the cause.
pub(crate) fn refusal() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        problems::PEER_REFUSED,
        "Caller refused",
    )
    .detail("This listener is for the service proxy beside it.")
}

#[cfg(test)]
#[path = "loopback/tests.rs"]
mod tests;
