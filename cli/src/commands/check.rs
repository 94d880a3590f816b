//! `ringwall check`: whether this machine and the composition can be started and, where the platform
//! runs, whether its mesh is as it should be. By category; what is not good comes with the fix and with
//! the place in the documentation. Nothing is started and nothing in the state directory changes.
//!
//! Read next: `check/finding.rs` for the categories, `check/running.rs` for a platform that runs,
//! `check/containers.rs` for what an engine must offer.

mod containers;
mod finding;
#[cfg(test)]
mod links;
mod running;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use clap::Args;

use finding::{Category, Finding};

use super::{CompositionArgs, Stack, StateArgs};
use crate::composition::{Composition, Profile, Shown, policy};
use crate::engine::Project;
use crate::error::CliError;
use crate::files;
use crate::output::{Format, print};
use crate::postgres::Server;
use crate::record::Record;
use crate::render::Rendering;
use crate::site::Site;
use crate::state::StateDir;
use crate::{config, ports};

#[derive(Args, Clone, Debug)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    composition: CompositionArgs,
    #[command(flatten)]
    state: StateArgs,
    /// Where the platform is to run
    #[arg(long, value_enum, default_value = "native")]
    stack: Stack,
    /// Only the mesh of the platform that runs
    #[arg(long)]
    mesh: bool,
    /// Compose project of the containers
    #[arg(long, value_name = "NAME", default_value = "ringwall")]
    project: String,
    /// Compose file of the containers
    #[arg(long, value_name = "FILE", default_value = "compose.yaml")]
    compose_file: PathBuf,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Checks everything, prints everything, fails when anything is not good.
pub(super) fn run(args: &CheckArgs) -> Result<ExitCode, CliError> {
    let project = Project {
        name: &args.project,
    };
    let findings = match (args.stack, args.mesh) {
        (Stack::Native, true) => mesh(&args.state.open()?)?,
        (Stack::Native, false) => native(args)?,
        (Stack::Containers, true) => containers::mesh(&project),
        (Stack::Containers, false) => {
            containers::findings(&args.composition, &project, &args.compose_file)?
        }
    };
    report(args, &findings)
}

/// Of a platform that runs and has a mesh.
fn mesh(state: &StateDir) -> Result<Vec<Finding>, CliError> {
    let findings = running::findings(state)?;
    if findings.is_empty() {
        return Err(CliError::NotRunning(state.root().to_path_buf()));
    }
    Ok(findings)
}

fn native(args: &CheckArgs) -> Result<Vec<Finding>, CliError> {
    let (composition, _) = args.composition.load()?;
    let state = args.state.open()?;
    let binaries = config::binaries(args.composition.bin_dir.as_deref())?;
    let profile = args.composition.profile;
    let mut findings = vec![
        tools(&composition, &state, &binaries),
        ports_free(&composition, &state),
        memory("memory", available_mib()),
    ];
    findings.extend(configurations(&composition, &state, &binaries, profile)?);
    findings.extend(cases(&composition));
    if profile == Profile::Production {
        findings.extend(refusals(&composition));
    }
    findings.extend(running::findings(&state)?);
    Ok(findings)
}

/// The policy file: valid, and its cases hold.
fn cases(composition: &Composition) -> Option<Finding> {
    let source = composition.policy.as_ref()?;
    Some(match policy::check(composition) {
        Ok(()) => {
            let detail = format!("{} is valid and its cases hold", source.name);
            Finding::good(Category::Policy, "cases", detail)
        }
        Err(error) => Finding::bad(Category::Policy, "cases", error.to_string()),
    })
}

fn report(args: &CheckArgs, findings: &[Finding]) -> Result<ExitCode, CliError> {
    let profile = args.composition.profile;
    let bad = findings.iter().filter(|finding| !finding.ok).count();
    match args.output {
        Format::Json => {
            let json =
                serde_json::json!({ "profile": profile, "ok": bad == 0, "findings": findings });
            super::print_json(&json)?;
        }
        Format::Text => {
            print(finding::text(findings).trim_end())?;
        }
    }
    if bad == 0 {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(CliError::ChecksFailed(bad))
    }
}

/// Refuses when a component's binary is not there.
pub(super) fn binaries_exist(composition: &Composition, folder: &Path) -> Result<(), CliError> {
    for (_, binary) in composition.programs() {
        if !folder.join(&binary).is_file() {
            return Err(CliError::ToolMissing {
                what: format!("the binary {}", folder.join(&binary).display()),
                fix: "build it (cargo xtask up does), or name its folder: --bin-dir DIRECTORY"
                    .into(),
            });
        }
    }
    Ok(())
}

/// Lets every component check its rendered configuration, all at the same time.
pub(super) fn configs(
    composition: &Composition,
    file: &str,
    state: &StateDir,
    binaries: &Path,
) -> Result<(), CliError> {
    let checks = composition.programs().into_iter().map(|(name, binary)| {
        let (program, config) = (binaries.join(binary), state.config(&name));
        (name, thread::spawn(move || ask(&program, &config)))
    });
    // All are started before the first is waited for.
    let checks: Vec<_> = checks.collect();
    let mut refused = Vec::new();
    for (component, check) in checks {
        let answer = check
            .join()
            .unwrap_or_else(|_| Err("the check itself failed".into()));
        if let Err(output) = answer {
            refused.push((component, output));
        }
    }
    let others = refused.len().saturating_sub(1);
    let Some((component, said)) = refused.into_iter().next() else {
        return Ok(());
    };
    let mut output: String = said.lines().map(|line| format!("  │ {line}\n")).collect();
    if others > 0 {
        output.push_str(&format!(
            "  {others} more refuse theirs: `ringwall check` lists all\n"
        ));
    }
    let output = output.trim_end().to_owned();
    Err(CliError::ComponentConfig {
        component,
        output,
        file: file.to_owned(),
    })
}

/// Runs `BINARY --config FILE --check`; the error is what it printed.
fn ask(program: &Path, config: &Path) -> Result<(), String> {
    let output = Command::new(program)
        .arg("--config")
        .arg(config)
        .arg("--check")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(if said.is_empty() {
        format!("ended with {}", output.status)
    } else {
        said
    })
}

fn tools(composition: &Composition, state: &StateDir, binaries: &Path) -> Finding {
    let server = composition
        .components
        .iter()
        .find(|component| component.postgres.is_some());
    let found = binaries_exist(composition, binaries).and_then(|()| {
        server
            .map(|component| Server::find(component, state))
            .transpose()
    });
    let subject = "tools".to_owned();
    match found {
        Ok(_) => Finding::good(
            Category::Machine,
            &subject,
            "binaries and PostgreSQL are there".into(),
        ),
        Err(error) => Finding::bad(Category::Machine, &subject, error.to_string()),
    }
}

fn ports_free(composition: &Composition, state: &StateDir) -> Finding {
    let subject = "ports".to_owned();
    let running = Record::read(state)
        .ok()
        .flatten()
        .filter(|record| record.supervisor().is_alive());
    if let Some(record) = running {
        let detail = format!("held by the running platform (pid {})", record.pid);
        return Finding::good(Category::Machine, &subject, detail);
    }
    let conflicts = ports::conflicts(composition);
    if conflicts.is_empty() {
        return Finding::good(Category::Machine, &subject, "free".into());
    }
    Finding::bad(Category::Machine, &subject, conflicts.join("\n"))
}

/// Memory that the platform takes when it rests is below 500 MB; building and peaks need the same again.
const MEMORY_NEEDED_MIB: u64 = 1024;

fn memory(subject: &str, mib: u64) -> Finding {
    if mib >= MEMORY_NEEDED_MIB {
        return Finding::good(Category::Machine, subject, format!("{mib} MiB"));
    }
    Finding::bad(
        Category::Machine,
        subject,
        format!(
            "{mib} MiB, and {MEMORY_NEEDED_MIB} MiB are needed\n  \
             fix: end something else, or give the (virtual) machine more memory"
        ),
    )
}

/// What the kernel says that programs can still have (proc(5), MemAvailable).
fn available_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// Each component's own verdict on its part, rendered aside.
fn configurations(
    composition: &Composition,
    state: &StateDir,
    binaries: &Path,
    profile: Profile,
) -> Result<Vec<Finding>, CliError> {
    let folder = std::env::temp_dir().join(format!("ringwall-check-{}", std::process::id()));
    files::directory(&folder, 0o700)?;
    let site = Site::native(state, composition);
    let mut findings = Vec::new();
    for rendered in Rendering::new(composition, &site, profile).all()? {
        let subject = rendered.name;
        let path = folder.join(format!("{subject}.yaml"));
        let program = binaries.join(&rendered.binary);
        let answer = files::write(&path, rendered.text.as_bytes(), 0o600, None)
            .map_err(|error| error.to_string())
            .and_then(|()| ask(&program, &path));
        findings.push(match answer {
            Ok(()) => Finding::good(
                Category::Configuration,
                &subject,
                "configuration accepted".into(),
            ),
            Err(detail) => Finding::bad(Category::Configuration, &subject, detail),
        });
    }
    std::fs::remove_dir_all(&folder).map_err(|error| CliError::io("removing", &folder, error))?;
    Ok(findings)
}

/// What production refuses of the composition itself.
fn refusals(composition: &Composition) -> Vec<Finding> {
    let refused = |detail: String| Finding::bad(Category::Production, "composition", detail);
    let mut findings = Vec::new();
    for spec in &composition.secrets {
        let line = spec.holders().referenced.line();
        match spec.shown() {
            Some(Shown::User(name)) => findings.push(refused(format!(
                "line {line}: a generated password for the demo user {name}\n  fix: remove it"
            ))),
            Some(Shown::Client(name)) => findings.push(refused(format!(
                "line {line}: a generated secret for the demo client {name}\n  fix: remove it"
            ))),
            None => {}
        }
    }
    let domain = &composition.public.domain;
    if domain.value == "localhost" || domain.value.ends_with(".localhost") {
        findings.push(refused(format!(
            "line {}: public.domain is `{}`, which only this machine reaches (RFC 6761 §6.3)\n  \
             fix: name the domain that users will see",
            domain.referenced.line(),
            domain.value
        )));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn refused(text: &str) -> Vec<String> {
        let source = Source {
            name: "ringwall.yaml".into(),
            text: text.into(),
        };
        let findings = refusals(&Composition::read(&source).unwrap());
        assert!(findings.iter().all(|finding| !finding.ok));
        findings.into_iter().map(|finding| finding.detail).collect()
    }

    #[test]
    fn production_refuses_demo_identities_and_a_domain_of_this_machine_only() {
        let text = include_str!("../../testdata/small.yaml");
        let details = refused(text);
        assert_eq!(details.len(), 2, "{details:?}");
        assert!(details[0].starts_with("line 41: a generated password for the demo user alice"));
        assert!(
            details[1].starts_with("line 2: public.domain is `localhost`"),
            "{details:?}"
        );
    }

    #[test]
    fn too_little_memory_is_told_with_the_fix() {
        assert!(memory("memory", 1024).ok);
        let finding = memory("memory", 1023);
        assert!(!finding.ok);
        assert!(finding.detail.contains("fix: "), "{}", finding.detail);
    }

    #[test]
    fn a_composition_without_them_is_accepted() {
        let text = include_str!("../../testdata/small.yaml").replace("localhost", "shop.example");
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.contains("shown:"))
            .collect();
        assert_eq!(refused(&lines.join("\n")), Vec::<String>::new());
    }
}
