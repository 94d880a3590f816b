//! A browser reduced to what matters here: it keeps cookies, sends its origin and fetch metadata
//! with forms, and follows redirects within the server.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::world::{ISSUER, form, workload};

/// One answer, read to the end.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// The OAuth error code.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn location(&self) -> Option<String> {
        self.headers
            .get("location")
            .map(|l| l.to_str().unwrap().to_owned())
    }

    /// Value of a hidden field of the form that posts to `action`.
    pub(crate) fn field(&self, action: &str, name: &str) -> String {
        let text = self.text();
        let start = text
            .find(&format!("action=\"{action}\""))
            .expect("a form with this action");
        let text = &text[start..];
        let marker = format!("name=\"{name}\" value=\"");
        let start = text.find(&marker).expect("a field of this name") + marker.len();
        let end = text[start..].find('"').unwrap();
        text[start..start + end].to_owned()
    }
}

pub(crate) struct Browser {
    router: Router,
    pub(crate) cookies: BTreeMap<String, String>,
    pub(crate) origin: Option<String>,
    pub(crate) address: String,
}

impl Browser {
    pub(crate) fn new(router: Router) -> Self {
        Self {
            router,
            cookies: BTreeMap::new(),
            origin: Some(ISSUER.to_owned()),
            address: "192.0.2.7".to_owned(),
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        let request = self
            .request(Request::get(path))
            .body(Body::empty())
            .unwrap();
        self.keep_cookies(send(&self.router, request).await)
    }

    pub(crate) async fn post(&mut self, path: &str, parts: &[(&str, &str)]) -> Reply {
        let mut request = self
            .request(Request::post(path))
            .header("content-type", "application/x-www-form-urlencoded");
        if let Some(origin) = &self.origin {
            request = request.header("origin", origin);
        }
        let request = request.body(Body::from(form(parts))).unwrap();
        self.keep_cookies(send(&self.router, request).await)
    }

    /// Sends the form of a page that posts to `action`, with its hidden fields.
    pub(crate) async fn submit(
        &mut self,
        page: &Reply,
        action: &str,
        parts: &[(&str, &str)],
    ) -> Reply {
        let csrf = page.field(action, "csrf");
        let interaction = if action == "/logout" {
            String::new()
        } else {
            page.field(action, "interaction")
        };
        let mut all = vec![
            ("csrf", csrf.as_str()),
            ("interaction", interaction.as_str()),
        ];
        all.extend_from_slice(parts);
        self.post(action, &all).await
    }

    /// Follows redirects as long as they stay on this server.
    pub(crate) async fn follow(&mut self, mut reply: Reply) -> Reply {
        for _ in 0..5 {
            match reply.location() {
                Some(path) if path.starts_with('/') => {
                    assert_eq!(reply.status, 303);
                    reply = self.get(&path).await;
                }
                _ => return reply,
            }
        }
        panic!("a redirect loop: {:?}", reply.location());
    }

    fn request(&self, builder: http::request::Builder) -> http::request::Builder {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let builder = builder
            .extension(workload("gateway"))
            .header("x-forwarded-for", &self.address);
        if cookies.is_empty() {
            builder
        } else {
            builder.header("cookie", cookies.join("; "))
        }
    }

    fn keep_cookies(&mut self, reply: Reply) -> Reply {
        for cookie in reply.headers.get_all("set-cookie") {
            let text = cookie.to_str().unwrap();
            assert!(
                text.contains("; Path=/; Secure; HttpOnly; SameSite=Lax")
                    || text.contains("Max-Age=0")
            );
            assert!(text.starts_with("__Host-"), "{text}");
            let (name, rest) = text.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        reply
    }
}

pub(crate) async fn send(router: &Router, request: Request<Body>) -> Reply {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}
