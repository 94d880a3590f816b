//! Step 7: the route's plugins, on the way to the upstream and back.
//!
//! Owns: what plugins are told about a request, and what becomes of it when one of them answers, fails or rewrites it.
//! They see what the client may say and not what the gateway adds: identity is stated after them. A request that a plugin
//! has rewritten must still belong to the route that was authorized; otherwise it is refused. Must not: run guests
//! (`ringwall-plugin-host` does), or know what a plugin is for. Next: `plugins.rs` (where they come from).

use std::ops::ControlFlow;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request, Response, Uri};
use ringwall_data_path::{fields, path};
use ringwall_plugin_host::{Cause, Direction, HttpStream, Refused, StreamInfo, Value};

use super::authorize::Authorized;
use super::body::{ProxyBody, RequestBody, UpstreamBody};
use super::strip::{Stripped, ends_here};
use crate::access_log::Exchange;
use crate::conn::Connection;
use crate::refusal::Refusal;
use crate::snapshot::tree::Found;

/// A request that has passed the plugins of its route, if it has any.
#[derive(Debug)]
pub(crate) struct Filtered {
    pub(crate) parts: Parts,
    pub(crate) body: UpstreamBody,
    pub(crate) host: Box<str>,
    pub(crate) websocket: bool,
    pub(crate) plugins: Plugins,
}

/// The stream of a request in the plugins; none where its route names none.
#[derive(Debug, Default)]
pub(crate) struct Plugins(Option<HttpStream>);

/// Passes the request; `Break` is a plugin's own answer.
pub(crate) async fn filter(
    connection: &Arc<Connection>,
    authorized: &Authorized,
    stripped: Stripped,
    exchange: &mut Exchange,
) -> Result<ControlFlow<Response<ProxyBody>, Filtered>, Refusal> {
    let route = authorized.route();
    let Stripped {
        parts,
        body,
        host,
        websocket,
    } = stripped;
    let body = RequestBody::within(&parts, body, route.max_body, connection.body_timer())?;
    exchange.count_request_bytes(body.counter());
    let Some(worker) = connection.worker.plugins(&route.filters) else {
        return Ok(ControlFlow::Continue(Filtered {
            parts,
            body: UpstreamBody::Client(body),
            host,
            websocket,
            plugins: Plugins::default(),
        }));
    };
    let stream = worker.open(&route.filters, facts(connection, authorized, exchange));
    let before = (parts.method.clone(), parts.uri.clone());
    let request = match stream.request(Request::from_parts(parts, body)).await {
        Ok(request) => request,
        Err(refused) => return answer(refused, exchange).map(ControlFlow::Break),
    };
    let (mut parts, body) = request.into_parts();
    if stream.is_rewritten() {
        check_rewritten(connection, authorized, &host, &before, &parts)?;
    }
    // What a plugin has added is no statement of the gateway's.
    fields::remove(&mut parts.headers, ends_here);
    Ok(ControlFlow::Continue(Filtered {
        parts,
        body: UpstreamBody::Filtered(Box::new(body)),
        host,
        websocket,
        plugins: Plugins(Some(stream)),
    }))
}

impl Plugins {
    /// Awaits the upstream; the error is a plugin's answer, if one ends the stream meanwhile.
    pub(crate) async fn beside<T>(&self, upstream: impl Future<Output = T>) -> Result<T, Refused> {
        match &self.0 {
            Some(stream) => stream.beside(upstream).await,
            None => Ok(upstream.await),
        }
    }

    /// Passes the response, the last plugin first.
    pub(crate) async fn response(
        &self,
        response: Response<ProxyBody>,
        exchange: &mut Exchange,
    ) -> Result<Response<ProxyBody>, Refusal> {
        match &self.0 {
            None => Ok(response),
            Some(stream) => match stream.response(response).await {
                Ok(response) => Ok(response.map(ProxyBody::filtered)),
                Err(refused) => answer(refused, exchange),
            },
        }
    }
}

/// What a plugin has said in the place of the upstream.
pub(crate) fn answer(
    refused: Refused,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let (name, reason) = match refused.cause {
        Cause::Local { details } => ("filter-answered", details),
        Cause::Closed => ("filter-closed", String::new()),
        Cause::TooLarge => ("filter-body-too-large", String::new()),
        Cause::Failed(failure) => ("filter-failed", failure.to_string()),
        Cause::Body => return Err(Refusal::Malformed("body-broken")),
    };
    let reason: Option<Arc<str>> = Some(reason.into()).filter(|text: &Arc<str>| !text.is_empty());
    match refused.response {
        Some(response) => {
            exchange.refusal = Some(name);
            exchange.reason = reason;
            Ok(response.map(ProxyBody::local))
        }
        None => Err(Refusal::Filter(name)),
    }
}

/// The policy has let this route pass with this method: a plugin may change the target within that, and no further.
fn check_rewritten(
    connection: &Connection,
    authorized: &Authorized,
    host: &str,
    before: &(Method, Uri),
    parts: &Parts,
) -> Result<(), Refusal> {
    let refused = || Refusal::Filter("filter-left-the-route");
    let named = named_host(parts).ok_or_else(refused)?;
    let target = parts.uri.path();
    if parts.method != before.0 || !named.eq_ignore_ascii_case(host) {
        return Err(refused());
    }
    if target == before.1.path() {
        return Ok(());
    }
    path::check(target).map_err(|_| refused())?;
    let snapshot = connection.worker.shared.snapshot.load();
    let routes = snapshot.host(host).ok_or_else(refused)?;
    match routes.paths.find(target, &parts.method) {
        Found::Route(entry) if entry.route.id == authorized.route().id => Ok(()),
        _ => Err(refused()),
    }
}

/// The host that the request names now, without its port.
fn named_host(parts: &Parts) -> Option<&str> {
    let field = parts.headers.get(http::header::HOST);
    let named = match field {
        Some(value) => value.to_str().ok()?,
        None => parts.uri.authority()?.as_str(),
    };
    Some(match named.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => named,
    })
}

/// Envoy's attributes, and the claims of the user context under `metadata.filter_metadata.ringwall.user`.
fn facts(connection: &Arc<Connection>, authorized: &Authorized, exchange: &Exchange) -> StreamInfo {
    let route = authorized.route();
    let mut facts = StreamInfo::new(connection.facts(), exchange.now);
    facts.request_id = Some(exchange.trace.id().into());
    facts.route_name = Arc::clone(&route.id);
    facts.cluster_name = Arc::clone(&route.cluster.name);
    facts.direction = Direction::Inbound;
    facts.metadata = authorized.token().map(|token| {
        let user = Value::map([
            ("sub", Value::text(token.subject())),
            ("client_id", Value::text(token.client())),
            ("scope", Value::text(token.scopes.join(" "))),
        ]);
        let ringwall = Value::map([("user", user)]);
        let filters = Value::map([("ringwall", ringwall)]);
        Value::map([("filter_metadata", filters)])
    });
    facts
}
