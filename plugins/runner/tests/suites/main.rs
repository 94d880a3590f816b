//! Every plugin of ours with its own cases in our own host: the same files that `plugins/envoy` runs in a real Envoy.
//!
//! `cargo xtask wasm` builds the modules; a test that lacks one fails with its name.

#[path = "../../../envoy/tests/envoy/guests.rs"]
mod guests;
mod judged;

use libtest_mimic::{Arguments, Failed, Trial};

type Test = fn() -> Result<(), String>;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = guests::guests()
        .into_iter()
        .map(|guest| {
            let name = guest.name.replace('-', "_");
            Trial::test(
                format!("r94_{name}_gives_the_same_answers_in_our_host"),
                move || judged::passes(&guest).map_err(Failed::from),
            )
        })
        .collect();
    let judged: [(&str, Test); 6] = [
        ("r94_every_module_has_cases", guests::every_module_has_cases),
        (
            "r93_a_case_that_is_not_met_is_told",
            judged::tells_what_is_not_met,
        ),
        (
            "r93_every_suite_tells_its_plugin_from_another",
            judged::tells_plugins_apart,
        ),
        (
            "r93_host_calls_time_and_memory_are_measured",
            judged::measures,
        ),
        (
            "r90_what_is_not_declared_is_refused_and_counted",
            judged::counts_refusals,
        ),
        (
            "r91_a_plugin_that_traps_fails_its_case_and_no_other",
            judged::survives_traps,
        ),
    ];
    trials.extend(
        judged
            .into_iter()
            .map(|(name, test)| Trial::test(name, move || test().map_err(Failed::from))),
    );
    libtest_mimic::run(&arguments, trials).exit();
}
