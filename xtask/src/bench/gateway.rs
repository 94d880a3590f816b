//! What a proxied request costs: nginx, HAProxy, Envoy and the Ringwall gateway in the same run.
//!
//! Owns: the rounds and the figures. The proxy runs on core 0, the load and the back end on core 1; subjects take
//! turns within each round. CPU time is what the proxy's processes used, by the kernel's account, so that a busy
//! machine disturbs it less than the wall clock. Next: `gateway/subjects.rs` (how each proxy is configured),
//! `material.rs` (keys and certificates).

pub(super) mod subjects;

use std::fs;

use anyhow::{Context, Result};

use super::build;
use super::material::Material;
use super::report::Report;
use super::running::{LOAD_CORE, PROXY_CORE, Program, Running};
use super::wrk::{Load, Wrk};
use crate::config::Config;
use crate::process::say;
use subjects::{Case, Subject};

/// Length of one measurement.
const SECONDS: u32 = 5;
const CONNECTIONS: u32 = 32;
/// The targets: multiples of nginx's plain CPU time per request.
const PLAIN_BOUND: f64 = 1.4;
const FULL_BOUND: f64 = 1.6;

/// Builds the gateway, starts everything, measures in turns, reports.
pub(crate) fn measure(config: &Config, rounds: u32) -> Result<Report> {
    build(config)?;
    let folder = config.target.join("bench-gateway");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).context("making the folder of the measurement")?;
    let material = Material::make(config, &folder)?;
    let (back_ends, subjects) = subjects::all(config, &folder, &material)?;
    let _back_ends = back_ends
        .iter()
        .map(Subject::start)
        .collect::<Result<Vec<_>>>()?;
    let running = subjects
        .iter()
        .map(Subject::start)
        .collect::<Result<Vec<_>>>()?;
    let wrk = Wrk::find(config)?;
    for subject in &subjects {
        wrk.run(&subject.load(CONNECTIONS, 1))?;
    }
    let mut samples: Vec<Samples> = subjects.iter().map(|_| Samples::default()).collect();
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}"));
        for ((subject, process), samples) in subjects.iter().zip(&running).zip(&mut samples) {
            let before = process.cpu()?;
            let done = wrk.run(&subject.load(CONNECTIONS, SECONDS))?;
            let used = process.cpu()?.saturating_sub(before);
            samples.cpu.push(used.as_secs_f64() * 1e6 / done.count);
            samples.rate.push(done.count / f64::from(SECONDS));
        }
    }
    Ok(report(&subjects, &samples, rounds))
}

#[derive(Default)]
struct Samples {
    cpu: Vec<f64>,
    rate: Vec<f64>,
}

fn report(subjects: &[Subject], samples: &[Samples], rounds: u32) -> Report {
    let mut report = Report::new("gateway", rounds);
    for (subject, samples) in subjects.iter().zip(samples) {
        let case = subject.case.name();
        report.add(subject.name, case, "CPU per request", "µs", &samples.cpu);
        report.add(subject.name, case, "requests", "1/s", &samples.rate);
    }
    let cpu = |subject, case: Case| report.median(subject, case.name(), "CPU per request");
    let nginx = cpu(subjects::NGINX, Case::Plain);
    let ratios = [
        (
            "plain, times nginx's CPU",
            cpu(subjects::RINGWALL, Case::Plain),
            PLAIN_BOUND,
        ),
        (
            "full, times nginx's plain CPU",
            cpu(subjects::RINGWALL, Case::Full),
            FULL_BOUND,
        ),
    ];
    for (name, ours, bound) in ratios {
        if let (Some(ours), Some(nginx)) = (ours, nginx) {
            report.at_most(name, ours / nginx, bound);
        }
    }
    report
}

impl Subject {
    /// Requests to it.
    pub(super) fn load(&self, connections: u32, seconds: u32) -> Load<'_> {
        Load {
            url: &self.url,
            headers: &self.headers,
            connections,
            seconds,
            script: None,
        }
    }

    pub(super) fn start(&self) -> Result<Running> {
        let core = if self.case == Case::BackEnd {
            LOAD_CORE
        } else {
            PROXY_CORE
        };
        Program {
            name: self.name,
            path: self.program.clone(),
            arguments: self.arguments.clone(),
            port: self.port,
            log: self.log.clone(),
            core,
        }
        .start()
    }
}
