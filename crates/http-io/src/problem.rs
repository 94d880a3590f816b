//! Error answers: `application/problem+json` (RFC 9457).
//!
//! Owns: the shape of every refusal that leaves a component. Must not: carry a cause that helps an
//! attacker; causes belong in the log.

use axum::response::IntoResponse;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::body::{BoxBody, full};

/// Media type of RFC 9457 §6.1.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// What every `type` starts with.
pub const TYPE_PREFIX: &str = "urn:ringwall:problem:";

/// One refusal: status, type and title are stable; detail is for people. Boxed, because it is the
/// error of most handlers and must not make their results large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Problem(Box<Members>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Members {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    #[serde(with = "status_number")]
    status: StatusCode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Extension members (RFC 9457 §3.2).
    #[serde(flatten)]
    members: Map<String, Value>,
    #[serde(skip)]
    headers: HeaderMap,
}

impl Problem {
    /// A problem of type `urn:ringwall:problem:<slug>` (slugs: `ringwall_proto::problems`).
    pub fn new(status: StatusCode, slug: &str, title: impl Into<String>) -> Self {
        Self(Box::new(Members {
            kind: format!("{TYPE_PREFIX}{slug}"),
            title: title.into(),
            status,
            detail: None,
            members: Map::new(),
            headers: HeaderMap::new(),
        }))
    }

    /// What happened this time, for a person; never a secret, never an internal error text.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// An extension member, such as the list of failed checks.
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(member.to_owned(), value.into());
        self
    }

    /// A header field of the answer, such as `WWW-Authenticate` or `Retry-After`.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub fn title(&self) -> &str {
        &self.0.title
    }

    pub fn detail_text(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    pub fn member(&self, name: &str) -> Option<&Value> {
        self.0.members.get(name)
    }

    /// The slug, when the type is one of ours.
    pub fn slug(&self) -> Option<&str> {
        self.0.kind.strip_prefix(TYPE_PREFIX)
    }

    /// The answer; never cached (RFC 9111 §5.2.2.5).
    pub fn into_http(self) -> Response<BoxBody> {
        self.into_parts_with(full)
    }

    fn into_parts_with<B>(self, body: impl FnOnce(Bytes) -> B) -> Response<B> {
        let json = serde_json::to_vec(&self).expect("a problem holds only JSON values");
        let mut response = Response::new(body(json.into()));
        *response.status_mut() = self.0.status;
        *response.headers_mut() = self.0.headers;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        self.into_parts_with(axum::body::Body::from)
    }
}

mod status_number {
    use http::StatusCode;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(status: &StatusCode, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u16(status.as_u16())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<StatusCode, D::Error> {
        StatusCode::from_u16(u16::deserialize(d)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use ringwall_proto::problems;

    use super::*;
    use crate::body::collect;

    #[tokio::test]
    async fn a_problem_becomes_an_answer_and_back() {
        let problem = Problem::new(StatusCode::CONFLICT, problems::OUT_OF_STOCK, "Out of stock")
            .detail("Only 2 pieces are left.")
            .with("sku", "MUG-1")
            .header(header::RETRY_AFTER, HeaderValue::from_static("5"));
        let response = problem.clone().into_http();
        assert_eq!(response.status(), 409);
        assert_eq!(response.headers()["content-type"], PROBLEM_JSON);
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["retry-after"], "5");
        let bytes = collect(response.into_body(), 4096).await.unwrap();
        let back: Problem = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(back.slug(), Some("out-of-stock"));
        assert_eq!(back.member("sku"), Some(&"MUG-1".into()));
        assert_eq!(back.detail_text(), Some("Only 2 pieces are left."));
    }

    #[test]
    fn a_status_outside_http_is_refused() {
        let text = r#"{"type":"about:blank","title":"x","status":9999}"#;
        assert!(serde_json::from_str::<Problem>(text).is_err());
    }
}
