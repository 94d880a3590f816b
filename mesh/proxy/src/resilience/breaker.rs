//! The circuit breaker of one destination: closed, open, half-open.
//!
//! Owns: the failure rate over the last ten seconds, the time for which nothing is sent, and the bounded number of probes
//! after it. A verdict counts only in the state in which its request was admitted, so that one cause makes one
//! transition: late failures of requests from before neither re-open a breaker that probes nor lengthen an open one.
//! Must not: read a clock, count what the caller itself refused or gave up.

use std::time::Duration;

use super::window::Window;
use crate::snapshot::Breaker;

/// Requests let through when half-open; as many successes close the breaker.
pub(crate) const PROBES: u32 = 3;
/// The longest open time that doubling reaches; a policy may start with more.
pub(crate) const MAX_OPEN: Duration = Duration::from_secs(60);
/// What a refused caller is told to wait while the probes are out.
const PROBING: Duration = Duration::from_secs(1);

/// How a request went, as far as the destination is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure,
    /// The caller went away, or the fault was its own: says nothing.
    Neutral,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Closed,
    Open,
    HalfOpen,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Duration },
    HalfOpen { probing: u32, succeeded: u32 },
}

/// One destination's breaker.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    state: State,
    window: Window,
    /// Openings since it was last closed, beyond the first.
    reopened: u32,
    /// Grows with each transition.
    generation: u64,
}

/// The right to one request; gives its verdict back to [`CircuitBreaker::record`].
#[derive(Debug)]
pub(crate) struct Ticket {
    generation: u64,
}

/// Not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IsOpen {
    pub(crate) retry_after: Duration,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            window: Window::default(),
            reopened: 0,
            generation: 0,
        }
    }
}

impl CircuitBreaker {
    pub(crate) const fn phase(&self) -> Phase {
        match self.state {
            State::Closed => Phase::Closed,
            State::Open { .. } => Phase::Open,
            State::HalfOpen { .. } => Phase::HalfOpen,
        }
    }

    /// Lets one request through, or says for how long none is.
    pub(crate) fn admit(&mut self, now: Duration) -> Result<Ticket, IsOpen> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(IsOpen {
                    retry_after: until - now,
                });
            }
            self.turn(State::HalfOpen {
                probing: 0,
                succeeded: 0,
            });
        }
        if let State::HalfOpen { probing, succeeded } = &mut self.state {
            if *probing + *succeeded >= PROBES {
                return Err(IsOpen {
                    retry_after: PROBING,
                });
            }
            *probing += 1;
        }
        Ok(Ticket {
            generation: self.generation,
        })
    }

    /// Takes the verdict of an admitted request.
    pub(crate) fn record(
        &mut self,
        now: Duration,
        policy: &Breaker,
        ticket: &Ticket,
        outcome: Outcome,
    ) {
        if ticket.generation != self.generation {
            return;
        }
        match (&mut self.state, outcome) {
            (State::Closed, Outcome::Neutral) | (State::Open { .. }, _) => {}
            (State::Closed, _) => {
                self.window.add(now, outcome == Outcome::Success);
                if self.is_failing(now, policy) {
                    self.open(now, policy);
                }
            }
            (State::HalfOpen { .. }, Outcome::Failure) => {
                self.reopened = self.reopened.saturating_add(1);
                self.open(now, policy);
            }
            (State::HalfOpen { probing, .. }, Outcome::Neutral) => {
                *probing = probing.saturating_sub(1);
            }
            (State::HalfOpen { probing, succeeded }, Outcome::Success) => {
                *probing = probing.saturating_sub(1);
                *succeeded += 1;
                if *succeeded >= PROBES {
                    self.reopened = 0;
                    self.turn(State::Closed);
                }
            }
        }
    }

    fn is_failing(&self, now: Duration, policy: &Breaker) -> bool {
        let counts = self.window.counts(now);
        let total = counts.good + counts.bad;
        total >= u64::from(policy.min_requests.max(1))
            && counts.bad * 1000 >= u64::from(policy.failure_permille) * total
            && counts.bad > 0
    }

    fn open(&mut self, now: Duration, policy: &Breaker) {
        let until = now + open_time(policy.open, self.reopened);
        self.turn(State::Open { until });
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
        self.window.clear();
    }
}

/// Doubles with each re-opening, up to [`MAX_OPEN`].
fn open_time(first: Duration, reopened: u32) -> Duration {
    let factor = 2u32.saturating_pow(reopened);
    first.saturating_mul(factor).min(MAX_OPEN.max(first))
}

#[cfg(test)]
#[path = "breaker/tests.rs"]
mod tests;
