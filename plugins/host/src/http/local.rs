//! How a stream ends in a plugin, and what the client is told.
//!
//! Owns: the statuses (503 where a plugin has failed, 413 and 500 where a body is too long, as Envoy has them) and the form
//! of a response that a plugin makes itself, gRPC's included.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Version, header};
use http_body_util::Full;

use crate::callouts::BoxError;
use crate::http::filtered::Filtered;
use crate::instance::{Failure, Local, Way};

/// Why a stream is over, and by which filter.
#[derive(Debug)]
pub(crate) enum Ended {
    Local(Box<Local>),
    Closed,
    TooLarge(Way),
    Failed(Failure),
    /// The body that plugins read from has failed.
    Source(BoxError),
}

/// The same for the embedder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A plugin has answered; with the reason that it gives.
    Local { details: String },
    /// A plugin has ended the stream without an answer.
    Closed,
    /// More body than a paused stream may hold.
    TooLarge,
    /// A plugin has failed, and fails closed.
    Failed(Failure),
    /// The body has failed before it had passed.
    Body,
}

/// A stream that does not go on.
pub struct Refused {
    pub cause: Cause,
    /// What the client gets, after the filters that had seen the request. `None`: its stream is reset.
    pub response: Option<Response<Filtered<Full<Bytes>>>>,
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = self.response.as_ref().map(Response::status);
        let mut shown = formatter.debug_struct("Refused");
        shown
            .field("cause", &self.cause)
            .field("status", &status)
            .finish()
    }
}

impl Ended {
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Local(local) => Cause::Local {
                details: local.details.clone(),
            },
            Self::Closed => Cause::Closed,
            Self::TooLarge(_) => Cause::TooLarge,
            Self::Failed(failure) => Cause::Failed(failure.clone()),
            Self::Source(_) => Cause::Body,
        }
    }

    /// `None`: there is nobody to answer, or nothing to say.
    pub(crate) fn into_response(self, is_grpc: bool) -> Option<Response<Full<Bytes>>> {
        let local = match self {
            Self::Closed | Self::Source(_) => return None,
            Self::Local(local) => *local,
            Self::TooLarge(Way::Request) => plain(StatusCode::PAYLOAD_TOO_LARGE, ""),
            Self::TooLarge(Way::Response) => plain(StatusCode::INTERNAL_SERVER_ERROR, ""),
            Self::Failed(failure) => {
                let body = format!("A filter has failed. Failure {}.\n", failure.id);
                plain(StatusCode::SERVICE_UNAVAILABLE, &body)
            }
        };
        Some(if is_grpc { grpc(local) } else { http(local) })
    }
}

fn plain(status: StatusCode, body: &str) -> Local {
    Local {
        status,
        details: String::new(),
        headers: http::HeaderMap::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        grpc_status: None,
    }
}

fn http(local: Local) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(local.body.clone()));
    *response.status_mut() = local.status;
    *response.headers_mut() = local.headers;
    let text = HeaderValue::from_static("text/plain");
    let headers = response.headers_mut();
    if !local.body.is_empty() {
        headers.entry(header::CONTENT_TYPE).or_insert(text);
    }
    headers.insert(header::CONTENT_LENGTH, local.body.len().into());
    response
}

/// Trailers only (gRPC over HTTP/2, section Responses): the body becomes the message.
fn grpc(local: Local) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.version_mut() = Version::HTTP_2;
    let headers = response.headers_mut();
    *headers = local.headers;
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    let status = local
        .grpc_status
        .unwrap_or_else(|| grpc_status(local.status));
    headers.insert("grpc-status", status.into());
    if !local.body.is_empty()
        && let Ok(message) = HeaderValue::try_from(percent_encoded(&local.body))
    {
        headers.insert("grpc-message", message);
    }
    response
}

/// As gRPC maps the statuses of HTTP.
const fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

fn percent_encoded(text: &[u8]) -> String {
    use std::fmt::Write;

    let mut out = String::with_capacity(text.len());
    for byte in text {
        if (b' '..=b'~').contains(byte) && *byte != b'%' {
            out.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r90_a_local_response_to_grpc_has_trailers_only() {
        let mut local = plain(StatusCode::FORBIDDEN, "no\n100%");
        let response = Ended::Local(Box::new(local)).into_response(true).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["grpc-message"], "no%0A100%25");
        local = plain(StatusCode::FORBIDDEN, "");
        local.grpc_status = Some(5);
        let response = Ended::Local(Box::new(local)).into_response(true).unwrap();
        assert_eq!(response.headers()["grpc-status"], "5");
        assert!(!response.headers().contains_key("grpc-message"));
    }

    #[test]
    fn r91_each_end_has_its_status() {
        let failure = Failure::new(crate::FailureKind::Trap, "proxy_on_request_headers");
        let id = failure.id.clone();
        let response = Ended::Failed(failure).into_response(false).unwrap();
        assert_eq!(response.status(), 503);
        let length = response.headers()[header::CONTENT_LENGTH]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            length,
            format!("A filter has failed. Failure {id}.\n")
                .len()
                .to_string()
        );
        let status = |ended: Ended| ended.into_response(false).map(|response| response.status());
        assert_eq!(status(Ended::TooLarge(Way::Request)).unwrap(), 413);
        assert_eq!(status(Ended::TooLarge(Way::Response)).unwrap(), 500);
        assert_eq!(status(Ended::Closed), None);
    }
}
