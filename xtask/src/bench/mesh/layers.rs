//! What each layer of a hop costs (R35): a pair of proxies that does a little more each time.
//!
//! Owns: the ladder. Envoy's pair begins with forwarding alone and gains mutual TLS, a rule, and the log. Ours has no
//! switch for TLS, identity and policy: its ladder begins with all three, gains the log, and then has each request
//! decided anew instead of by the decision that is remembered for its path.

use anyhow::Result;

use super::envoy::Layers;
use super::{CONNECTIONS, Ground, MANY, Pair, SECONDS, Samples, load};
use crate::bench::report::Report;
use crate::config::Config;
use crate::process::say;

const PLAIN: &str = "envoy pair, forwarding";
const TLS: &str = "envoy pair, + mutual TLS";
const RBAC: &str = "envoy pair, + RBAC";
const LOG: &str = "envoy pair, + access log";
const QUIET: &str = "ringwall pair, TLS and policy";
const FULL: &str = "ringwall pair, + access log";
const ANEW: &str = "ringwall pair, + decided anew";
const CPU: &str = "CPU per request";

/// Builds, starts every pair, measures in turns, reports.
pub(crate) fn measure(config: &Config, rounds: u32) -> Result<Report> {
    let ground = Ground::prepare(config, "bench-layers")?;
    let pairs = [
        Pair::envoy(&ground, PLAIN, Layers::Forwarding)?,
        Pair::envoy(&ground, TLS, Layers::MutualTls)?,
        Pair::envoy(&ground, RBAC, Layers::Rbac)?,
        Pair::envoy(&ground, LOG, Layers::AccessLog)?,
        Pair::ringwall(config, &ground, QUIET, false)?,
        Pair::ringwall(config, &ground, FULL, true)?,
    ];
    let mut samples = Samples::default();
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}"));
        for pair in &pairs {
            let port = pair.at.near_http;
            let usual = || load::requests(&ground.tools.wrk, port, CONNECTIONS, SECONDS);
            samples.add((pair.name, MANY, CPU, "µs"), pair.under_load(usual)?.0);
            if pair.name == FULL {
                let wrk = &ground.tools.wrk;
                let folder = &ground.folder;
                let many = || load::requests_for_many(wrk, port, CONNECTIONS, SECONDS, folder);
                samples.add((ANEW, MANY, CPU, "µs"), pair.under_load(many)?.0);
            }
        }
    }
    let mut report = samples.report("layers", rounds);
    steps(&mut report);
    Ok(report)
}

/// What each step adds to the one before it.
fn steps(report: &mut Report) {
    let cpu = |report: &Report, subject| report.median(subject, MANY, CPU);
    for (layer, more, less) in [
        ("mutual TLS (Envoy)", TLS, PLAIN),
        ("RBAC (Envoy)", RBAC, TLS),
        ("access log (Envoy)", LOG, RBAC),
        ("access log", FULL, QUIET),
        ("policy, decided anew", ANEW, FULL),
    ] {
        if let (Some(more), Some(less)) = (cpu(report, more), cpu(report, less)) {
            report.add(layer, MANY, "added CPU per request", "µs", &[more - less]);
        }
    }
    if let (Some(ours), Some(peers)) = (cpu(report, FULL), cpu(report, LOG)) {
        report.at_most("all layers, times Envoy's pair", ours / peers, 0.5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r35_each_layer_has_its_cost_in_the_table() {
        let mut report = Report::new("layers", 1);
        for (subject, cpu) in [
            (PLAIN, 40.0),
            (TLS, 52.0),
            (RBAC, 55.0),
            (LOG, 60.0),
            (QUIET, 24.0),
            (FULL, 26.0),
            (ANEW, 33.0),
        ] {
            report.add(subject, MANY, CPU, "µs", &[cpu]);
        }
        steps(&mut report);
        let added = |layer| report.median(layer, MANY, "added CPU per request");
        assert_eq!(added("mutual TLS (Envoy)"), Some(12.0));
        assert_eq!(added("RBAC (Envoy)"), Some(3.0));
        assert_eq!(added("access log (Envoy)"), Some(5.0));
        assert_eq!(added("access log"), Some(2.0));
        assert_eq!(added("policy, decided anew"), Some(7.0));
        assert!(report.targets_met(), "26 of 60");
    }
}
