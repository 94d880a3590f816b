//! The kernel programs at work: real sockets of real processes in control groups of their own.
//!
//! Every test makes a slice, enrols groups in it and starts helpers there: this binary again, as `helper …`
//! (`helper.rs`). They need root and a kernel with control groups of version 2, and fail where these are missing.
//! `RINGWALL_TEST_WITHOUT=rw_connect4,…` leaves programs out: by that each test was seen to fail (docs/ebpf.md).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of it is tests, which clippy does not see without its harness"
)]

mod acceleration;
mod bind;
mod capture;
mod envoy;
mod equivalence;
mod escape;
mod helper;
mod hosts;
mod inbound;
mod lifecycle;
mod names;
mod policy;
mod ring;
mod shield;
mod steering;
mod suites;
mod wire;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|word| word == "helper") {
        return helper::run(&words[2..]);
    }
    let trials = suites::ALL.into_iter().flatten();
    let trials = trials.map(|(name, test)| {
        Trial::test(*name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
