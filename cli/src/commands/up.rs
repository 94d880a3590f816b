//! `ringwall up`, in the order that it happens: composition, lock, what this machine lacks, first
//! start, configuration checks, supervisor.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::{CompositionArgs, StateArgs, check, detach, down, runtime, status};
use crate::cgroups::{Slice, Tier};
use crate::composition::{Component, Composition, Profile, policy};
use crate::config::Source;
use crate::error::CliError;
use crate::interception::{self, Wish};
use crate::output::{self, Format, say};
use crate::postgres::Server;
use crate::probe::Prober;
use crate::provision::Choices;
use crate::provision::intermediate::ExternalRoot;
use crate::record::{Condition, Phase, Record};
use crate::site::Site;
use crate::state::{Lock, StateDir};
use crate::supervisor::{Parts, Supervisor};
use crate::{config, files, ports, provision};

#[derive(Args, Clone, Debug)]
pub(super) struct UpArgs {
    #[command(flatten)]
    pub(super) composition: CompositionArgs,
    #[command(flatten)]
    pub(super) state: StateArgs,
    #[command(flatten)]
    pub(super) external: ExternalRoot,
    /// How to print what runs, once it does
    #[arg(long, short, value_enum, default_value_t)]
    pub(super) output: Format,
    /// Return when the platform is up; it goes on in the background
    #[arg(long)]
    pub(super) detach: bool,
    /// Leave a component that dies as it is (for fault scenarios)
    #[arg(long)]
    pub(super) no_restart: bool,
    /// Who leads components' calls to their proxies
    #[arg(long, value_enum, default_value_t)]
    pub(super) interception: Wish,
    /// The kernel's programs; without it, `ringwall.bpf.o` beside the binaries
    #[arg(long, value_name = "FILE")]
    pub(super) ebpf_object: Option<PathBuf>,
    /// Set by `--detach` for the process in the background
    #[arg(long, hide = true)]
    pub(super) detached: bool,
}

/// Runs the platform until it is told to stop.
pub(super) fn run(args: &UpArgs) -> Result<ExitCode, CliError> {
    let begun = Instant::now();
    if args.detach {
        return detach::run(args);
    }
    if args.detached {
        detach::leave_terminal();
    }
    let (composition, source) = args.composition.load()?;
    let state = args.state.open()?;
    let profile = args.composition.profile;
    state.create(&composition)?;
    let Some(lock) = state.lock()? else {
        return already(&state, args.output);
    };
    state.keep_profile(profile)?;
    down::end_leftovers(&state)?;
    let parts = prepare(composition, &source, state, profile, args)?;
    supervise(parts, lock, begun, args.output)
}

/// Everything before the first process.
fn prepare(
    composition: Composition,
    source: &Source,
    state: StateDir,
    profile: Profile,
    args: &UpArgs,
) -> Result<Parts, CliError> {
    let binaries = config::binaries(args.composition.bin_dir.as_deref())?;
    check::binaries_exist(&composition, &binaries)?;
    let server = composition
        .servers()
        .next()
        .map(|component| Server::find(component, &state))
        .transpose()?;
    ports::check(&composition)?;
    policy::check(&composition)?;
    let database_user = server.as_ref().and_then(Server::user);
    let site = Site::native(&state, &composition);
    let launcher = config::own_binary()?;
    let slice = match composition.mesh {
        Some(_) => Slice::make(&state, &launcher),
        None => None,
    };
    let object = args.ebpf_object.as_deref();
    let interception =
        interception::choose(args.interception, &state, slice.as_ref(), &binaries, object)?;
    let choices = Choices {
        database_user,
        external: args.external.clone(),
        spawned: slice.is_none(),
        kernel: interception.kernel.clone(),
        prefix: None,
    };
    let provisioned = provision::run(&composition, &site, profile, &choices)?;
    check::configs(&composition, &source.name, &state, &binaries)?;
    files::write(&state.composition(), source.text.as_bytes(), 0o600, None)?;
    if let Some(server) = &server {
        let databases: Vec<String> = composition
            .servers()
            .flat_map(Component::databases)
            .collect();
        server.prepare(&databases)?;
    }
    let prober = Prober::load(&state, &composition.trust_domain.value)?;
    let mut record = first_record(&composition, &site, profile)?;
    let tier = slice.as_ref().map_or(Tier::Spawned, |_| Tier::Cgroup);
    record.attestation = composition.mesh.as_ref().map(|_| tier);
    record.interception = composition.mesh.as_ref().map(|_| interception.to_string());
    record.shield = composition
        .mesh
        .as_ref()
        .and_then(|_| without_shield(&composition, interception.reason.is_none()))
        .map(str::to_owned);
    let restarts = !args.no_restart;
    Ok(Parts {
        composition,
        site,
        binaries,
        launcher,
        slice,
        server,
        provisioned,
        prober,
        record,
        restarts,
        kernel: interception.kernel,
    })
}

fn supervise(
    parts: Parts,
    _lock: Lock,
    begun: Instant,
    format: Format,
) -> Result<ExitCode, CliError> {
    let (state, composition) = (parts.site.state().clone(), parts.composition.clone());
    let count = composition.components.len();
    say(&format!(
        "starting {count} components, state in {}",
        state.root().display()
    ));
    runtime()?.block_on(async {
        let supervisor = Supervisor::new(parts)?;
        supervisor
            .run(|record| {
                say(&format!("up in {:.1} s", begun.elapsed().as_secs_f64()));
                let text = match format {
                    Format::Json => record.json()?,
                    Format::Text => status::welcome(record, &composition, &state)?,
                };
                // A closed stdout is no reason to stop a platform.
                output::print(&text).unwrap_or_else(|error| say(&format!("warning: {error}")));
                Ok(())
            })
            .await
    })?;
    say("stopped");
    Ok(ExitCode::SUCCESS)
}

/// A second `up` on the same state directory.
fn already(state: &StateDir, format: Format) -> Result<ExitCode, CliError> {
    let Some(record) = Record::read(state)? else {
        say("Ringwall is being started by another process");
        return Ok(ExitCode::SUCCESS);
    };
    match record.phase {
        Phase::Up => say(&format!(
            "Ringwall runs already (pid {}): {}",
            record.pid, record.url
        )),
        Phase::Starting => say(&format!(
            "Ringwall is being started already (pid {})",
            record.pid
        )),
        Phase::Stopping => {
            return Err(CliError::State {
                what: format!("Ringwall is just stopping (pid {})", record.pid),
                fix: "try again in a moment".into(),
            });
        }
    }
    if format == Format::Json {
        output::print(&record.json()?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn first_record(
    composition: &Composition,
    site: &Site,
    profile: Profile,
) -> Result<Record, CliError> {
    let public = site.public_listen(composition).into_iter().next();
    let public = public.ok_or_else(|| CliError::State {
        what: "this machine has none of the addresses in public.listen".into(),
        fix: "name one that it has".into(),
    })?;
    let begin = (Phase::Starting, Condition::Waiting);
    Record::new(composition, site, profile, public.into(), begin)
}

/// Where the background process prints.
pub(super) fn supervisor_log(state: &StateDir) -> PathBuf {
    state.log("supervisor")
}

/// Why there is no shield, although one is asked for.
pub(super) const NEEDS_KERNEL: &str = "it needs the kernel, which takes no part here (see tier)";

/// Why no shield stands before the public listener.
pub(super) fn without_shield(composition: &Composition, has_kernel: bool) -> Option<&'static str> {
    if composition.public.shield.is_none() {
        return Some("`public.shield` in ringwall.yaml names no interface");
    }
    (!has_kernel).then_some(NEEDS_KERNEL)
}
