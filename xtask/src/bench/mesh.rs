//! What the mesh costs: an application behind two service proxies, beside two Envoys as sidecars, in the same run.
//!
//! Owns: the rounds and the figures. Both proxies of a pair run on core 0, load, applications and our control plane on
//! core 1; the pairs take turns within each round. Latency is what a pair adds to a direct call, one request at a time;
//! CPU time is what both proxies used, by the kernel's account. Next: `mesh/envoy.rs` and `mesh/ringwall.rs` (the pairs),
//! `mesh/load.rs` (the loads), `mesh/layers.rs` (what each layer of a pair costs).

mod envoy;
pub(super) mod layers;
mod load;
mod ringwall;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::awake::Awake;
use super::build;
use super::material;
use super::report::Report;
use super::running::{LOAD_CORE, Program, Running};
use super::wrk::{Requests, Wrk};
use crate::config::Config;
use crate::process::say;
use crate::setup::wheels;

/// The calling and the called workload.
const FRONT: &str = "front";
const BACK: &str = "back";
const ANSWER: &str = "thirty-two bytes of small answer";

const ENVOY: &str = "envoy pair";
const RINGWALL: &str = "ringwall pair";
const DIRECT: &str = "no proxies";
const ONE: &str = "one request at a time";
/// Without the time that halted cores take to wake, which is the machine's own.
const ONE_AWAKE: &str = "one request at a time, cores awake";
const MANY: &str = "32 connections";
const STORM: &str = "1,200 new connections/s";
/// The proxy beside the caller is the one that takes connections up.
const NEAR: &str = "cores of the caller's proxy";
const MADE: &str = "made";
const IDLE: &str = "idle";
const BULK: &str = "bulk TCP stream";

const SECONDS: u32 = 5;
const CONNECTIONS: u32 = 32;
const STORM_RATE: u32 = 1200;
const IDLE_CONNECTIONS: u32 = 1000;
/// Time for buffers of finished work to be given back.
const SETTLE: Duration = Duration::from_secs(2);

/// Where everything listens.
struct Addresses {
    back_end: u16,
    bulk: u16,
    near_http: u16,
    near_tcp: u16,
    near_bulk: u16,
    far_http: u16,
    far_tcp: u16,
    far_bulk: u16,
}

impl Addresses {
    fn choose(back_end: u16, bulk: u16) -> Result<Self> {
        Ok(Self {
            back_end,
            bulk,
            near_http: free_port()?,
            near_tcp: free_port()?,
            near_bulk: free_port()?,
            far_http: free_port()?,
            far_tcp: free_port()?,
            far_bulk: free_port()?,
        })
    }
}

/// Which half of a pair.
#[derive(Clone, Copy)]
enum Side {
    /// Beside the caller.
    Near,
    /// Before the called application.
    Far,
}

impl Side {
    fn workload(self) -> &'static str {
        match self {
            Self::Near => FRONT,
            Self::Far => BACK,
        }
    }

    fn name(self, peer: &'static str) -> &'static str {
        match (peer, self) {
            ("envoy", Self::Near) => "envoy-near",
            ("envoy", Self::Far) => "envoy-far",
            (_, Self::Near) => "near-proxy",
            (_, Self::Far) => "far-proxy",
        }
    }
}

/// What was seen so far: subject, case, metric and unit, with one sample for each round.
#[derive(Default)]
struct Samples(Vec<(Figure, Vec<f64>)>);

type Figure = (&'static str, &'static str, &'static str, &'static str);

impl Samples {
    fn add(&mut self, figure: Figure, sample: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == figure) {
            Some((_, samples)) => samples.push(sample),
            None => self.0.push((figure, vec![sample])),
        }
    }

    fn report(&self, name: &str, rounds: u32) -> Report {
        let mut report = Report::new(name, rounds);
        for ((subject, case, metric, unit), samples) in &self.0 {
            report.add(subject, case, metric, unit, samples);
        }
        report
    }
}

/// What every measurement of the mesh stands on.
struct Ground {
    folder: PathBuf,
    tools: Tools,
    envoy: PathBuf,
    back_end: u16,
    bulk: u16,
    _back_ends: [Running; 2],
}

impl Ground {
    /// Builds the platform, makes certificates in an empty folder, and starts the applications.
    fn prepare(config: &Config, name: &str) -> Result<Self> {
        build(config)?;
        let folder = config.target.join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).context("making the folder of the measurement")?;
        material::mesh(config, &folder, &[FRONT, BACK])?;
        let tools = Tools::find(config)?;
        let (back_end, bulk) = (free_port()?, free_port()?);
        let back_ends = [
            tools.back_end(&folder, back_end)?.start()?,
            tools.bulk_server(&folder, bulk).start()?,
        ];
        Ok(Self {
            folder,
            tools,
            envoy: wheels::ENVOY.ensure(config)?,
            back_end,
            bulk,
            _back_ends: back_ends,
        })
    }

    fn addresses(&self) -> Result<Addresses> {
        Addresses::choose(self.back_end, self.bulk)
    }

    /// A folder for one pair.
    fn own(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name.replace(' ', "-"));
        fs::create_dir_all(&folder).context("making a folder")?;
        Ok(folder)
    }
}

/// Two running proxies.
struct Pair {
    name: &'static str,
    at: Addresses,
    /// The far one first.
    proxies: Vec<Running>,
    /// Runs beside them and is not counted.
    _around: Vec<Running>,
}

impl Pair {
    fn envoy(ground: &Ground, name: &'static str, layers: envoy::Layers) -> Result<Self> {
        let at = ground.addresses()?;
        let design = envoy::Design {
            binary: &ground.envoy,
            material: &ground.folder,
            folder: &ground.own(name)?,
            layers,
        };
        let programs = design.programs(&at)?;
        Ok(Self {
            name,
            at,
            proxies: programs.iter().map(Program::start).collect::<Result<_>>()?,
            _around: Vec::new(),
        })
    }

    /// As the platform runs it, but for the access log where that is off.
    fn ringwall(
        config: &Config,
        ground: &Ground,
        name: &'static str,
        access_log: bool,
    ) -> Result<Self> {
        let folder = ground.own(name)?;
        ringwall::Kit::new(config, &ground.folder, folder, access_log)?.start(config, name, ground)
    }

    fn cpu(&self) -> Result<Duration> {
        Ok(self.cpu_of_each()?.iter().sum())
    }

    /// Of the far proxy, and of the near one.
    fn cpu_of_each(&self) -> Result<Vec<Duration>> {
        self.proxies.iter().map(Running::cpu).collect()
    }

    /// Microseconds of both proxies for each request, and requests each second.
    fn under_load(&self, load: impl FnOnce() -> Result<Requests>) -> Result<(f64, f64)> {
        let before = self.cpu()?;
        let done = load()?;
        let used = self.cpu()?.saturating_sub(before);
        let each = used.as_secs_f64() * 1e6 / done.count;
        Ok((each, done.count / f64::from(SECONDS)))
    }

    /// Mean resident memory of one proxy, in KiB.
    fn rss(&self) -> Result<f64> {
        let all: Vec<f64> = self
            .proxies
            .iter()
            .map(Running::rss_kib)
            .collect::<Result<_>>()?;
        Ok(all.iter().sum::<f64>() / f64::from(u32::try_from(all.len())?))
    }
}

/// Builds, starts everything, measures in turns, reports.
pub(crate) fn measure(config: &Config, rounds: u32) -> Result<Report> {
    let ground = Ground::prepare(config, "bench-mesh")?;
    let pairs = [
        Pair::envoy(&ground, ENVOY, envoy::Layers::AccessLog)?,
        Pair::ringwall(config, &ground, RINGWALL, true)?,
    ];
    let mut samples = Samples::default();
    memory(&pairs, &mut samples)?;
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}"));
        self::round(&ground, &pairs, &mut samples)?;
    }
    let mut report = samples.report("mesh", rounds);
    targets(&mut report);
    Ok(report)
}

/// One turn of every case and subject.
fn round(ground: &Ground, pairs: &[Pair], samples: &mut Samples) -> Result<()> {
    let tools = &ground.tools;
    latency(ground, pairs, ONE, samples)?;
    let awake = Awake::keep()?;
    latency(ground, pairs, ONE_AWAKE, samples)?;
    drop(awake);
    for pair in pairs {
        let port = pair.at.near_http;
        let (each, rate) =
            pair.under_load(|| load::requests(&tools.wrk, port, CONNECTIONS, SECONDS))?;
        samples.add((pair.name, MANY, "CPU per request", "µs"), each);
        samples.add((pair.name, MANY, "requests", "1/s"), rate);
    }
    for pair in pairs {
        let length = Duration::from_secs(u64::from(SECONDS));
        let (before, began) = (pair.cpu_of_each()?, Instant::now());
        let made = load::storm(pair.at.near_tcp, STORM_RATE, length)?;
        let took = began.elapsed().as_secs_f64();
        let after = pair.cpu_of_each()?;
        let used = after.iter().zip(&before);
        let used: Vec<f64> = used
            .map(|(after, before)| after.saturating_sub(*before).as_secs_f64() / took)
            .collect();
        if let [far, near] = used[..] {
            samples.add((pair.name, STORM, NEAR, ""), near);
            samples.add((pair.name, STORM, "cores of both", ""), near + far);
        }
        samples.add((pair.name, STORM, MADE, "1/s"), f64::from(made) / took);
    }
    for pair in pairs {
        let rate = load::bulk(&tools.iperf3, pair.at.near_bulk, SECONDS)?;
        samples.add((pair.name, BULK, "throughput", "Gbit/s"), rate);
    }
    Ok(())
}

/// What each pair adds to a direct call.
fn latency(
    ground: &Ground,
    pairs: &[Pair],
    case: &'static str,
    samples: &mut Samples,
) -> Result<()> {
    let alone = |port| load::requests(&ground.tools.wrk, port, 1, SECONDS);
    let direct = alone(ground.back_end)?;
    samples.add((DIRECT, case, "latency p50", "µs"), direct.p50_us);
    samples.add((DIRECT, case, "latency p99", "µs"), direct.p99_us);
    for pair in pairs {
        let seen = alone(pair.at.near_http)?;
        let (p50, p99) = (seen.p50_us - direct.p50_us, seen.p99_us - direct.p99_us);
        samples.add((pair.name, case, "added p50", "µs"), p50);
        samples.add((pair.name, case, "added p99", "µs"), p99);
    }
    Ok(())
}

/// Memory at rest, before any load, and with connections that stay.
fn memory(pairs: &[Pair], samples: &mut Samples) -> Result<()> {
    say("memory");
    thread::sleep(SETTLE);
    for pair in pairs {
        let rest = pair.rss()?;
        samples.add((pair.name, IDLE, "memory per proxy", "MiB"), rest / 1024.0);
        // What the first connection brings is no part of what each one takes.
        let first = load::idle(pair.at.near_tcp, 1)?;
        thread::sleep(SETTLE);
        let before = pair.rss()?;
        let open = load::idle(pair.at.near_tcp, IDLE_CONNECTIONS)?;
        thread::sleep(SETTLE);
        let each = (pair.rss()? - before) / f64::from(IDLE_CONNECTIONS);
        samples.add(
            (pair.name, IDLE, "memory per tunnel and proxy", "KiB"),
            each,
        );
        drop((first, open));
    }
    Ok(())
}

fn targets(report: &mut Report) {
    let ratio = |report: &Report, case, metric| {
        let ours = report.median(RINGWALL, case, metric)?;
        Some(ours / report.median(ENVOY, case, metric)?)
    };
    for (name, case, metric, bound) in [
        ("added p50, times Envoy's pair", ONE_AWAKE, "added p50", 0.5),
        ("added p99, times Envoy's pair", ONE_AWAKE, "added p99", 0.5),
        (
            "added p50, times Envoy's pair, with halts",
            ONE,
            "added p50",
            0.5,
        ),
        (
            "added p99, times Envoy's pair, with halts",
            ONE,
            "added p99",
            0.5,
        ),
        (
            "CPU per request, times Envoy's pair",
            MANY,
            "CPU per request",
            0.5,
        ),
    ] {
        if let Some(value) = ratio(report, case, metric) {
            report.at_most(name, value, bound);
        }
    }
    if let Some(value) = ratio(report, BULK, "throughput") {
        report.at_most("Envoy's bulk throughput, times ours", 1.0 / value, 1.0);
    }
    for (name, case, metric, bound) in [
        ("idle memory per proxy, MiB", IDLE, "memory per proxy", 12.0),
        (
            "memory per idle tunnel, KiB",
            IDLE,
            "memory per tunnel and proxy",
            8.0,
        ),
        ("cores to take up 1,200 connections/s", STORM, NEAR, 0.25),
    ] {
        if let Some(value) = report.median(RINGWALL, case, metric) {
            report.at_most(name, value, bound);
        }
    }
    if let Some(made) = report.median(RINGWALL, STORM, MADE) {
        let planned = f64::from(STORM_RATE) / made;
        report.at_most(
            "connections/s that were due, times those made",
            planned,
            1.02,
        );
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
    Ok(listener.local_addr().context("finding a free port")?.port())
}

/// Programs of others.
struct Tools {
    wrk: Wrk,
    nginx: PathBuf,
    iperf3: PathBuf,
}

impl Tools {
    fn find(config: &Config) -> Result<Self> {
        let find = |name: &str| {
            config
                .tool(name)
                .with_context(|| format!("{name} is missing: apt-get install -y {name}"))
        };
        Ok(Self {
            wrk: Wrk::find(config)?,
            nginx: find("nginx")?,
            iperf3: find("iperf3")?,
        })
    }

    /// Answers with 32 bytes.
    fn back_end(&self, folder: &Path, port: u16) -> Result<Program> {
        let place = folder.display();
        let text = format!(
            "daemon off;\nworker_processes 1;\nuser root;\npid {place}/nginx.pid;\nerror_log {place}/nginx.error warn;\n\
             events {{ worker_connections 8192; }}\nhttp {{\n  access_log off;\n  keepalive_requests 1000000000;\n  \
             keepalive_timeout 600s;\n  tcp_nodelay on;\n  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ \
             default_type text/plain; return 200 '{ANSWER}'; }} }}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).context("writing nginx's configuration")?;
        let arguments = vec!["-c".to_owned(), file.display().to_string()];
        Ok(Self::program(
            "back end",
            &self.nginx,
            arguments,
            port,
            folder,
        ))
    }

    fn bulk_server(&self, folder: &Path, port: u16) -> Program {
        let arguments = ["-s", "-B", "127.0.0.1", "-p", &port.to_string()];
        let arguments = arguments.map(str::to_owned).to_vec();
        Self::program("bulk", &self.iperf3, arguments, port, folder)
    }

    fn program(
        name: &'static str,
        path: &Path,
        arguments: Vec<String>,
        port: u16,
        folder: &Path,
    ) -> Program {
        Program {
            name,
            path: path.to_owned(),
            arguments,
            port,
            log: folder.join(format!("{name}.log")),
            core: LOAD_CORE,
        }
    }
}
