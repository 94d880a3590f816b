//! Every way in which the egress gateway says no, and what its caller learns of it.
//!
//! Owns: status and problem of each refusal, the word of the log, and whether it was a denial or a failure. Must not:
//! tell a workload what the network behind a name looks like.

use std::net::IpAddr;

use http::{Response, StatusCode};
use ringwall_data_path::path::PathFault;
use ringwall_http_io::{BoxBody, Problem};
use ringwall_proto::problems;

use super::address::Class;
use super::target::TargetFault;
use ringwall_observe::Verdict;

/// Why a request or a tunnel did not go out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the host has no single reading: {}", .0.as_str())]
    Target(TargetFault),
    #[error("the path has no single reading: {}", .0.as_str())]
    Path(PathFault),
    #[error("`Host` and the request's target differ, or there are several")]
    HostMismatch,
    #[error("this kind of request is not forwarded: {0}")]
    Kind(&'static str),
    #[error("no rule allows it; needed: {needed}")]
    NoRule { needed: String },
    #[error("the name resolves to {address}, which is {}", .class.as_str())]
    Address { address: IpAddr, class: Class },
    #[error("the tunnel's first message asks for {seen}, not for the declared host")]
    Sni { seen: String },
    #[error("the name does not resolve: {0}")]
    Resolve(String),
    #[error("no connection: {0}")]
    Connect(String),
    #[error("the server is not who it must be, or TLS failed: {0}")]
    Tls(String),
    #[error("the exchange failed: {0}")]
    Exchange(String),
    #[error("no answer in time")]
    Timeout,
    #[error("the limit of requests at once of the rule `{0}` is reached")]
    Busy(String),
    #[error("the body is longer than the rule allows")]
    BodyTooLarge,
    #[error("the credential `{0}` cannot be used")]
    Credential(String),
}

impl Refusal {
    /// The word of the log.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Target(fault) => fault.as_str(),
            Self::Path(fault) => fault.as_str(),
            Self::HostMismatch => "egress-host-mismatch",
            Self::Kind(_) => "egress-kind",
            Self::NoRule { .. } => "egress-no-rule",
            Self::Address { .. } => "egress-address",
            Self::Sni { .. } => "egress-sni",
            Self::Resolve(_) => "egress-resolve",
            Self::Connect(_) => "egress-connect",
            Self::Tls(_) => "egress-tls",
            Self::Exchange(_) => "egress-exchange",
            Self::Timeout => "egress-timeout",
            Self::Busy(_) => "egress-busy",
            Self::BodyTooLarge => "egress-body-too-large",
            Self::Credential(_) => "egress-credential",
        }
    }

    /// A denial is a decision; everything else went wrong on the way.
    pub(crate) const fn verdict(&self) -> Verdict {
        match self {
            Self::Target(_)
            | Self::Path(_)
            | Self::HostMismatch
            | Self::Kind(_)
            | Self::NoRule { .. }
            | Self::Address { .. }
            | Self::Sni { .. } => Verdict::Denied,
            _ => Verdict::Error,
        }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Target(_) | Self::Path(_) | Self::HostMismatch | Self::Kind(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::NoRule { .. } | Self::Address { .. } | Self::Sni { .. } => StatusCode::FORBIDDEN,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Resolve(_) | Self::Connect(_) | Self::Tls(_) | Self::Exchange(_) => {
                StatusCode::BAD_GATEWAY
            }
            Self::Credential(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer to the workload. A resolved address is not in it: it would map the network for an attacker.
    pub(crate) fn response(&self) -> Response<BoxBody> {
        let (slug, title) = match self.status() {
            StatusCode::BAD_REQUEST => (problems::BAD_REQUEST, "The request has no single reading"),
            StatusCode::FORBIDDEN => (problems::FORBIDDEN, "Egress is not allowed"),
            StatusCode::PAYLOAD_TOO_LARGE => (problems::BODY_TOO_LARGE, "The body is too large"),
            StatusCode::SERVICE_UNAVAILABLE => (problems::UNAVAILABLE, "Too many requests at once"),
            StatusCode::GATEWAY_TIMEOUT => (problems::TIMEOUT, "The server did not answer in time"),
            StatusCode::BAD_GATEWAY => (problems::BAD_GATEWAY, "The server cannot be reached"),
            _ => (problems::INTERNAL, "The egress gateway failed"),
        };
        let problem = Problem::new(self.status(), slug, title);
        let problem = match self {
            Self::NoRule { needed } => {
                problem.detail(format!("No rule allows this; needed: {needed}"))
            }
            _ => problem,
        };
        problem.into_http()
    }
}
