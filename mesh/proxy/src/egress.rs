//! The egress gateway: the one way out of the platform, and only to what is declared.
//!
//! Owns: the order of an exit — one reading of the target, a rule that allows it, an address that is what it should be, a
//! connection to exactly that address with the server's name verified, the rule's credential, and the response within its
//! limits. Whatever is not allowed is answered, logged with the rule that would be needed, and shown to observers.
//! Must not: authenticate callers (the inbound pipeline has), follow redirects, or resolve a name twice.
//! Read next: `egress/rules.rs`, `egress/resolve.rs`, `egress/address.rs`; `egress/passage.rs` for tunnels.

mod address;
mod config;
mod dial;
mod passage;
mod pool;
mod refusal;
mod request;
mod resolve;
mod response;
mod rules;
mod target;

#[cfg(test)]
mod tests;

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use ringwall_http_io::{BoxBody, body};
use ringwall_secret::SecretProvider;
use ringwall_service::StartError;
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use self::dial::{Dialer, Sender};
use self::pool::{Key, Lease, Pool};
use self::request::Counted;
use self::resolve::Resolver;
use self::response::{Home, Limited, Record};
use self::rules::{Asked, Rule, Rules};
use self::target::{Host, Target};
use ringwall_observe::{Direction, Flow, Observer, Verdict};

pub(crate) use config::EgressConfig;
pub(crate) use passage::Passage;
pub(crate) use refusal::Refusal;

/// The gateway's role of this process.
pub(crate) struct Egress {
    rules: Rules,
    /// One for each rule.
    permits: Vec<Arc<Semaphore>>,
    resolver: Resolver,
    dialer: Dialer,
    pool: Arc<Pool>,
    secrets: Arc<SecretProvider>,
    observer: Arc<Observer>,
}

/// A request that a rule allows.
struct Allowed<'a> {
    rule: &'a Rule,
    key: Key,
    permit: OwnedSemaphorePermit,
}

impl Egress {
    /// Opens everything that is configured, and every secret that a rule names: what is missing stops the start.
    pub(crate) fn open(
        config: &EgressConfig,
        secrets: Arc<SecretProvider>,
        observer: Arc<Observer>,
    ) -> Result<Arc<Self>, StartError> {
        let rules = Rules::compile(config)?;
        for credential in rules.iter().filter_map(|rule| rule.credential.as_ref()) {
            secrets.get_string(&credential.secret)?;
        }
        let permits = rules
            .iter()
            .map(|rule| Arc::new(Semaphore::new(rule.limits.max_requests)));
        Ok(Arc::new(Self {
            permits: permits.collect(),
            rules,
            resolver: Resolver::open(&config.dns)?,
            dialer: Dialer::open(&config.roots)?,
            pool: Arc::default(),
            secrets,
            observer,
        }))
    }

    /// Sends a request out and its response back. `caller` is the authenticated workload's name.
    pub(crate) async fn handle(
        &self,
        caller: &str,
        request: Request<BoxBody>,
    ) -> Response<BoxBody> {
        let (parts, body) = request.into_parts();
        let began = Instant::now();
        let sent = Arc::new(AtomicU64::new(0));
        let mut flow = Flow::new(OffsetDateTime::now_utc(), Direction::Egress);
        flow.caller = caller.into();
        flow.protocol = "http/1.1";
        flow.method = parts.method.as_str().into();
        flow.path = parts.uri.path().into();
        flow.trace_id = trace_id(&parts).into();
        let mut record = Record {
            observer: Arc::clone(&self.observer),
            flow: Some(flow),
            verdict: Verdict::Allowed,
            began,
            sent,
            received: 0,
        };
        match Box::pin(self.exchange(caller, parts, body, &mut record)).await {
            Ok((response, home, allowed)) => {
                let (mut parts, incoming) = response.into_parts();
                response::strip(&mut parts.headers);
                if let Some(flow) = &mut record.flow {
                    flow.status = parts.status.as_u16();
                }
                let limits = &allowed.rule.limits;
                let limits = (limits.max_response_body, limits.idle_timeout);
                let limited = Limited::new(incoming, limits, home, record, allowed.permit);
                Response::from_parts(parts, body::boxed(limited))
            }
            Err(refusal) => {
                note(&mut record, &refusal);
                refusal.response()
            }
        }
    }

    /// Opens a tunnel to `authority` for `caller`; what it carries is checked by [`Passage::carry`].
    pub(crate) async fn connect(&self, caller: &str, authority: &str) -> Result<Passage, Refusal> {
        let mut flow = Flow::new(OffsetDateTime::now_utc(), Direction::Egress);
        flow.caller = caller.into();
        flow.method = "CONNECT".into();
        let mut record = Record {
            observer: Arc::clone(&self.observer),
            flow: Some(flow),
            verdict: Verdict::Allowed,
            began: Instant::now(),
            sent: Arc::default(),
            received: 0,
        };
        match Box::pin(self.open_passage(caller, authority, &mut record)).await {
            Ok((rule, host, stream, permit)) => Ok(Passage {
                stream,
                host,
                patience: rule.limits.connect_timeout,
                idle: rule.limits.idle_timeout,
                record,
                permit,
            }),
            Err(refusal) => {
                note(&mut record, &refusal);
                Err(refusal)
            }
        }
    }

    async fn open_passage(
        &self,
        caller: &str,
        authority: &str,
        record: &mut Record,
    ) -> Result<(&Rule, Host, tokio::net::TcpStream, OwnedSemaphorePermit), Refusal> {
        let target = Target::parse(authority).map_err(Refusal::Target)?;
        if target.port.is_none() {
            return Err(Refusal::Target(target::TargetFault::Port));
        }
        let Allowed { rule, key, permit } = self.allow(caller, target, None, record)?;
        let addresses = self
            .resolver
            .addresses(&key.host, key.port, &rule.networks)
            .await?;
        let stream = dial::tcp(&addresses, rule.limits.connect_timeout).await?;
        Ok((rule, key.host, stream, permit))
    }

    async fn exchange(
        &self,
        caller: &str,
        mut parts: Parts,
        body: BoxBody,
        record: &mut Record,
    ) -> Result<(Response<Incoming>, Option<Home>, Allowed<'_>), Refusal> {
        let target = request::target(&parts)?;
        let path = request::checked_path(&parts.uri)?;
        let allowed = self.allow(caller, target, Some((&parts.method, path)), record)?;
        let limits = &allowed.rule.limits;
        request::check_length(&parts, limits.max_request_body)?;
        request::prepare(&mut parts, allowed.rule, &self.secrets)?;
        let body = Counted::boxed(body, limits.max_request_body, Arc::clone(&record.sent));
        let sending = Box::pin(self.send(&allowed, &parts, body));
        let (response, home) = match timeout(limits.timeout, sending).await {
            Ok(sent) => sent?,
            Err(_elapsed) => return Err(Refusal::Timeout),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::Exchange(
                "the server switches protocols unasked".to_owned(),
            ));
        }
        if home.is_none()
            && let Some(flow) = &mut record.flow
        {
            flow.protocol = "h2";
        }
        Ok((response, home, allowed))
    }

    /// The rule that allows a request or a tunnel, with a place in its limit.
    fn allow(
        &self,
        caller: &str,
        target: Target,
        request: Option<(&http::Method, &str)>,
        record: &mut Record,
    ) -> Result<Allowed<'_>, Refusal> {
        let asked = Asked {
            caller,
            host: &target.host,
            port: target.port,
            request,
        };
        if let Some(flow) = &mut record.flow {
            flow.callee = target.host.to_string().into();
            flow.port = target.port.unwrap_or_default();
        }
        let Some((index, rule)) = self.rules.find(asked) else {
            let needed = asked.needed();
            return Err(Refusal::NoRule { needed });
        };
        if let Some(flow) = &mut record.flow {
            flow.port = rule.port;
            flow.policies = vec![rule.name.as_str().into()];
        }
        let busy = || Refusal::Busy(rule.name.clone());
        let permits = self.permits.get(index).ok_or_else(busy)?;
        let permit = Arc::clone(permits)
            .try_acquire_owned()
            .map_err(|_| busy())?;
        let key = Key {
            rule: index,
            host: target.host,
            port: rule.port,
        };
        Ok(Allowed { rule, key, permit })
    }

    /// Sends on a connection that waits; where that one turns out to be closed, once more on a new one.
    async fn send(
        &self,
        allowed: &Allowed<'_>,
        parts: &Parts,
        body: BoxBody,
    ) -> Result<(Response<Incoming>, Option<Home>), Refusal> {
        let mut body = body;
        if let Some(lease) = self.pool.take(&allowed.key) {
            match self.send_on(lease, allowed, parts, body).await {
                Ok(sent) => return Ok(sent),
                Err((_, Some(unsent))) => body = unsent,
                Err((refusal, None)) => return Err(refusal),
            }
        }
        let lease = self.dial(allowed).await?;
        let sent = self.send_on(lease, allowed, parts, body).await;
        sent.map_err(|(refusal, _)| refusal)
    }

    async fn dial(&self, allowed: &Allowed<'_>) -> Result<Lease, Refusal> {
        let Allowed { rule, key, .. } = allowed;
        let addresses = self
            .resolver
            .addresses(&key.host, key.port, &rule.networks)
            .await?;
        let limit = rule.limits.connect_timeout;
        let sender = self
            .dialer
            .http(&key.host, &addresses, rule.tls, limit)
            .await?;
        let born = Instant::now();
        if let Sender::Http2(sender) = &sender {
            self.pool.share(key, sender, born);
        }
        Ok(Lease {
            sender,
            born,
            reused: false,
        })
    }

    /// The error has the body where nothing of the request was sent.
    async fn send_on(
        &self,
        lease: Lease,
        allowed: &Allowed<'_>,
        parts: &Parts,
        body: BoxBody,
    ) -> Result<(Response<Incoming>, Option<Home>), (Refusal, Option<BoxBody>)> {
        let Allowed { rule, key, .. } = allowed;
        let is_http2 = matches!(lease.sender, Sender::Http2(_));
        let request = request::form(parts, &key.host, rule, is_http2, body);
        let request = request.map_err(|refusal| (refusal, None))?;
        let (sent, home) = match lease.sender {
            Sender::Http2(mut sender) => (sender.try_send_request(request).await, None),
            Sender::Http1(mut sender) => {
                let sent = sender.try_send_request(request).await;
                let home = Home {
                    pool: Arc::clone(&self.pool),
                    key: key.clone(),
                    sender,
                    born: lease.born,
                };
                (sent, Some(home))
            }
        };
        match sent {
            Ok(response) => Ok((response, home)),
            Err(mut error) => {
                let unsent = error.take_message().filter(|_| lease.reused);
                Err((failed(&error.into_error()), unsent.map(Request::into_body)))
            }
        }
    }
}

/// Says in the log and to observers what was refused.
fn note(record: &mut Record, refusal: &Refusal) {
    record.verdict = refusal.verdict();
    let Some(flow) = &mut record.flow else {
        return;
    };
    flow.reason = refusal.name().into();
    flow.status = refusal.status().as_u16();
    let path: String = flow.path.chars().take(200).collect();
    tracing::warn!(
        caller = &*flow.caller,
        host = &*flow.callee,
        port = flow.port,
        method = &*flow.method,
        path,
        refusal = refusal.name(),
        reason = %refusal,
        "egress refused"
    );
}

/// What went wrong may be the caller's doing: a body over its limit.
fn failed(error: &hyper::Error) -> Refusal {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<request::TooLarge>() {
            return Refusal::BodyTooLarge;
        }
        source = cause.source();
    }
    let cause = error
        .source()
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    Refusal::Exchange(format!("{error}{cause}"))
}

/// The trace id of a `traceparent` (W3C Trace Context §3.2), for the record alone.
fn trace_id(parts: &Parts) -> &str {
    let parent = parts
        .headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok());
    let id = parent
        .and_then(|parent| parent.split('-').nth(1))
        .unwrap_or_default();
    let hex = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex { id } else { "" }
}
