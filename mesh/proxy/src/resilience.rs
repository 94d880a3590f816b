//! How this workload treats the services that it calls: state machines without I/O, clocks or randomness of their own.
//!
//! Owns: per destination the circuit breaker, the retry budget, the endpoints with their latency and conduct, and the
//! bounds on what is in flight ([`Callee`]); the rules of retries and deadlines. One [`Callees`] serves all workers: a limit
//! is the process's.
//! Must not: connect, send or wait (`outbound/`). Read next: `resilience/callee.rs`, then `balance.rs` and `breaker.rs`.

pub(crate) mod balance;
pub(crate) mod breaker;
mod budget;
pub(crate) mod callee;
pub(crate) mod deadline;
mod ewma;
#[cfg(test)]
pub(crate) mod fixture;
mod outlier;
pub(crate) mod policy;
pub(crate) mod retry;
mod tally;
mod window;

pub(crate) use self::callee::{Attempt, Callee, Callees, Entered, NoAttempt};
pub(crate) use self::tally::Tally;
