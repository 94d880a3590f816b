//! Every way in which the proxy says no, and the one place where that becomes a response.
//!
//! Owns: status, problem type (RFC 9457), gRPC status and response flag of each refusal, for both directions.
//! Must not: tell a caller more than it needs: reasons go to the access log.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use ringwall_http_io::problem::{PROBLEM_JSON, TYPE_PREFIX};
use ringwall_proto::problems;

use crate::body::ProxyBody;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a request was stopped.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    /// The message has no single reading; an HTTP/1.1 connection ends with the response.
    Malformed(&'static str),
    /// No upgrade or tunnel of this kind here.
    Upgrade,
    BodyTooLarge,
    /// The shared secret of proxy and application is missing or wrong.
    Loopback,
    /// Policy says no; the policies that decided.
    Denied(Arc<str>),
    /// No policy has arrived yet: nobody is let through.
    NoPolicy,
    /// Nothing is known of the mesh yet: nobody is called.
    NotReady,
    /// The workload has no edge to the service; the text is for its developers.
    NoEdge(Arc<str>),
    /// The tunnel's target is none of the declared ports.
    UnknownPort,
    /// The workload asks for a service that it does not know.
    UnknownService(Arc<str>),
    /// A service without an endpoint in good health.
    NoEndpoint(Arc<str>),
    /// A limit of the proxy itself.
    Overloaded(&'static str),
    CircuitOpen(Arc<str>),
    Connect(Arc<str>),
    Failed(Arc<str>),
    Timeout,
    /// A plugin has answered, ended or failed the exchange, or led it where nobody has allowed it to; for the log, why.
    Filter(&'static str, Option<Arc<str>>),
    /// The proxy's own fault.
    Internal(Arc<str>),
}

impl Refusal {
    /// The word of the access log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Malformed(what) | Self::Overloaded(what) | Self::Filter(what, _) => what,
            Self::Upgrade => "upgrade-not-declared",
            Self::BodyTooLarge => "body-too-large",
            Self::Loopback => "loopback-token",
            Self::Denied(_) => "policy-denied",
            Self::NoPolicy => "no-policy",
            Self::NotReady => "not-ready",
            Self::NoEdge(_) => "edge-not-declared",
            Self::UnknownPort => "port-not-declared",
            Self::UnknownService(_) => "unknown-service",
            Self::NoEndpoint(_) => "no-endpoint",
            Self::CircuitOpen(_) => "circuit-open",
            Self::Connect(_) => "connect",
            Self::Failed(_) => "failed",
            Self::Timeout => "timeout",
            Self::Internal(_) => "internal",
        }
    }

    /// What an operator may read and a caller may not.
    pub(crate) fn reason(&self) -> Option<Arc<str>> {
        match self {
            Self::Denied(reason)
            | Self::NoEdge(reason)
            | Self::UnknownService(reason)
            | Self::NoEndpoint(reason)
            | Self::CircuitOpen(reason)
            | Self::Connect(reason)
            | Self::Failed(reason)
            | Self::Internal(reason) => Some(Arc::clone(reason)),
            Self::Filter(_, reason) => reason.clone(),
            _ => None,
        }
    }

    /// Envoy's response flag for the same event, so that dashboards made for it can be used.
    pub(crate) fn flag(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Upgrade | Self::BodyTooLarge => "DPE",
            Self::Loopback | Self::Denied(_) | Self::NoPolicy | Self::NoEdge(_) => "UAEX",
            Self::NotReady => "NC",
            Self::UnknownPort | Self::UnknownService(_) => "NR",
            Self::NoEndpoint(_) => "UH",
            Self::Overloaded(_) | Self::CircuitOpen(_) => "UO",
            Self::Connect(_) => "UF",
            Self::Failed(_) => "UC",
            Self::Timeout => "UT",
            Self::Filter("filter-answered" | "filter-closed", _) => "UAEX",
            Self::Filter(..) | Self::Internal(_) => "-",
        }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Upgrade => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Loopback | Self::Denied(_) | Self::NoPolicy | Self::NoEdge(_) => {
                StatusCode::FORBIDDEN
            }
            Self::UnknownPort | Self::UnknownService(_) => StatusCode::NOT_FOUND,
            Self::NotReady | Self::NoEndpoint(_) | Self::Overloaded(_) | Self::CircuitOpen(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Connect(_) | Self::Failed(_) => StatusCode::BAD_GATEWAY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Filter(..) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>, by meaning where we know it.
    const fn grpc(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Upgrade => "13",
            Self::BodyTooLarge => "8",
            Self::Loopback | Self::Denied(_) | Self::NoPolicy | Self::NoEdge(_) => "7",
            Self::UnknownPort | Self::UnknownService(_) => "12",
            Self::Timeout => "4",
            Self::Filter(..) | Self::Internal(_) => "13",
            _ => "14",
        }
    }

    /// The problem's slug and title.
    const fn problem(&self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed(_) => ("malformed-request", "The request is malformed"),
            Self::Upgrade => ("upgrade-not-declared", "This port does not upgrade"),
            Self::BodyTooLarge => (problems::BODY_TOO_LARGE, "The request body is too large"),
            Self::Loopback => (
                "loopback-token",
                "Only the workload beside this proxy is served",
            ),
            Self::Denied(_) | Self::NoPolicy => (problems::DENIED, "Denied by policy"),
            Self::NotReady => (problems::NOT_READY, "The proxy knows no services yet"),
            Self::NoEdge(_) => (problems::EDGE_NOT_DECLARED, "This call is not declared"),
            Self::UnknownPort => ("port-not-declared", "This port is not declared"),
            Self::UnknownService(_) => (problems::UNKNOWN_SERVICE, "There is no such service"),
            Self::NoEndpoint(_) => (problems::NO_ENDPOINT, "The service has no endpoint"),
            Self::Overloaded(_) => (problems::OVERLOADED, "Too many requests at once"),
            Self::CircuitOpen(_) => (problems::CIRCUIT_OPEN, "The service is given a rest"),
            // A caller may rely on it that nobody has seen the request.
            Self::Connect(_) => (
                problems::UPSTREAM_UNREACHABLE,
                "The service cannot be reached",
            ),
            Self::Failed(_) => (problems::UPSTREAM_FAILED, "The service did not answer"),
            Self::Timeout => ("upstream-timeout", "The service did not answer in time"),
            Self::Filter(..) => ("filter-failed", "A filter has ended the request"),
            Self::Internal(_) => (problems::INTERNAL, "The proxy failed"),
        }
    }

    /// What the workload's own developers are told of a call that it may not make.
    fn detail(&self) -> Option<&str> {
        match self {
            Self::NoEdge(detail) | Self::UnknownService(detail) => Some(detail),
            _ => None,
        }
    }

    /// The response; its body is a problem document, or for `grpc` there is a status in its place.
    pub(crate) fn response(&self, grpc: bool) -> Response<ProxyBody> {
        let (slug, title) = self.problem();
        if grpc {
            // gRPC over HTTP/2, "Trailers-Only": the HTTP status is 200 where a status of gRPC's own can be given.
            let mut response = Response::new(ProxyBody::empty());
            let headers = response.headers_mut();
            let grpc = HeaderValue::from_static("application/grpc");
            headers.insert(header::CONTENT_TYPE, grpc);
            headers.insert(GRPC_STATUS, HeaderValue::from_static(self.grpc()));
            headers.insert(GRPC_MESSAGE, HeaderValue::from_static(title));
            return response;
        }
        let status = self.status();
        let detail = self.detail().map_or_else(String::new, |detail| {
            // A string has no way not to be JSON.
            let text = serde_json::to_string(detail).unwrap_or_default();
            format!(r#","detail":{text}"#)
        });
        let body = format!(
            r#"{{"type":"{TYPE_PREFIX}{slug}","title":"{title}","status":{}{detail}}}"#,
            status.as_u16(),
        );
        let mut response = Response::new(ProxyBody::full(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if matches!(
            self,
            Self::Malformed(_) | Self::BodyTooLarge | Self::Upgrade
        ) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
