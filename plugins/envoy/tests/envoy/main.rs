//! Every plugin of ours with its own cases in a real Envoy: one Envoy for each plugin, one listener for each case.
//!
//! `cargo xtask wasm` builds the modules, `cargo xtask setup --for test` fetches Envoy; a test that lacks one fails with
//! its name. Read next: `suite.rs`, how a suite runs; `config.rs`, what Envoy is told.

mod client;
mod config;
mod guests;
mod process;
mod restriction;
mod servers;
mod suite;
mod tools;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = guests::guests()
        .into_iter()
        .map(|guest| {
            let name = guest.name.replace('-', "_");
            Trial::test(
                format!("r94_{name}_gives_the_same_answers_in_envoy"),
                move || suite::run(&guest).map_err(Failed::from),
            )
        })
        .collect();
    trials.push(Trial::test("r94_every_module_has_cases", || {
        guests::every_module_has_cases().map_err(Failed::from)
    }));
    trials.push(Trial::test("r94_a_case_that_is_not_met_is_told", || {
        suite::tells_what_is_not_met().map_err(Failed::from)
    }));
    trials.push(Trial::test(
        "r94_every_suite_tells_its_plugin_from_another",
        || suite::tell_plugins_apart().map_err(Failed::from),
    ));
    libtest_mimic::run(&arguments, trials).exit();
}
