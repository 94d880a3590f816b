//! Runs plugins for those who write them, in the host that the gateway and the service proxies embed.
//!
//! Owns: the cases of a suite in memory ([`run`]), with what each has cost; what exchanges cost when they
//! are repeated ([`bench()`]); and a small server on loopback that has a plugin
//! before an upstream ([`serve`]), for `ringwall plugin run`. Must not: build modules, read files, or stand in the path of
//! anything but an author's own tries.
//! Read next: `suite.rs`, then `exchange.rs` for one request, `serve.rs` for the server.

mod bench;
mod clusters;
mod convert;
mod exchange;
mod frames;
mod report;
pub mod serve;
mod suite;
mod watch;

pub use bench::{CaseCost, bench};
pub use convert::{capabilities, spec};
pub use report::{Calls, CaseReport, Measured, Problem};
pub use suite::run;
