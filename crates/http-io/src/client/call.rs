//! The convenient form of a request: verb, path, headers, body, then a typed answer.
//!
//! Used by [`super::Client`] and by the traced upstreams of `ringwall-service` alike.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use url::form_urlencoded;

use super::{ClientError, ClientLimits, RequestTimeout};
use crate::{
    body::{BoxBody, collect, empty, full},
    problem::Problem,
};

/// What can carry a call, and the verbs that start one: a plain client, or one that traces.
pub trait Transport: Sync {
    /// Sends a request and returns the head of the answer with its body still streaming, whatever
    /// its status. Only path and query of the request's URI count.
    fn send(
        &self,
        request: Request<BoxBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, ClientError>> + Send;
    fn limits(&self) -> &ClientLimits;
    /// Name for errors.
    fn peer(&self) -> &Arc<str>;

    /// Starts a call: add headers and a body, then `receive` or `send`. `path` may have a query.
    fn request(&self, method: Method, path: &str) -> Call<'_, Self> {
        Call::new(self, method, path)
    }

    fn get(&self, path: &str) -> Call<'_, Self> {
        self.request(Method::GET, path)
    }

    fn post(&self, path: &str) -> Call<'_, Self> {
        self.request(Method::POST, path)
    }

    fn put(&self, path: &str) -> Call<'_, Self> {
        self.request(Method::PUT, path)
    }

    fn delete(&self, path: &str) -> Call<'_, Self> {
        self.request(Method::DELETE, path)
    }

    /// `GET` without further headers; JSON answer.
    fn get_json<R: DeserializeOwned>(
        &self,
        path: &str,
    ) -> impl Future<Output = Result<JsonResponse<R>, ClientError>> + Send {
        self.get(path).receive()
    }
}

/// A 2xx answer with its JSON decoded.
#[derive(Debug, Clone)]
pub struct JsonResponse<T> {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: T,
}

/// A request under construction. A mistake in it is kept and reported when it is sent.
#[must_use = "a call does nothing until it is sent"]
pub struct Call<'a, T: ?Sized> {
    transport: &'a T,
    request: Result<Request<BoxBody>, ClientError>,
}

impl<'a, T: Transport + ?Sized> Call<'a, T> {
    fn new(transport: &'a T, method: Method, path: &str) -> Self {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(empty())
            .map_err(|error| ClientError::Request(error.to_string()));
        Self { transport, request }
    }

    /// Adds a header field. Its value is marked sensitive: no compression table keeps it (RFC 7541 §7.1.3).
    pub fn header(self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        self.change(|request| {
            let invalid = |what| ClientError::Request(format!("header {what} is not valid"));
            let name: HeaderName = name.as_ref().parse().map_err(|_| invalid("name"))?;
            let mut value =
                HeaderValue::from_bytes(value.as_ref()).map_err(|_| invalid("value"))?;
            value.set_sensitive(true);
            request.headers_mut().append(name, value);
            Ok(())
        })
    }

    /// Adds ready header fields, replacing those of the same name.
    pub fn headers(self, headers: HeaderMap) -> Self {
        self.change(|request| {
            request.headers_mut().extend(headers);
            Ok(())
        })
    }

    /// Adds `Authorization: Bearer <token>` (RFC 6750 §2.1).
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Sets a JSON body.
    pub fn json<B: Serialize + ?Sized>(self, body: &B) -> Self {
        self.change(|request| {
            let json = serde_json::to_vec(body).map_err(|e| ClientError::Request(e.to_string()))?;
            set_body(request, full(json), "application/json");
            Ok(())
        })
    }

    /// Sets a form body (`application/x-www-form-urlencoded`).
    pub fn form(self, pairs: &[(&str, &str)]) -> Self {
        self.change(|request| {
            let text = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(pairs)
                .finish();
            set_body(request, full(text), "application/x-www-form-urlencoded");
            Ok(())
        })
    }

    /// Sets any body.
    pub fn body(self, body: BoxBody) -> Self {
        self.change(|request| {
            *request.body_mut() = body;
            Ok(())
        })
    }

    /// Replaces the client's request timeout for this call, such as for a long poll.
    pub fn timeout(self, limit: Duration) -> Self {
        self.change(|request| {
            request.extensions_mut().insert(RequestTimeout(limit));
            Ok(())
        })
    }

    /// Sends; the answer streams, whatever its status.
    pub async fn send(self) -> Result<Response<Incoming>, ClientError> {
        self.transport.send(self.request?).await
    }

    /// Sends and decodes a 2xx JSON answer; any other status is [`ClientError::Refused`]. An empty
    /// body reads as `null`, so `()` and `Option` suit `204`.
    pub async fn receive<R: DeserializeOwned>(self) -> Result<JsonResponse<R>, ClientError> {
        let (transport, peer) = (self.transport, self.transport.peer().clone());
        let limits = transport.limits();
        let request = self.request?;
        let own = request
            .extensions()
            .get::<RequestTimeout>()
            .map(|own| own.0);
        let limit = own.unwrap_or(limits.request_timeout);
        let whole = async {
            let (parts, body) = transport.send(request).await?.into_parts();
            let bytes =
                collect(body, limits.max_body)
                    .await
                    .map_err(|source| ClientError::Body {
                        peer: peer.clone(),
                        source,
                    })?;
            if !parts.status.is_success() {
                let problem = serde_json::from_slice::<Problem>(&bytes).ok().map(Box::new);
                return Err(ClientError::Refused {
                    peer: peer.clone(),
                    status: parts.status,
                    problem,
                });
            }
            let json: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            let body = serde_json::from_slice(json).map_err(|source| ClientError::Decode {
                peer: peer.clone(),
                source,
            })?;
            Ok(JsonResponse {
                status: parts.status,
                headers: parts.headers,
                body,
            })
        };
        match tokio::time::timeout(limit, Box::pin(whole)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ClientError::Timeout {
                peer: peer.clone(),
                limit,
            }),
        }
    }

    fn change(
        mut self,
        change: impl FnOnce(&mut Request<BoxBody>) -> Result<(), ClientError>,
    ) -> Self {
        self.request = self
            .request
            .and_then(|mut request| change(&mut request).map(|()| request));
        self
    }
}

fn set_body(request: &mut Request<BoxBody>, body: BoxBody, content_type: &'static str) {
    *request.body_mut() = body;
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
}
