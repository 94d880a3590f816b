//! A message on its way through plugins, whichever direction it has.
//!
//! Owns: what plugins do not see and cannot say (statements about identity), what they may not change (method and host: the
//! edge and the policy were asked about those), and what becomes of a message when one of them answers, ends it or fails.
//! A WebSocket's head passes and its bytes do not: they go by. Must not: run guests (`ringwall-plugin-host` does), or decide
//! whether a changed path is allowed (`pipeline/filter.rs` and the callee do).

use std::sync::Arc;

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use ringwall_data_path::{fields, path};
use ringwall_http_io::headers::is_trusted_header;
use ringwall_plugin_host::{Cause, Chain, HttpStream, Refused, StreamInfo};

use crate::body::ProxyBody;
use crate::pipeline::strip::{is_ours, strip_response};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// What only proxies say about identities; not the other fields that a proxy sets.
const STATEMENTS: &str = "x-ringwall-";

/// The stream of a message in the plugins; none where nothing stands in its way.
#[derive(Debug, Default, Clone)]
pub(crate) struct Stream(Option<HttpStream>);

/// What became of a request's head.
pub(crate) enum Passed {
    On(Box<Parts>, ProxyBody, Stream),
    /// In the place of whoever was asked.
    Answered(Answer),
}

/// What a plugin has said in the place of the other side.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<ProxyBody>,
    /// For the record.
    pub(crate) why: Refusal,
}

/// What came of an exchange beside which a plugin may have ended it.
pub(crate) enum Raced {
    Response(Box<Response<ProxyBody>>),
    Interrupted(Box<Refused>),
}

/// The record of an exchange, as far as plugins concern it.
pub(crate) trait Noted {
    fn refused(&mut self, why: &Refusal);
    /// The other side's answer is not the one that leaves: what waits for its end is let go.
    fn abandon(&mut self);
}

/// Passes a request's head and prepares its body. `has_bytes`: what follows is no body, and is not shown.
pub(crate) async fn pass(
    worker: &Arc<Worker>,
    chain: &Chain,
    facts: impl FnOnce() -> StreamInfo,
    (mut parts, body): (Parts, ProxyBody),
    has_bytes: bool,
) -> Result<Passed, Refusal> {
    let Some(host) = super::host(worker, chain) else {
        if chain.is_empty() {
            return Ok(Passed::On(Box::new(parts), body, Stream::default()));
        }
        return Err(Refusal::Filter("filter-failed", None));
    };
    let stream = host.open(chain, facts());
    let held = hold(&mut parts.headers);
    if has_bytes {
        // A WebSocket is one thing, whatever carries it: what is sent on has the method that its carrier needs.
        parts.method = Method::GET;
    }
    let before = Target::of(&parts);
    let (shown, aside) = match has_bytes {
        true => (ProxyBody::empty(), Some(body)),
        false => (body, None),
    };
    let request = match stream.request(Request::from_parts(parts, shown)).await {
        Ok(request) => request,
        Err(refused) => return answer(refused).map(Passed::Answered),
    };
    let (mut parts, body) = request.into_parts();
    before.check(&parts)?;
    // What a plugin has added is no statement of ours, nor of the gateway's.
    fields::remove(&mut parts.headers, is_statement);
    parts.headers.extend(held);
    let body = aside.unwrap_or_else(|| ProxyBody::filtered(body));
    Ok(Passed::On(Box::new(parts), body, Stream(Some(stream))))
}

impl Stream {
    /// Awaits the other side's response; a plugin may end the stream meanwhile.
    pub(crate) async fn race(
        &self,
        sent: impl Future<Output = Result<Response<ProxyBody>, Refusal>>,
    ) -> Result<Raced, Refusal> {
        let Some(stream) = &self.0 else {
            return Ok(Raced::Response(Box::new(sent.await?)));
        };
        match stream.beside(sent).await {
            Ok(response) => Ok(Raced::Response(Box::new(response?))),
            Err(refused) => Ok(Raced::Interrupted(Box::new(refused))),
        }
    }

    /// Passes the response, the last plugin first.
    pub(crate) async fn back(
        &self,
        raced: Raced,
        exchange: &mut impl Noted,
    ) -> Result<Response<ProxyBody>, Refusal> {
        let response = match (raced, &self.0) {
            (Raced::Response(response), None) => return Ok(*response),
            (Raced::Interrupted(refused), _) => return said(*refused, exchange),
            (Raced::Response(response), Some(stream)) => {
                if is_switch(&response) {
                    return switched(stream, *response, exchange).await;
                }
                match stream.response(*response).await {
                    Ok(response) => response,
                    Err(refused) => return said(refused, exchange),
                }
            }
        };
        let mut response = response.map(ProxyBody::filtered);
        strip_response(response.headers_mut());
        Ok(response)
    }
}

/// What follows is a stream of bytes.
fn is_switch(response: &Response<ProxyBody>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS || response.body().is_socket()
}

/// The head of an answer whose bytes are nobody's business. A plugin may refuse it, and change its fields.
async fn switched(
    stream: &HttpStream,
    response: Response<ProxyBody>,
    exchange: &mut impl Noted,
) -> Result<Response<ProxyBody>, Refusal> {
    let (mut parts, body) = response.into_parts();
    let status = parts.status;
    let extensions = std::mem::take(&mut parts.extensions);
    let head = Response::from_parts(parts, ProxyBody::empty());
    let response = match stream.response(head).await {
        Ok(response) => response,
        Err(refused) => return said(refused, exchange),
    };
    let (mut parts, _) = response.into_parts();
    if parts.status != status {
        exchange.abandon();
        return Err(Refusal::Filter("filter-left-the-policy", None));
    }
    parts.extensions = extensions;
    fields::remove(&mut parts.headers, |name| is_ours(name.as_str()));
    Ok(Response::from_parts(parts, body))
}

/// Records a plugin's answer in the place of the other side's.
fn said(refused: Refused, exchange: &mut impl Noted) -> Result<Response<ProxyBody>, Refusal> {
    exchange.abandon();
    let Answer { response, why } = answer(refused)?;
    exchange.refused(&why);
    Ok(response)
}

/// The words are those of the gateway's access log.
fn answer(refused: Refused) -> Result<Answer, Refusal> {
    let (name, reason) = match refused.cause {
        Cause::Local { details } => ("filter-answered", details),
        Cause::Closed => ("filter-closed", String::new()),
        Cause::TooLarge => ("filter-body-too-large", String::new()),
        Cause::Failed(failure) => ("filter-failed", failure.to_string()),
        Cause::Body => return Err(Refusal::Malformed("body-broken")),
    };
    let reason: Option<Arc<str>> = Some(reason.into()).filter(|text: &Arc<str>| !text.is_empty());
    let why = Refusal::Filter(name, reason);
    match refused.response {
        Some(response) => {
            let mut response = response.map(ProxyBody::local);
            strip_response(response.headers_mut());
            Ok(Answer { response, why })
        }
        None => Err(why),
    }
}

/// What edge and policy were asked about, and a plugin may not change.
struct Target {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
}

impl Target {
    fn of(parts: &Parts) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            host: parts.headers.get(header::HOST).cloned(),
        }
    }

    fn check(&self, parts: &Parts) -> Result<(), Refusal> {
        let left = Refusal::Filter("filter-left-the-policy", None);
        let mut hosts = parts.headers.get_all(header::HOST).iter();
        let is_same = parts.method == self.method
            && parts.uri.authority() == self.uri.authority()
            && hosts.next() == self.host.as_ref()
            && hosts.next().is_none();
        if !is_same {
            return Err(left);
        }
        if parts.uri.path() != self.uri.path() {
            path::check(parts.uri.path()).map_err(|_| left)?;
        }
        Ok(())
    }
}

/// Takes the statements about identity out, for those who may hear them.
fn hold(headers: &mut HeaderMap) -> HeaderMap {
    let mut held = HeaderMap::new();
    if !headers.keys().any(is_statement) {
        return held;
    }
    for (name, value) in &*headers {
        if is_statement(name) {
            held.append(name.clone(), value.clone());
        }
    }
    fields::remove(headers, is_statement);
    held
}

/// However it is spelt.
fn is_statement(name: &HeaderName) -> bool {
    let text = name.as_str();
    let spelt = |(seen, ours)| seen == ours || (seen == b'_' && ours == b'-');
    let begins = text.len() >= STATEMENTS.len() && text.bytes().zip(STATEMENTS.bytes()).all(spelt);
    is_ours(text) || (begins && is_trusted_header(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r14_attack_statements_are_out_of_reach_in_every_spelling() {
        for name in [
            "x-ringwall-user-context",
            "x_ringwall_user-context",
            "x-ringwall-loopback",
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
            "x-ringwall-anything",
        ] {
            assert!(is_statement(&name.parse().unwrap()), "{name}");
        }
        for name in ["x-ringwall-csrf", "x-forwarded-for", "x-ring", "accept"] {
            assert!(!is_statement(&name.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn what_is_held_is_all_that_was_said() {
        let mut headers = HeaderMap::new();
        for value in ["a", "b"] {
            let name = HeaderName::from_static("x-ringwall-user-context");
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.insert("accept", HeaderValue::from_static("*/*"));
        let held = hold(&mut headers);
        assert_eq!((held.len(), headers.len()), (2, 1));
    }

    fn changed(change: impl FnOnce(&mut Parts)) -> bool {
        let request = Request::get("/a?x=1").header("host", "orders").body(());
        let mut parts = request.unwrap().into_parts().0;
        let target = Target::of(&parts);
        change(&mut parts);
        target.check(&parts).is_ok()
    }

    #[test]
    fn attack_method_and_host_stay_as_they_were_asked_about() {
        assert!(changed(|_| {}));
        assert!(changed(|parts| parts.uri = Uri::from_static("/b?y=2")));
        assert!(!changed(|parts| parts.method = Method::POST));
        assert!(!changed(|parts| parts.uri = Uri::from_static("/a/../b")));
        assert!(!changed(
            |parts| parts.uri = Uri::from_static("http://other/a")
        ));
        let host = |value: &'static str| HeaderValue::from_static(value);
        assert!(!changed(move |parts| {
            parts.headers.insert(header::HOST, host("other"));
        }));
        assert!(!changed(move |parts| {
            parts.headers.append(header::HOST, host("other"));
        }));
        assert!(!changed(|parts| {
            parts.headers.remove(header::HOST);
        }));
    }
}
