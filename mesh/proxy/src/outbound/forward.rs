//! Step 7: to an endpoint and back, in as many attempts as it takes.
//!
//! Owns: what a request is for the loop of `attempts.rs`: its copies, its body while that can be had again, the meaning of
//! what went wrong. Must not: choose endpoints or count.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use ringwall_http_io::body::BoxError;

use super::admit::{Admitted, Purpose};
use super::attempts::{Carrier, Fault, Judgement, Plan, Stopped, run};
use super::enter::told;
use super::exchange::Exchange;
use super::prepare::Outgoing;
use super::replay::{Replay, ReplayBody};
use super::switch;
use crate::body::{BodyError, ProxyBody};
use crate::pipeline::strip::strip_response;
use crate::refusal::Refusal;
use crate::resilience::Callee;
use crate::resilience::breaker::Outcome;
use crate::resilience::deadline::{self, Deadline, GRPC_TIMEOUT};
use crate::resilience::policy::Rules;
use crate::resilience::retry::{self, Failure};
use crate::serve::Session;
use crate::snapshot::{Endpoint, Service};
use crate::tunnel::{H2Body, SendError, Stream, Tunnels};

/// gRPC's UNAVAILABLE, as the head of an answer without messages has it.
const UNAVAILABLE: &[u8] = b"14";

pub(super) async fn forward(
    session: &Arc<Session>,
    outgoing: Outgoing,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    match outgoing.placed.admitted.purpose {
        Purpose::Request { grpc } => request(session, outgoing, grpc, exchange).await,
        Purpose::WebSocket(_) | Purpose::Tunnel(_) => {
            Box::pin(switched(session, outgoing, exchange)).await
        }
    }
}

async fn request(
    session: &Session,
    outgoing: Outgoing,
    grpc: bool,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let Outgoing { placed, uri, .. } = outgoing;
    let Admitted { parts, body, .. } = placed.admitted;
    let (service, callee) = (&placed.service, &placed.callee);
    let rules = Rules::of(&service.traffic, &parts.method, uri.path());
    let plan = Plan {
        callee,
        random: &session.worker.random,
        rules,
        deadline: placed.deadline,
        idempotent: retry::is_idempotent(&parts.method),
    };
    let again = rules.retries.attempts > 0 || rules.hedge.is_some();
    let http = Http {
        tunnels: &session.worker.tunnels,
        service,
        callee,
        method: parts.method,
        uri,
        headers: parts.headers,
        source: Source::new(body, again),
        deadline: placed.deadline,
        asked: placed.asked,
        grpc,
    };
    let (response, attempt) = run(&plan, &http, &mut exchange.progress)
        .await
        .map_err(refusal)?;
    http.source.settle();
    exchange.answered(attempt, placed.entered);
    let mut response = response.map(ProxyBody::http2);
    *response.version_mut() = Version::HTTP_11;
    strip_response(response.headers_mut());
    Ok(response)
}

/// What becomes a pair of pipes.
async fn switched(
    session: &Arc<Session>,
    outgoing: Outgoing,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let Outgoing {
        placed,
        uri,
        websocket_key,
        bytes,
    } = outgoing;
    let Admitted {
        parts,
        body,
        target,
        purpose,
    } = placed.admitted;
    let (service, callee) = (&placed.service, &placed.callee);
    let plan = Plan {
        callee,
        random: &session.worker.random,
        rules: Rules::of(&service.traffic, &parts.method, uri.path()),
        deadline: placed.deadline,
        idempotent: retry::is_idempotent(&parts.method),
    };
    let way = switch::Way {
        session,
        service,
        plan: &plan,
        entered: placed.entered,
    };
    match purpose {
        Purpose::WebSocket(how) => {
            let handshake = switch::Handshake {
                uri,
                headers: parts.headers,
                key: websocket_key,
            };
            switch::websocket(way, handshake, how, body, exchange).await
        }
        Purpose::Tunnel(how) => {
            let authority = switch::authority(service, placed.port, &target);
            switch::tunnel(way, authority, how, (body, bytes), exchange).await
        }
        Purpose::Request { .. } => Err(Refusal::Upgrade),
    }
}

/// A request, for each of its attempts.
struct Http<'a> {
    tunnels: &'a Tunnels,
    service: &'a Arc<Service>,
    callee: &'a Arc<Callee>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    source: Source,
    deadline: Deadline,
    asked: Option<Deadline>,
    grpc: bool,
}

impl Carrier for Http<'_> {
    type Request = Request<SentBody>;
    type Answer = Response<H2Body>;
    type Error = Refusal;

    fn request(&self) -> Option<Self::Request> {
        let mut request = Request::new(self.source.take()?);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }

    fn can_repeat(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Once(_) => false,
            Source::Replay(replay) => replay.is_whole(),
        }
    }

    fn can_double(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Once(_) => false,
            Source::Replay(replay) => replay.is_complete(),
        }
    }

    async fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        mut request: Self::Request,
    ) -> Result<Self::Answer, Fault<Refusal>> {
        let stream = stream(self.tunnels, self.callee, self.service, endpoint).await?;
        let left = told(self.callee.now(), self.deadline, self.asked, self.grpc);
        if let Some(left) = left {
            let left = deadline::told(left);
            request.headers_mut().insert(GRPC_TIMEOUT, left);
        }
        stream.send(request).await.map_err(fault)
    }

    fn judge(&self, answer: &Self::Answer) -> Judgement {
        let status = answer.status().as_u16();
        let unavailable = self.grpc
            && answer
                .headers()
                .get("grpc-status")
                .is_some_and(|status| status.as_bytes() == UNAVAILABLE);
        judge(status, unavailable)
    }
}

/// Gateway errors speak against the service as a broken connection does; what else it answers is its own affair.
pub(super) const fn judge(status: u16, unavailable: bool) -> Judgement {
    let failed = unavailable || matches!(status, 502..=504);
    Judgement {
        status,
        outcome: if failed {
            Outcome::Failure
        } else {
            Outcome::Success
        },
    }
}

/// A stream to `endpoint`; where there is no connection, as one of those that may wait for it.
pub(super) async fn stream(
    tunnels: &Tunnels,
    callee: &Arc<Callee>,
    service: &Service,
    endpoint: &Endpoint,
) -> Result<Stream, Fault<Refusal>> {
    if let Some(stream) = tunnels.try_stream(service, endpoint) {
        return Ok(stream);
    }
    let _waiting = callee.wait().map_err(|overloaded| Fault {
        failure: Failure::Own,
        outcome: Outcome::Neutral,
        error: Refusal::Overloaded(overloaded.0),
    })?;
    tunnels.stream(service, endpoint).await.map_err(fault)
}

/// What a failed send means for retries, for the endpoint and for the caller.
pub(super) fn fault(error: SendError) -> Fault<Refusal> {
    let failure = match &error {
        SendError::Body(_) | SendError::NoExtendedConnect => Failure::Own,
        SendError::NotTaken(error) if error.is_go_away() => Failure::Leaving,
        error if error.is_unseen() => Failure::Unseen,
        _ => Failure::Lost,
    };
    let outcome = if error.is_fault_of_endpoint() {
        Outcome::Failure
    } else {
        Outcome::Neutral
    };
    let error = match error {
        SendError::Connect(why) => Refusal::Connect(why),
        SendError::ConnectTimeout(limit) => {
            Refusal::Connect(format!("no connection within {limit:?}").into())
        }
        SendError::Pending => Refusal::Overloaded("max-pending"),
        SendError::Body(error) => match error.downcast_ref::<BodyError>() {
            Some(BodyError::TooLarge { .. }) => Refusal::BodyTooLarge,
            _ => Refusal::Malformed("body-broken"),
        },
        other => Refusal::Failed(other.to_string().into()),
    };
    Fault {
        failure,
        outcome,
        error,
    }
}

pub(super) fn refusal(stopped: Stopped<Refusal>) -> Refusal {
    match stopped {
        Stopped::Failed(refusal) => refusal,
        Stopped::Timeout => Refusal::Timeout,
        Stopped::Open { retry_after } => {
            Refusal::CircuitOpen(format!("for another {retry_after:?}").into())
        }
        Stopped::NoEndpoint => Refusal::NoEndpoint("the service has none that is ready".into()),
        Stopped::Spent => Refusal::Internal("the request's body was used twice".into()),
    }
}

/// Where the body of each attempt comes from.
enum Source {
    Empty,
    Once(Mutex<Option<ProxyBody>>),
    Replay(Replay<ProxyBody>),
}

impl Source {
    fn new(body: ProxyBody, again: bool) -> Self {
        if body.is_end_stream() {
            Self::Empty
        } else if again {
            Self::Replay(Replay::new(body))
        } else {
            Self::Once(Mutex::new(Some(body)))
        }
    }

    fn take(&self) -> Option<SentBody> {
        match self {
            Self::Empty => Some(SentBody::Empty),
            Self::Once(body) => body.lock().take().map(SentBody::Once),
            Self::Replay(replay) => replay.read().map(SentBody::Replay),
        }
    }

    fn settle(&self) {
        if let Self::Replay(replay) = self {
            replay.settle();
        }
    }
}

/// The body of one attempt.
#[derive(Debug)]
enum SentBody {
    Empty,
    Once(ProxyBody),
    Replay(ReplayBody<ProxyBody>),
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Once(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Replay(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body) => body.is_end_stream(),
            Self::Replay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Once(body) => body.size_hint(),
            Self::Replay(body) => body.size_hint(),
        }
    }
}
