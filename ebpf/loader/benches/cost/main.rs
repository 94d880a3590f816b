//! What interception costs a connection: `cargo xtask bench ebpf` builds and starts this, and reports.
//!
//! `cost OBJECT ROUNDS` prints one JSON object: for each subject and figure, one sample a round. Subjects take turns within a
//! round, each in a network namespace of its own, so that no rule of the machine's weighs on one of them: no interception at
//! all, an nftables REDIRECT (what a mesh without eBPF does), our capture alone, and capture with enforcement. Client and
//! server have a core each. Next: `ground.rs` (groups and namespaces), `worker.rs` (what runs in them).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement ends where anything fails, and prints its report"
)]

mod ground;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;

use ground::{Ground, Subject};

/// Connections a round: enough that the clock's resolution and one interrupt are nothing.
const CONNECTIONS: u32 = 4000;
const EXCHANGES: u32 = 20_000;
/// Each turn of the bulk stream; turns are short, so that what disturbs the machine disturbs all subjects.
const BULK_MS: u32 = 400;
const BULK_TURNS: u32 = 3;

/// Subject → figure → samples.
type Samples = BTreeMap<&'static str, BTreeMap<&'static str, Vec<f64>>>;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Which cargo adds.
    let words = words.iter().filter(|word| *word != "--bench");
    let words: Vec<&str> = words.map(String::as_str).collect();
    match words.as_slice() {
        ["worker", core, group] => worker::run(core, group),
        [object, rounds] => {
            let samples = measure(Path::new(object), rounds.parse().unwrap());
            println!("{}", json(&samples));
        }
        _ => eprintln!("usage: cost OBJECT ROUNDS; see `cargo xtask bench ebpf`"),
    }
}

fn measure(object: &Path, rounds: u32) -> Samples {
    let object = std::fs::read(object).unwrap_or_else(|error| panic!("{object:?}: {error}"));
    let mut subjects = [
        Ground::plain(),
        Ground::redirected(),
        Ground::intercepted(&object, Subject::Capture),
        Ground::intercepted(&object, Subject::Full),
    ];
    let mut samples = Samples::new();
    for ground in &mut subjects {
        ground.connects(CONNECTIONS / 4);
    }
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let turns = subjects.len();
        // Whoever comes first in a round comes last in the next one.
        let order = |turn: usize| (turn + round as usize) % turns;
        for turn in 0..turns {
            let ground = &mut subjects[order(turn)];
            let figure = ground.connects(CONNECTIONS);
            add(&mut samples, ground.subject, "connect_ns", figure);
        }
        for turn in 0..turns {
            let ground = &mut subjects[order(turn)];
            let figure = ground.exchanges(EXCHANGES);
            add(&mut samples, ground.subject, "exchange_p50_ns", figure);
        }
        let mut bulk = vec![0.0; turns];
        for _ in 0..BULK_TURNS {
            for turn in 0..turns {
                let number = order(turn);
                bulk[number] += subjects[number].bulk(BULK_MS);
            }
        }
        for (ground, sum) in subjects.iter().zip(bulk) {
            let figure = sum / f64::from(BULK_TURNS);
            add(&mut samples, ground.subject, "bulk_bytes_per_s", figure);
        }
    }
    samples
}

fn add(samples: &mut Samples, subject: Subject, figure: &'static str, sample: f64) {
    let figures = samples.entry(subject.name()).or_default();
    figures.entry(figure).or_default().push(sample);
}

/// Names of ours and finite numbers: nothing needs escaping.
fn json(samples: &Samples) -> String {
    let figures = |figures: &BTreeMap<&str, Vec<f64>>| {
        let lists = figures
            .iter()
            .map(|(name, list)| format!("{name:?}:{list:?}"));
        lists.collect::<Vec<_>>().join(",")
    };
    let subjects = samples
        .iter()
        .map(|(name, of_subject)| format!("{name:?}:{{{}}}", figures(of_subject)));
    format!("{{{}}}", subjects.collect::<Vec<_>>().join(","))
}
