//! The rounds: subjects take turns, and each figure of a round is one sample.

use std::collections::BTreeMap;
use std::path::Path;

use crate::ground::{Ground, Subject};

/// Connections a round: enough that the clock's resolution and one interrupt are nothing.
const CONNECTIONS: u32 = 4000;
const EXCHANGES: u32 = 20_000;
/// Each turn of the bulk stream; turns are short, so that what disturbs the machine disturbs all subjects.
const BULK_MS: u32 = 400;
const BULK_TURNS: u32 = 3;

/// Subject → figure → samples.
pub(crate) type Samples = BTreeMap<&'static str, BTreeMap<&'static str, Vec<f64>>>;

pub(crate) fn measure(object: &Path, rounds: u32) -> Samples {
    let object = std::fs::read(object).unwrap_or_else(|error| panic!("{object:?}: {error}"));
    let mut subjects = [
        Ground::plain(),
        Ground::redirected(),
        Ground::intercepted(&object, Subject::Capture),
        Ground::intercepted(&object, Subject::Full),
        Ground::intercepted(&object, Subject::Accelerated),
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
pub(crate) fn json(samples: &Samples) -> String {
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
