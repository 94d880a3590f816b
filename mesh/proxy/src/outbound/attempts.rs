//! A call in as many attempts as its rules, its deadline and the budget allow.
//!
//! Owns: the order of a retry (is it allowed, is the message still there, does the pause fit, is there an endpoint, does the
//! budget pay), the second attempt of a hedge, and that each attempt has one verdict. The last answer is the caller's,
//! whatever its status.
//! Must not: know what is sent: a [`Carrier`] does, so that a request, a WebSocket, opaque bytes and a simulated network
//! share this.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ringwall_data_path::random::Random;
use tokio::time::{sleep, timeout};

use crate::resilience::balance::NodeId;
use crate::resilience::breaker::Outcome;
use crate::resilience::deadline::Deadline;
use crate::resilience::policy::Rules;
use crate::resilience::retry::{self, Failure};
use crate::resilience::{Attempt, Callee, NoAttempt};
use crate::snapshot::Endpoint;

/// Sends one message, perhaps more than once.
pub(crate) trait Carrier: Sync {
    type Request: Send;
    type Answer: Send;
    type Error: Send;

    /// The message for one attempt; `None` when it can no longer be had. A former attempt's is void from then on.
    fn request(&self) -> Option<Self::Request>;

    /// Whether [`Self::request`] would give the whole message again.
    fn can_repeat(&self) -> bool;

    /// Whether it would do so without making the message of a running attempt void.
    fn can_double(&self) -> bool;

    fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Self::Request,
    ) -> impl Future<Output = Result<Self::Answer, Fault<Self::Error>>> + Send;

    fn judge(&self, answer: &Self::Answer) -> Judgement;
}

/// What an answer says about its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) status: u16,
    pub(crate) outcome: Outcome,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Fault<E> {
    pub(crate) failure: Failure,
    /// What it says about the endpoint.
    pub(crate) outcome: Outcome,
    pub(crate) error: E,
}

/// What holds for all attempts of one call.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) callee: &'a Arc<Callee>,
    pub(crate) random: &'a Random,
    pub(crate) rules: Rules<'a>,
    pub(crate) deadline: Deadline,
    pub(crate) idempotent: bool,
}

/// What was done so far; readable when the call is given up.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) attempts: u32,
    pub(crate) endpoint: Option<SocketAddr>,
}

/// Why a call ends without an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stopped<E> {
    Failed(E),
    /// Of the call, or of its last attempt.
    Timeout,
    Open {
        retry_after: Duration,
    },
    NoEndpoint,
    /// The message is gone.
    Spent,
}

impl<E> From<NoAttempt> for Stopped<E> {
    fn from(none: NoAttempt) -> Self {
        match none {
            NoAttempt::Open { retry_after } => Self::Open { retry_after },
            NoAttempt::NoEndpoint => Self::NoEndpoint,
        }
    }
}

/// How one attempt ended.
type Ended<C> =
    Result<(<C as Carrier>::Answer, Attempt), (Failure, Stopped<<C as Carrier>::Error>)>;

/// Makes attempts until one is good, or none may follow.
pub(crate) async fn run<C: Carrier>(
    plan: &Plan<'_>,
    carrier: &C,
    progress: &mut Progress,
) -> Result<(C::Answer, Attempt), Stopped<C::Error>> {
    let mut tried: Vec<NodeId> = Vec::new();
    let mut attempt = plan.callee.attempt(plan.random, &tried)?;
    let mut spared = false;
    loop {
        let request = carrier.request().ok_or(Stopped::Spent)?;
        let node = attempt.node();
        progress.begin(&attempt);
        let ended = match plan.rules.hedge.filter(|_| plan.idempotent) {
            None => one(plan, carrier, attempt, request).await,
            Some(after) => {
                tried.push(node);
                let first = one(plan, carrier, attempt, request);
                hedged(plan, carrier, first, after, &mut tried, progress).await
            }
        };
        let made = progress.attempts - u32::from(spared);
        let next = failure_of(plan, carrier, &ended).and_then(|failure| {
            tried.push(node);
            if failure == Failure::Leaving && !spared {
                spared = true;
                return elsewhere(plan, carrier, &tried);
            }
            again(plan, carrier, failure, &tried, made)
        });
        let Some((next, pause)) = next else {
            return ended.map_err(|(_, stopped)| stopped);
        };
        // Resets what is left of the former stream, and frees its endpoint.
        drop(ended);
        if !pause.is_zero() {
            sleep(pause).await;
        }
        attempt = next;
        attempt.restart();
        plan.callee.tally().retries.inc();
    }
}

impl Progress {
    fn begin(&mut self, attempt: &Attempt) {
        self.attempts += 1;
        self.endpoint = Some(attempt.endpoint().address);
    }
}

/// One attempt within its share of the time, and its verdict.
async fn one<C: Carrier>(
    plan: &Plan<'_>,
    carrier: &C,
    mut attempt: Attempt,
    request: C::Request,
) -> Ended<C> {
    let now = plan.callee.now();
    let per_try = plan.rules.retries.per_try_timeout;
    let Some(share) = plan.deadline.share(now, per_try) else {
        return Err((Failure::Own, Stopped::Timeout));
    };
    let endpoint = Arc::clone(attempt.endpoint());
    match timeout(share, carrier.send(&endpoint, request)).await {
        Ok(Ok(answer)) => {
            attempt.verdict(carrier.judge(&answer).outcome);
            Ok((answer, attempt))
        }
        Ok(Err(fault)) => {
            attempt.verdict(fault.outcome);
            Err((fault.failure, Stopped::Failed(fault.error)))
        }
        Err(_elapsed) => {
            let whole = plan.deadline.left(plan.callee.now()).is_none();
            // A caller in a hurry is no proof against the service.
            let hurried = whole && plan.deadline.is_callers();
            attempt.verdict(if hurried {
                Outcome::Neutral
            } else {
                Outcome::Failure
            });
            Err((Failure::Lost, Stopped::Timeout))
        }
    }
}

/// One attempt, and after a while a second one beside it; the first good answer counts, and ends the other attempt.
async fn hedged<C: Carrier>(
    plan: &Plan<'_>,
    carrier: &C,
    first: impl Future<Output = Ended<C>> + Send,
    after: Duration,
    tried: &mut Vec<NodeId>,
    progress: &mut Progress,
) -> Ended<C> {
    let mut first = pin!(first);
    tokio::select! {
        biased;
        ended = &mut first => return ended,
        () = sleep(after) => {}
    }
    let Some((attempt, request)) = double(plan, carrier, tried) else {
        return first.await;
    };
    tried.push(attempt.node());
    progress.begin(&attempt);
    plan.callee.tally().hedges.inc();
    let mut second = pin!(one(plan, carrier, attempt, request));
    tokio::select! {
        biased;
        ended = &mut first => match failure_of(plan, carrier, &ended) {
            None => ended,
            Some(_) => second.await,
        },
        ended = &mut second => match failure_of(plan, carrier, &ended) {
            None => ended,
            Some(_) => first.await,
        },
    }
}

/// What a hedge needs: the message once more, another endpoint, and a retry of the budget.
fn double<C: Carrier>(
    plan: &Plan<'_>,
    carrier: &C,
    tried: &[NodeId],
) -> Option<(Attempt, C::Request)> {
    if !carrier.can_double() {
        return None;
    }
    let attempt = plan.callee.attempt(plan.random, tried).ok()?;
    if tried.contains(&attempt.node()) || !plan.callee.may_retry() {
        return None;
    }
    Some((attempt, carrier.request()?))
}

/// Why the attempt is not good enough to be the last; `None` where it is.
fn failure_of<C: Carrier>(plan: &Plan<'_>, carrier: &C, ended: &Ended<C>) -> Option<Failure> {
    match ended {
        Ok((answer, _)) => {
            let status = carrier.judge(answer).status;
            let listed = plan.rules.retries.statuses.contains(&status);
            listed.then_some(Failure::Status(status))
        }
        Err((failure, _)) => Some(*failure),
    }
}

/// The next attempt, at once and at nobody's expense.
fn elsewhere<C: Carrier>(
    plan: &Plan<'_>,
    carrier: &C,
    tried: &[NodeId],
) -> Option<(Attempt, Duration)> {
    if !carrier.can_repeat() {
        return None;
    }
    let attempt = plan.callee.attempt(plan.random, tried).ok()?;
    Some((attempt, Duration::ZERO))
}

/// The next attempt, and the pause before it; `None` where what there is has to do.
fn again<C: Carrier>(
    plan: &Plan<'_>,
    carrier: &C,
    failure: Failure,
    tried: &[NodeId],
    made: u32,
) -> Option<(Attempt, Duration)> {
    if !retry::may_follow(plan.rules.retries, made, plan.idempotent, failure) {
        return None;
    }
    if !carrier.can_repeat() {
        return None;
    }
    let pause = retry::pause(made, plan.random.next());
    let left = plan.deadline.left(plan.callee.now())?;
    if left <= pause {
        return None;
    }
    let attempt = plan.callee.attempt(plan.random, tried).ok()?;
    plan.callee.may_retry().then_some((attempt, pause))
}

#[cfg(test)]
#[path = "attempts/simulation.rs"]
mod simulation;
#[cfg(test)]
#[path = "attempts/tests.rs"]
mod tests;
