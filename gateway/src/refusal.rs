//! Every way in which the gateway says no, and the one place where that becomes a response.
//!
//! Owns: the status, problem type (RFC 9457), challenge (RFC 6750 §3) and rate-limit fields of each refusal.
//! Must not: tell a client more than it needs: reasons go to the access log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Method, Response, StatusCode};
use ringwall_http_io::problem::PROBLEM_JSON;

use crate::limiter::Quota;
use crate::pipeline::body::ProxyBody;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Why a request was stopped.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    /// The message has no single reading; the connection ends with the response.
    Malformed(&'static str),
    /// TLS named another host than the request, or no host of ours (RFC 9110 §15.5.20).
    Misdirected(&'static str),
    NoRoute,
    MethodNotAllowed(Vec<Method>),
    /// An upgrade that the route does not declare.
    Upgrade,
    BodyTooLarge,
    TokenMissing,
    TokenInvalid(&'static str),
    ScopeMissing(Arc<str>),
    Denied(Arc<str>),
    Limited {
        wait: Duration,
        quota: Quota,
    },
    /// The authorization server cannot be asked: denied, not waved through.
    AuthUnavailable(Arc<str>),
    /// A plugin has ended the request without an answer, or sent it out of its route.
    Filter(&'static str),
    UpstreamBusy,
    UpstreamConnect(Arc<str>),
    UpstreamFailed(Arc<str>),
    UpstreamTimeout,
    /// The gateway's own fault, such as a key that cannot sign.
    Internal(Arc<str>),
}

impl Refusal {
    /// The word of the access log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Malformed(what)
            | Self::Misdirected(what)
            | Self::TokenInvalid(what)
            | Self::Filter(what) => what,
            Self::NoRoute => "no-route",
            Self::MethodNotAllowed(_) => "method-not-declared",
            Self::Upgrade => "upgrade-not-declared",
            Self::BodyTooLarge => "body-too-large",
            Self::TokenMissing => "token-missing",
            Self::ScopeMissing(_) => "scope-missing",
            Self::Denied(_) => "policy-denied",
            Self::Limited { .. } => "rate-limited",
            Self::AuthUnavailable(_) => "authorization-server-unavailable",
            Self::UpstreamBusy => "upstream-busy",
            Self::UpstreamConnect(_) => "upstream-connect",
            Self::UpstreamFailed(_) => "upstream-failed",
            Self::UpstreamTimeout => "upstream-timeout",
            Self::Internal(_) => "internal",
        }
    }

    /// What an operator may read and a client may not.
    pub(crate) fn reason(&self) -> Option<Arc<str>> {
        match self {
            Self::ScopeMissing(reason)
            | Self::Denied(reason)
            | Self::AuthUnavailable(reason)
            | Self::UpstreamConnect(reason)
            | Self::UpstreamFailed(reason)
            | Self::Internal(reason) => Some(Arc::clone(reason)),
            _ => None,
        }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Upgrade => StatusCode::BAD_REQUEST,
            Self::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TokenMissing | Self::TokenInvalid(_) => StatusCode::UNAUTHORIZED,
            Self::ScopeMissing(_) | Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::AuthUnavailable(_) | Self::UpstreamBusy => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamConnect(_) | Self::UpstreamFailed(_) => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Filter(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The problem's slug and title.
    const fn problem(&self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed(_) => ("malformed-request", "The request is malformed"),
            Self::Upgrade => ("upgrade-not-declared", "This route does not upgrade"),
            Self::Misdirected(_) => ("misdirected-request", "This host is not served here"),
            Self::NoRoute => ("no-route", "There is nothing here"),
            Self::MethodNotAllowed(_) => ("method-not-allowed", "The method is not declared here"),
            Self::BodyTooLarge => ("body-too-large", "The request body is too large"),
            Self::TokenMissing => ("token-missing", "An access token is needed"),
            Self::TokenInvalid(_) => ("token-invalid", "The access token is not valid"),
            Self::ScopeMissing(_) => ("insufficient-scope", "The access token lacks a scope"),
            Self::Denied(_) => ("denied", "Denied by policy"),
            Self::Limited { .. } => ("rate-limited", "Too many requests"),
            Self::AuthUnavailable(_) => {
                ("authorization-unavailable", "Tokens cannot be checked now")
            }
            Self::Filter(_) => ("filter-failed", "A filter has ended the request"),
            Self::UpstreamBusy => ("upstream-busy", "The service is busy"),
            Self::UpstreamConnect(_) | Self::UpstreamFailed(_) => {
                ("upstream-failed", "The service did not answer")
            }
            Self::UpstreamTimeout => ("upstream-timeout", "The service did not answer in time"),
            Self::Internal(_) => ("internal", "The gateway failed"),
        }
    }

    /// The response; its body is a problem document.
    pub(crate) fn response(&self) -> Response<ProxyBody> {
        let status = self.status();
        let (slug, title) = self.problem();
        let body = format!(
            r#"{{"type":"{}{slug}","title":"{title}","status":{}}}"#,
            ringwall_http_io::problem::TYPE_PREFIX,
            status.as_u16(),
        );
        let mut response = Response::new(ProxyBody::full(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let mut set = |name: HeaderName, text: String| {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        };
        match self {
            Self::Malformed(_) | Self::Misdirected(_) | Self::BodyTooLarge | Self::Upgrade => {
                set(header::CONNECTION, "close".to_owned());
            }
            Self::MethodNotAllowed(allowed) => {
                let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
                set(header::ALLOW, names.join(", "));
            }
            // RFC 6750 §3: no error code where no token was presented.
            Self::TokenMissing => set(header::WWW_AUTHENTICATE, "Bearer".to_owned()),
            Self::TokenInvalid(_) => {
                set(
                    header::WWW_AUTHENTICATE,
                    r#"Bearer error="invalid_token""#.to_owned(),
                );
            }
            Self::ScopeMissing(scopes) => set(
                header::WWW_AUTHENTICATE,
                format!(r#"Bearer error="insufficient_scope", scope="{scopes}""#),
            ),
            Self::Limited { wait, quota } => {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                set(header::RETRY_AFTER, seconds.to_string());
                set(RATELIMIT, format!(r#""default";r=0;t={seconds}"#));
                let period = quota.period.as_secs().max(1);
                set(
                    RATELIMIT_POLICY,
                    format!(r#""default";q={};w={period}"#, quota.rate),
                );
            }
            Self::AuthUnavailable(_) | Self::UpstreamBusy => {
                set(header::RETRY_AFTER, "1".to_owned());
            }
            _ => {}
        }
        response
    }
}
