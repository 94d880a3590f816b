//! What a plugin costs and what it cannot cost others: Envoy and the Ringwall gateway with the same module in the same run.
//!
//! Owns: the rounds and the figures. Gateways run on core 0, load and back end on core 1; subjects take turns within each
//! round. A plugin's cost is the difference between a proxy with it and the same proxy without. Next: `gateway/subjects.rs`
//! (how each is configured), `plugins/neighbours.rs` (what a hostile plugin does to the others).

mod neighbours;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::awake::Awake;
use super::build;
use super::gateway::subjects::{self, Case, ENVOY, Modules, RINGWALL, Subject};
use super::material::Material;
use super::report::Report;
use super::running::Running;
use super::wrk::{Requests, Wrk};
use crate::config::Config;
use crate::process::say;
use crate::wasm;

/// The header filter under measurement, of `plugins/filters`.
const FILTER: &str = "response-hardening.wasm";
const HOSTILE: &str = "hostile.wasm";

const SECONDS: u32 = 5;
const CONNECTIONS: u32 = 32;
/// What a plugin adds to a median is a tenth of what a machine drifts by within a round: subjects take so many short turns.
const TURNS: u32 = 10;
/// Versions that follow each other while requests are under way.
const SWAPS: u32 = 4;
/// A changed configuration is seen within a second.
const SWAP_EVERY: Duration = Duration::from_millis(1200);

/// The targets.
const CPU_BOUND: f64 = 0.25;
const P50_BOUND_US: f64 = 5.0;
const INSTANCE_BOUND_US: f64 = 50.0;
const NEIGHBOUR_BOUND: f64 = 1.1;

const CPU: &str = "CPU per request";
const P50: &str = "p50, one connection, cores awake";
const P99: &str = "p99 of neighbours";
const FAILED: &str = "failed requests";
const ADDED: &str = "added by a plugin";
const SWAP: &str = "plugin swapped under load";
const INSTANCE: &str = "an instance, made";
const CONFIGURED: &str = "an instance, made and configured";

/// Builds everything, measures in turns, reports.
pub(crate) fn measure(config: &Config, rounds: u32) -> Result<Report> {
    let built = wasm::build(config)?;
    build(config)?;
    let folder = config.target.join("bench-plugins");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).context("making the folder of the measurement")?;
    let material = Material::make(config, &folder)?;
    let modules = Modules {
        good: copied(&built.join(FILTER), &folder)?,
        hostile: copied(&built.join(HOSTILE), &folder)?,
    };
    let (back_ends, subjects) = subjects::with_plugins(config, &folder, &material, modules)?;
    let start = |subjects: &[Subject]| {
        let started = subjects.iter().map(Subject::start);
        started.collect::<Result<Vec<Running>>>()
    };
    let _back_ends = start(&back_ends)?;
    let running = start(&subjects)?;
    let wrk = Wrk::find(config)?;
    for subject in &subjects {
        wrk.run(&subject.load(CONNECTIONS, 1))?;
    }
    let mut samples: Vec<Samples> = subjects.iter().map(|_| Samples::default()).collect();
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}"));
        for ((subject, process), samples) in subjects.iter().zip(&running).zip(&mut samples) {
            samples.take(subject, process, &wrk)?;
        }
        let _awake = Awake::keep()?;
        for _ in 0..TURNS {
            for (subject, samples) in subjects.iter().zip(&mut samples) {
                samples.take_alone(subject, &wrk)?;
            }
        }
    }
    let scrape = Scrape::new(config, &material)?;
    report(&subjects, &samples, rounds, &scrape)
}

/// A module that this run may have to itself.
fn copied(module: &Path, folder: &Path) -> Result<PathBuf> {
    let name = module.file_name().context("a module has a name")?;
    let copy = folder.join(name);
    fs::copy(module, &copy).with_context(|| format!("copying {}", module.display()))?;
    Ok(copy)
}

/// What was seen of one subject.
#[derive(Default)]
struct Samples {
    cpu: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    p99_in_peace: Vec<f64>,
    swap_failed: Vec<f64>,
}

impl Samples {
    fn take(&mut self, subject: &Subject, process: &Running, wrk: &Wrk) -> Result<()> {
        if subject.case == Case::BesideHostile {
            let _awake = Awake::keep()?;
            let seen = neighbours::measure(subject.port)?;
            self.p99_in_peace.extend(seen.in_peace_us);
            self.p99.push(seen.beside_hostile_us);
            return Ok(());
        }
        let before = process.cpu()?;
        let done = wrk.run(&subject.load(CONNECTIONS, SECONDS))?;
        let used = process.cpu()?.saturating_sub(before);
        self.cpu.push(used.as_secs_f64() * 1e6 / done.count);
        if subject.name == RINGWALL && subject.case == Case::Filtered {
            self.swap_failed.push(swapped(subject, wrk)?.failed);
        }
        Ok(())
    }

    /// One request at a time.
    fn take_alone(&mut self, subject: &Subject, wrk: &Wrk) -> Result<()> {
        if subject.case != Case::BesideHostile {
            self.p50.push(wrk.run(&subject.load(1, 1))?.p50_us);
        }
        Ok(())
    }
}

/// What a plugin adds to a subject's median: that of the differences between neighbouring turns.
fn added_p50(subjects: &[Subject], samples: &[Samples], name: &str) -> Vec<f64> {
    let of = |case: Case| {
        let all = subjects.iter().zip(samples);
        let mut found = all.filter(|(subject, _)| subject.name == name && subject.case == case);
        let found = found.next().map(|(_, samples)| samples.p50.as_slice());
        found.unwrap_or_default()
    };
    let pairs = of(Case::Filtered).iter().zip(of(Case::Plain));
    pairs.map(|(with, without)| with - without).collect()
}

/// Requests under way while the plugin's configuration changes.
fn swapped(subject: &Subject, wrk: &Wrk) -> Result<Requests> {
    let file = &subject.file;
    let before = fs::read_to_string(file).context("reading a configuration")?;
    let load = subject.load(CONNECTIONS, SECONDS + 1);
    let result = thread::scope(|scope| {
        let swaps = scope.spawn(|| -> Result<()> {
            for version in 0..SWAPS {
                thread::sleep(SWAP_EVERY);
                let limits = format!("name: good, limits: {{ hostcalls: {} }},", 9000 + version);
                put(file, &before.replace("name: good,", &limits))?;
            }
            Ok(())
        });
        let result = wrk.count(&load);
        let swaps = swaps.join().ok().context("the swaps panicked")?;
        swaps.and(result)
    });
    put(file, &before)?;
    result
}

/// In one step: half a file is none.
fn put(file: &Path, text: &str) -> Result<()> {
    let draft = file.with_extension("draft");
    fs::write(&draft, text).context("writing a configuration")?;
    fs::rename(&draft, file).context("placing a configuration")
}

/// Metrics of a gateway, which the identity `ringwall` may read.
struct Scrape {
    curl: PathBuf,
    folder: PathBuf,
}

impl Scrape {
    fn new(config: &Config, material: &Material) -> Result<Self> {
        Ok(Self {
            curl: config
                .tool("curl")
                .context("curl is missing: apt-get install -y curl")?,
            folder: material.folder.clone(),
        })
    }

    /// The value of one series.
    fn value(&self, admin: u16, series: &str) -> Result<f64> {
        let output = Command::new(&self.curl)
            .current_dir(&self.folder)
            .args(["-sS", "--cert", "ringwall.pem", "--key", "ringwall.key"])
            // Its name is a SPIFFE id, which curl does not know; who answers does not matter here.
            .arg("--insecure")
            .arg(format!("https://127.0.0.1:{admin}/metrics"))
            .output()
            .context("starting curl")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let found = text.lines().find_map(|line| line.strip_prefix(series));
        let value = found.and_then(|rest| rest.trim().parse().ok());
        value.with_context(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            format!("there is no {series} at port {admin}: {complaint}{text}")
        })
    }
}

fn report(
    subjects: &[Subject],
    samples: &[Samples],
    rounds: u32,
    scrape: &Scrape,
) -> Result<Report> {
    let mut report = Report::new("plugins", rounds);
    for (subject, samples) in subjects.iter().zip(samples) {
        let (name, case) = (subject.name, subject.case.name());
        report.add(name, case, CPU, "µs", &samples.cpu);
        report.add(name, case, P50, "µs", &samples.p50);
        report.add(name, "in peace", P99, "µs", &samples.p99_in_peace);
        report.add(name, case, P99, "µs", &samples.p99);
        report.add(name, SWAP, FAILED, "1", &samples.swap_failed);
    }
    let filtered = subjects
        .iter()
        .find(|subject| subject.name == RINGWALL && subject.case == Case::Filtered)
        .context("nothing was filtered")?;
    let series = |name: &str| scrape.value(filtered.admin, &format!("{name}{{plugin=\"good\"}}"));
    let swaps = series("ringwall_plugin_swaps_total")?;
    ensure!(
        swaps >= f64::from(SWAPS * rounds),
        "only {swaps} versions have followed each other"
    );
    let made = series("ringwall_plugin_start_seconds_count")?;
    let mean = |name| -> Result<f64> { Ok(series(name)? * 1e6 / made) };
    let instance = mean("ringwall_plugin_instantiation_seconds_sum")?;
    let configured = mean("ringwall_plugin_start_seconds_sum")?;
    for (case, took) in [(INSTANCE, instance), (CONFIGURED, configured)] {
        report.add(RINGWALL, case, "processor time", "µs", &[took]);
    }
    let added = |name| -> Option<f64> {
        let with = report.median(name, Case::Filtered.name(), CPU)?;
        Some(with - report.median(name, Case::Plain.name(), CPU)?)
    };
    let (ours, peers) = (added(RINGWALL), added(ENVOY));
    let p99 = |case| report.median(RINGWALL, case, P99);
    let neighbours = p99(Case::BesideHostile.name()).zip(p99("in peace"));
    for (name, added) in [(RINGWALL, ours), (ENVOY, peers)] {
        report.add(name, ADDED, CPU, "µs", added.as_slice());
        let p50 = added_p50(subjects, samples, name);
        report.add(name, ADDED, P50, "µs", &p50);
    }
    if let Some((ours, peers)) = ours.zip(peers) {
        report.at_most("added CPU, times Envoy's", ours / peers, CPU_BOUND);
    }
    if let Some(ours) = report.median(RINGWALL, ADDED, P50) {
        report.at_most("added p50 (µs)", ours, P50_BOUND_US);
    }
    report.at_most("an instance, made (µs)", instance, INSTANCE_BOUND_US);
    if let Some(failed) = report.median(RINGWALL, SWAP, FAILED) {
        report.at_most("failed in a swap", failed, 0.0);
    }
    if let Some((hostile, peace)) = neighbours {
        let name = "p99 of neighbours, times that in peace";
        report.at_most(name, hostile / peace, NEIGHBOUR_BOUND);
    }
    Ok(report)
}
