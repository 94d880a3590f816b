//! What the tests ask of a run.

use std::time::Duration;

use ringwall_plugin_cases::{Kind, Suite};
use ringwall_plugin_host::Limits;
use ringwall_plugin_runner::CaseReport;

use crate::guests::{self, Guest};

/// Adds a header to answers, and takes every configuration.
const OTHER: &str = "sample-c-headers";

/// The template's capabilities and configuration, before some cases.
const TEMPLATE: &str = "
capabilities: {read_headers: [x-tenant], write_headers: [x-tenant], local_response: true}
configuration: {tenants: [acme]}
cases:
";

/// Runs all cases of a plugin; every case that fails is told, not only the first.
pub(crate) fn passes(guest: &Guest) -> Result<(), String> {
    let reports = run(guest, &suite(guest)?)?;
    let failures: Vec<String> = reports
        .iter()
        .filter(|report| !report.passed)
        .map(told)
        .collect();
    if failures.is_empty() {
        return Ok(());
    }
    let (failed, all) = (failures.len(), reports.len());
    Err(format!("{failed} of {all} cases:\n{}", failures.join("\n")))
}

/// The runner itself: cases that the template does not meet are told, each by what differs.
pub(crate) fn tells_what_is_not_met() -> Result<(), String> {
    const CASES: &str = "
  - name: passes
    request: {headers: {x-tenant: acme}}
    expect: {client: {status: 200}, upstream: {path: /}}
  - name: is let through
    request: {headers: {x-tenant: acme}}
    expect: {client: {status: 403}, upstream: {reached: false}}
  - name: is refused
    request: {}
    expect: {client: {status: 200}, upstream: {}}
  - name: is taken
    refused: anything
  - name: says something else
    configuration: {tenants: []}
    refused: another reason
";
    let expected: [&[&str]; 5] = [
        &[],
        &["client.status", "upstream"],
        &["client.status", "upstream"],
        &["configuration"],
        &["log"],
    ];
    for (report, expected) in of_template(TEMPLATE, CASES)?.iter().zip(expected) {
        let places: Vec<&str> = report
            .problems
            .iter()
            .map(|problem| problem.place.as_str())
            .collect();
        if places != expected || report.passed != expected.is_empty() {
            return Err(format!("{}: {places:?}, not {expected:?}", report.name));
        }
    }
    Ok(())
}

/// The suites: each is failed by a plugin that is not the one it is for, in what is exchanged too.
pub(crate) fn tells_plugins_apart() -> Result<(), String> {
    let other = named(OTHER)?;
    let mut blind = Vec::new();
    for guest in guests::guests() {
        if guest.name == OTHER {
            continue;
        }
        let suite = suite(&guest)?;
        let refusals = suite
            .cases
            .iter()
            .filter(|case| matches!(case.kind, Kind::Refused(_)));
        let refusals = refusals.count();
        // It pauses what it may not change, and nobody has to wait for that.
        let limits = Limits {
            pause: Duration::from_millis(200),
            ..Limits::default()
        };
        let reports = run_with(&other.name, &suite, &module(&other)?, &limits)?;
        let failed = reports.iter().filter(|report| !report.passed).count();
        if failed <= refusals {
            blind.push(guest.name.clone());
        }
    }
    if blind.is_empty() {
        return Ok(());
    }
    Err(format!(
        "met by another plugin as well: {}",
        blind.join(", ")
    ))
}

/// Each number is there, and none is what nothing would give.
pub(crate) fn measures() -> Result<(), String> {
    const CASES: &str = "
  - name: one request
    request: {headers: {x-tenant: acme}}
    expect: {client: {status: 200}}
  - name: two requests
    steps:
      - request: {headers: {x-tenant: acme}}
        expect: {client: {status: 200}}
      - after_ms: 200
        request: {headers: {x-tenant: acme}}
        expect: {client: {status: 200}}
";
    let reports = of_template(TEMPLATE, CASES)?;
    let [one, two] = &reports[..] else {
        return Err("two reports".to_owned());
    };
    let gets = |report: &CaseReport| {
        let calls = &report.measured.host_calls;
        calls
            .get("proxy_get_header_map_value")
            .map_or(0, |calls| calls.count)
    };
    if (gets(one), gets(two)) != (1, 2) {
        return Err(format!("header values: {} and {}", gets(one), gets(two)));
    }
    let measured = &two.measured;
    let page = 64 * 1024;
    let plausible = measured.callbacks > one.measured.callbacks
        && measured.memory >= page
        && measured.memory.is_multiple_of(page)
        && !measured.processor_time.is_zero()
        && measured.longest_callback <= measured.processor_time
        && measured.wall.as_millis() < 200
        && measured.refusals.is_empty();
    if plausible {
        return Ok(());
    }
    Err(format!("measured: {measured:#?}"))
}

/// The template without its capabilities: it sees no header, cannot answer, and both are counted.
pub(crate) fn counts_refusals() -> Result<(), String> {
    const BARE: &str = "
configuration: {tenants: [acme]}
cases:
";
    const CASES: &str = "
  - name: one request
    request: {headers: {x-tenant: acme}}
    expect: {client: {status: 200}, upstream: {path: /}}
";
    let reports = of_template(BARE, CASES)?;
    let [report] = &reports[..] else {
        return Err("one report".to_owned());
    };
    let measured = &report.measured;
    let refused: Vec<(&str, u64)> = measured
        .host_calls
        .iter()
        .filter(|(_, calls)| calls.refused > 0)
        .map(|(name, calls)| (*name, calls.refused))
        .collect();
    let expected = [
        ("proxy_get_header_map_value", 1),
        ("proxy_send_local_response", 1),
    ];
    let total: u64 = measured.refusals.values().sum();
    if refused == expected && total == 2 && !report.passed {
        return Ok(());
    }
    Err(format!("refused: {refused:?}, {:?}", measured.refusals))
}

/// A trap fails its own case, with the status that a client sees.
pub(crate) fn survives_traps() -> Result<(), String> {
    let text = r#"(module
        (memory (export "memory") 1)
        (global $seen (mut i32) (i32.const 0))
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (global.set $seen (i32.add (global.get $seen) (i32.const 1)))
            (if (i32.eq (global.get $seen) (i32.const 2)) (then (unreachable)))
            (i32.const 0)))"#;
    let module = wat::parse_str(text).map_err(|error| error.to_string())?;
    let cases = "
cases:
  - name: the second request traps, the third has another instance
    steps:
      - {request: {}, expect: {client: {status: 200}, upstream: {}}}
      - {request: {}, expect: {client: {status: 503}, upstream: {reached: false}}}
      - {request: {}, expect: {client: {status: 200}, upstream: {}}}
  - name: another case
    request: {}
    expect: {client: {status: 200}, upstream: {}}
";
    let suite = Suite::parse(cases).map_err(|error| error.to_string())?;
    let reports = run_with("traps", &suite, &module, &Limits::default())?;
    let [first, second] = &reports[..] else {
        return Err("two reports".to_owned());
    };
    match reports.iter().find(|report| !report.passed) {
        Some(report) => Err(told(report)),
        None if first.measured.failures.len() == 1 && second.measured.failures.is_empty() => Ok(()),
        None => Err(format!("failures: {:?}", first.measured.failures)),
    }
}

fn of_template(head: &str, cases: &str) -> Result<Vec<CaseReport>, String> {
    let suite = Suite::parse(&format!("{head}{cases}")).map_err(|error| error.to_string())?;
    run(&named("template")?, &suite)
}

fn named(name: &str) -> Result<Guest, String> {
    let mut guests = guests::guests().into_iter();
    guests
        .find(|guest| guest.name == name)
        .ok_or_else(|| format!("there is no {name}"))
}

fn suite(guest: &Guest) -> Result<Suite, String> {
    Suite::load(&guest.cases).map_err(|error| format!("{}: {error}", guest.cases.display()))
}

fn run(guest: &Guest, suite: &Suite) -> Result<Vec<CaseReport>, String> {
    run_with(&guest.name, suite, &module(guest)?, &Limits::default())
}

fn module(guest: &Guest) -> Result<Vec<u8>, String> {
    std::fs::read(&guest.module).map_err(|error| {
        format!(
            "missing: {}: {error}; `cargo xtask wasm` builds it",
            guest.module.display()
        )
    })
}

fn run_with(
    name: &str,
    suite: &Suite,
    module: &[u8],
    limits: &Limits,
) -> Result<Vec<CaseReport>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let run = ringwall_plugin_runner::run(name, suite, module, limits, |_| ());
    runtime.block_on(run).map_err(|error| error.to_string())
}

fn told(report: &CaseReport) -> String {
    let CaseReport { name, line, .. } = report;
    let problems = report.problems.iter().map(ToString::to_string);
    let failures = report.measured.failures.iter().cloned();
    let told: Vec<String> = problems.chain(failures).collect();
    format!("  line {line}: {name}\n    {}", told.join("\n    "))
}
