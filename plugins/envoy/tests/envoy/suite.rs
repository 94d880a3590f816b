//! How a suite runs: servers, Envoy, then each case's steps in order, compared one by one.

use std::path::Path;

use ringwall_plugin_cases::{Case, Kind, Observed, Step, Suite};
use tempfile::TempDir;

use crate::client;
use crate::config::{self, Port, Ports};
use crate::guests::{self, Guest};
use crate::process::{Envoy, Listener};
use crate::servers::Stage;

/// Runs all cases of a plugin; every case that fails is told, not only the first.
pub(crate) fn run(guest: &Guest) -> Result<(), String> {
    let suite = Suite::load(&guest.cases);
    let suite = suite.map_err(|error| format!("{}: {error}", guest.cases.display()))?;
    let failures = failures(&suite, &guest.module)?;
    if failures.is_empty() {
        return Ok(());
    }
    let (failed, all) = (failures.len(), suite.cases.len());
    Err(format!("{failed} of {all} cases:\n{}", failures.join("\n")))
}

/// The runner itself: cases that the template does not meet are told, each by what differs.
pub(crate) fn tells_what_is_not_met() -> Result<(), String> {
    const CASES: &str = "
capabilities: {read_headers: [x-tenant], write_headers: [x-tenant], local_response: true}
configuration: {tenants: [acme]}
cases:
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
";
    let guest = guests::guests()
        .into_iter()
        .find(|guest| guest.name == "template");
    let guest = guest.ok_or("the template has no cases")?;
    let suite = Suite::parse(CASES).map_err(|error| error.to_string())?;
    let failures = failures(&suite, &guest.module)?;
    let expected = [
        ["is let through", "client.status", "upstream"],
        ["is refused", "client.status", "upstream"],
        ["is taken", "configuration", ""],
    ];
    let told = failures.len() == expected.len()
        && failures
            .iter()
            .zip(expected)
            .all(|(failure, parts)| parts.iter().all(|part| failure.contains(part)));
    if told {
        return Ok(());
    }
    Err(format!("told was: {failures:#?}"))
}

/// The suites: each is failed by a plugin that is not the one it is for, in what is refused and in what is exchanged.
pub(crate) fn tell_plugins_apart() -> Result<(), String> {
    let guests = guests::guests();
    let other = guests.iter().find(|guest| guest.name == OTHER);
    let other = other
        .ok_or_else(|| format!("there is no {OTHER}"))?
        .module
        .clone();
    let mut blind = Vec::new();
    for guest in guests.iter().filter(|guest| guest.name != OTHER) {
        let suite = Suite::load(&guest.cases).map_err(|error| error.to_string())?;
        let refusals = suite
            .cases
            .iter()
            .filter(|case| matches!(case.kind, Kind::Refused(_)));
        let refusals = refusals.count();
        let failed = failures(&suite, &other)?.len();
        // A line of the test's output: how sharp the suites are.
        eprintln!(
            "{}: {failed} of {} cases fail",
            guest.name,
            suite.cases.len()
        );
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

/// Adds a header to answers, and takes every configuration.
const OTHER: &str = "sample-c-headers";

/// One text for each case that fails.
fn failures(suite: &Suite, module: &Path) -> Result<Vec<String>, String> {
    if !module.is_file() {
        return Err(format!(
            "missing: {}; `cargo xtask wasm` builds it",
            module.display()
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let running = Running::start(suite, module).await?;
        let mut failures = Vec::new();
        for (index, case) in suite.cases.iter().enumerate() {
            let complaints = running.case(index, case).await?;
            if !complaints.is_empty() {
                let Case { name, line, .. } = case;
                failures.push(format!(
                    "  line {line}: {name}\n    {}",
                    complaints.join("\n    ")
                ));
            }
        }
        Ok(failures)
    })
}

struct Running {
    stage: Stage,
    envoy: Envoy,
    listeners: std::collections::BTreeMap<String, Listener>,
    _folder: TempDir,
}

impl Running {
    async fn start(suite: &Suite, module: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| error.to_string();
        let stage = Stage::default();
        let mut ports = Ports {
            upstream: stage.upstream().await.map_err(failed)?,
            clusters: std::collections::BTreeMap::new(),
        };
        for name in suite.clusters() {
            let number = stage.cluster(name).await.map_err(failed)?;
            let http2 = speaks_grpc(suite, name);
            ports
                .clusters
                .insert(name.to_owned(), Port { number, http2 });
        }
        let folder = tempfile::tempdir().map_err(failed)?;
        let listeners = folder.path().join("listeners.json");
        let bootstrap = folder.path().join("envoy.json");
        let module = std::path::absolute(module).map_err(failed)?;
        let text = config::listeners(suite, &module).to_string();
        std::fs::write(&listeners, text).map_err(failed)?;
        let text = config::bootstrap(&ports, &listeners).to_string();
        std::fs::write(&bootstrap, text).map_err(failed)?;
        let count = suite.cases.len();
        let path = folder.path().to_owned();
        let envoy = Envoy::start(&path, &bootstrap).await?;
        let listeners = envoy.listeners(count).await?;
        Ok(Self {
            stage,
            envoy,
            listeners,
            _folder: folder,
        })
    }

    /// What differs, in a case.
    async fn case(&self, index: usize, case: &Case) -> Result<Vec<String>, String> {
        let id = config::id(index);
        let listener = self.listeners.get(&id);
        match (&case.kind, listener) {
            (Kind::Refused(reason), Some(Listener::Refused(_))) => {
                let log = self.envoy.log_of(&id);
                if log.iter().any(|line| line.contains(reason)) {
                    return Ok(Vec::new());
                }
                Ok(vec![format!(
                    "log\n    expected {reason:?}\n    seen     {log:?}"
                )])
            }
            (Kind::Refused(_), _) => Ok(vec![
                "configuration\n    expected refused\n    seen     taken".to_owned(),
            ]),
            (Kind::Exchanges(steps), Some(Listener::At(address))) => {
                let mut complaints = Vec::new();
                for (number, step) in steps.iter().enumerate() {
                    match self.step(&id, case, step, *address).await {
                        Ok(observed) => {
                            let differences = step.expect.differences(&observed);
                            let told = differences.iter();
                            complaints
                                .extend(told.map(|found| format!("step {}: {found}", number + 1)));
                        }
                        Err(error) => complaints.push(format!("step {}: {error}", number + 1)),
                    }
                }
                Ok(complaints)
            }
            (Kind::Exchanges(_), Some(Listener::Refused(why))) => {
                let log = self.envoy.log_of(&id);
                Ok(vec![format!(
                    "configuration\n    expected taken\n    seen     {why}: {log:?}"
                )])
            }
            (Kind::Exchanges(_), None) => Err(format!("Envoy has no listener {id}")),
        }
    }

    async fn step(
        &self,
        id: &str,
        case: &Case,
        step: &Step,
        address: std::net::SocketAddr,
    ) -> Result<Observed, String> {
        {
            let mut scene = self.stage.scene();
            scene.answer = step.upstream.clone();
            scene.clusters = case.clusters.clone();
            scene.upstream = None;
            scene.callouts.clear();
        }
        // Timers of a plugin in Envoy go by the machine's clock.
        tokio::time::sleep(step.after).await;
        let client = client::send(address, step.source, &step.request).await?;
        let scene = self.stage.scene();
        Ok(Observed {
            client,
            upstream: scene.upstream.clone(),
            callouts: scene.callouts.clone(),
            log: self.envoy.log_of(id),
        })
    }
}

/// Envoy has to be told what a cluster speaks.
fn speaks_grpc(suite: &Suite, name: &str) -> bool {
    let clusters = suite
        .cases
        .iter()
        .filter_map(|case| case.clusters.get(name));
    let mut scripts = clusters.flat_map(|cluster| &cluster.scripts);
    scripts.any(|script| script.answer.grpc.is_some())
}
