//! `Configuration.Stream`: one proxy, from its Hello to its end.
//!
//! Owns: who is let in, the order of messages, and the limits of a stream. Must not: hold state that outlives the stream.
//! Read next: `session.rs`, `hub.rs`.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use ringwall_identity::SpiffeId;
use ringwall_mesh_api::v1::{self, configuration_server::Configuration, proxy_message::Message};
use ringwall_policy::mesh::PolicyUse;
use ringwall_service::Peer;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::hub::{Hub, Joined, UsageSink};

/// From the start of the stream to its Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// From a message to its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Reports (endpoints and uses) that a proxy may send at once, and how often it may send another one.
const REPORT_BURST: u32 = 40;
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Policies in one report of uses, and bytes of their names.
const MAX_USES: usize = 4_096;
const MAX_USE_NAME: usize = 300;
/// Bytes of a reason that is kept.
const MAX_REASON: usize = 1_024;

/// The service, for tonic.
#[derive(Clone)]
pub(crate) struct Discovery {
    hub: Hub,
    usage: UsageSink,
}

impl Discovery {
    pub(crate) fn new(hub: Hub, usage: UsageSink) -> Self {
        Self { hub, usage }
    }
}

type Outbound = Pin<Box<dyn Stream<Item = Result<v1::ConfigMessage, Status>> + Send>>;

#[tonic::async_trait]
impl Configuration for Discovery {
    type StreamStream = Outbound;

    async fn stream(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Outbound>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let Some(Peer(id)) = peer else {
            return Err(Status::permission_denied(
                "the connection carries no workload identity",
            ));
        };
        // One message under way, and the status at the end.
        let (send, receive) = mpsc::channel(2);
        let service = self.clone();
        tokio::spawn(async move { service.run(id, request.into_inner(), send).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

/// What the proxy gets.
type Sender = mpsc::Sender<Result<v1::ConfigMessage, Status>>;

impl Discovery {
    pub(super) async fn run<S>(self, id: SpiffeId, inbound: S, send: Sender)
    where
        S: Stream<Item = Result<v1::ProxyMessage, Status>> + Unpin,
    {
        let Err(status) = self.serve(&id, inbound, &send).await else {
            return;
        };
        let code = status.code();
        self.hub.metrics.refused();
        tracing::warn!(peer = %id, ?code, reason = status.message(), "a configuration stream is ended");
        let _gone = send.try_send(Err(status));
    }

    /// `Ok` when the proxy has gone.
    async fn serve<S>(&self, id: &SpiffeId, mut inbound: S, send: &Sender) -> Result<(), Status>
    where
        S: Stream<Item = Result<v1::ProxyMessage, Status>> + Unpin,
    {
        let first = timeout(HELLO_WITHIN, inbound.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello has come"))?;
        let Some(first) = first else { return Ok(()) };
        let Some(Message::Hello(hello)) = first?.message else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        // Before the view is looked at, so that no change falls between.
        let mut changed = self.hub.subscribe();
        let mut joined = self.hub.join(id, &hello)?;
        tracing::info!(
            peer = %id,
            instance = hello.instance,
            node = hello.node,
            revision = hello.revision,
            "a proxy is connected"
        );
        let outcome = self
            .converse(id, &mut joined, inbound, &mut changed, send)
            .await;
        self.hub.leave(&joined);
        outcome
    }

    async fn converse<S>(
        &self,
        id: &SpiffeId,
        joined: &mut Joined,
        mut inbound: S,
        changed: &mut tokio::sync::watch::Receiver<()>,
        send: &Sender,
    ) -> Result<(), Status>
    where
        S: Stream<Item = Result<v1::ProxyMessage, Status>> + Unpin,
    {
        let mut limit = Limit::new(Instant::now());
        let mut deadline = Instant::now();
        loop {
            changed.borrow_and_update();
            if let Some(message) = self.hub.offer(id, joined)? {
                // There is room: nothing else is under way. A closed channel is a proxy that has gone.
                if send.send(Ok(message)).await.is_err() {
                    return Ok(());
                }
                deadline = Instant::now() + ANSWER_WITHIN;
            }
            let waiting = joined.session.is_waiting();
            tokio::select! {
                // Answers first: they are what the proxy's next message waits for.
                biased;
                received = inbound.next() => match received {
                    Some(Ok(message)) => self.received(joined, message, &mut limit)?,
                    Some(Err(_)) | None => return Ok(()),
                },
                () = send.closed() => return Ok(()),
                () = sleep_until(deadline), if waiting => {
                    return Err(Status::deadline_exceeded("a message was not answered"));
                }
                _ = changed.changed() => {}
            }
        }
    }

    fn received(
        &self,
        joined: &mut Joined,
        message: v1::ProxyMessage,
        limit: &mut Limit,
    ) -> Result<(), Status> {
        let breach = |error: super::session::Breach| Status::invalid_argument(error.to_string());
        match message.message {
            None | Some(Message::Hello(_)) => Err(Status::invalid_argument(
                "an empty message, or a second Hello",
            )),
            Some(Message::Ack(v1::Ack { nonce })) => {
                let answer = joined.session.ack(nonce).map_err(breach)?;
                self.hub.answered(joined.stream, &answer, "");
                Ok(())
            }
            Some(Message::Nack(nack)) => {
                let answer = joined
                    .session
                    .nack(nack.nonce, &nack.resource)
                    .map_err(breach)?;
                let reason: String = printable(&nack.reason, MAX_REASON);
                tracing::warn!(
                    workload = &*joined.proxy.workload,
                    instance = &*joined.proxy.instance,
                    resource = printable(&nack.resource, MAX_USE_NAME),
                    reason,
                    "a proxy refuses its configuration"
                );
                self.hub.answered(joined.stream, &answer, &reason);
                Ok(())
            }
            Some(Message::Endpoint(report)) => {
                limit.take()?;
                self.hub.report(joined, &report)
            }
            Some(Message::Usage(report)) => {
                limit.take()?;
                self.used(&joined.proxy.workload, report)
            }
        }
    }

    fn used(&self, workload: &str, report: v1::UsageReport) -> Result<(), Status> {
        let too_long = |used: &v1::PolicyUse| used.policy.len() > MAX_USE_NAME;
        if report.uses.len() > MAX_USES || report.uses.iter().any(too_long) {
            return Err(Status::invalid_argument("a report of uses is too large"));
        }
        let uses = report.uses.into_iter().map(|used| {
            let counts = PolicyUse {
                permitted: used.permitted,
                forbidden: used.forbidden,
                dry_run: used.dry_run,
            };
            (used.policy, counts)
        });
        (self.usage)(workload, uses.collect());
        Ok(())
    }
}

/// Without control characters and not longer than `bytes`.
fn printable(text: &str, bytes: usize) -> String {
    let kept = text.chars().filter(|c| !c.is_control());
    kept.scan(0, |length, c| {
        *length += c.len_utf8();
        (*length <= bytes).then_some(c)
    })
    .collect()
}

/// A token bucket.
struct Limit {
    tokens: u32,
    refilled: Instant,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self {
            tokens: REPORT_BURST,
            refilled: now,
        }
    }

    fn take(&mut self) -> Result<(), Status> {
        let now = Instant::now();
        let due = now.duration_since(self.refilled).as_millis() / REPORT_EVERY.as_millis();
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        if due > 0 {
            self.tokens = self.tokens.saturating_add(due).min(REPORT_BURST);
            self.refilled = now;
        }
        self.tokens = self
            .tokens
            .checked_sub(1)
            .ok_or_else(|| Status::resource_exhausted("too many reports"))?;
        Ok(())
    }
}
