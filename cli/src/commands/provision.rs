//! `ringwall provision`: for containers, what a supervisor does natively before the first process
//! and beside the running ones. It makes the authority and the secrets, delivers to every component
//! what is its own, and renews the certificates; a container engine starts and watches.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use time::OffsetDateTime;

use super::{StateArgs, runtime};
use crate::commands::up::without_shield;
use crate::composition::{Composition, Profile, policy};
use crate::config::{self, Source};
use crate::error::CliError;
use crate::files;
use crate::interception::{self, Choice};
use crate::output::say;
use crate::probe::Prober;
use crate::provision::Choices;
use crate::provision::delivery;
use crate::provision::intermediate::ExternalRoot;
use crate::provision::rotation::{HOUSEKEEPING, Rotation};
use crate::record::{Condition, Phase, Record};
use crate::render::PREFIX;
use crate::signals::{Signals, Wish};
use crate::site::{self, Site};
use crate::state::{Lock, StateDir};

#[derive(Args, Clone, Debug)]
pub(super) struct ProvisionArgs {
    /// The composition [default: ringwall.yaml here, else the one that is built in]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Demo identities, or none
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    external: ExternalRoot,
    /// Folder with the volume of each component
    #[arg(long, value_name = "DIRECTORY", default_value = site::RUN)]
    run_dir: PathBuf,
    /// Port of the public listener
    #[arg(long, value_name = "PORT")]
    public_port: Option<u16>,
    /// Whether the agent's container loads programs for the kernel; `auto` is `kernel` here, and `userspace` goes with
    /// deploy/compose/userspace.yaml
    #[arg(long, value_enum, default_value_t)]
    interception: interception::Wish,
    /// What the names of control groups begin with, `cgroup_parent` in compose.yaml; of each platform on an engine another one
    #[arg(long, value_name = "NAME", default_value = PREFIX)]
    slice: String,
    /// Only tell whether everything is delivered and fresh: exit code 0, or 1 with the reason
    #[arg(long)]
    healthy: bool,
}

/// Delivers, then renews until it is told to stop.
pub(super) fn run(args: &ProvisionArgs) -> Result<ExitCode, CliError> {
    let state = args.state.open()?;
    if args.healthy {
        return healthy(&state, &args.run_dir);
    }
    let runtime = runtime()?;
    let outcome = runtime.block_on(live(args.clone(), state.clone()));
    // A delivery that is under way is not waited for: every file is replaced whole.
    runtime.shutdown_background();
    if matches!(outcome, Ok(End::Asked)) {
        // Best effort: a record of a process that is gone is recognised as such.
        let _ = std::fs::remove_file(state.record());
    }
    outcome.map(|_| ExitCode::SUCCESS)
}

/// What the delivery leaves behind for the renewals.
struct Delivered {
    rotation: Rotation,
    prober: Prober,
    _lock: Lock,
}

/// How it ended.
enum End {
    /// Asked to, after the delivery.
    Asked,
    /// Asked to, before it was complete.
    Early,
}

async fn live(args: ProvisionArgs, state: StateDir) -> Result<End, CliError> {
    // Process 1 has no default actions: before anybody listens, SIGTERM would be lost.
    let mut signals = Signals::listen()?;
    let delivery = tokio::task::spawn_blocking(move || deliver(&args, &state));
    let mut delivered = tokio::select! {
        delivered = delivery => {
            delivered.map_err(|error| CliError::internal("delivering", error))??
        }
        () = stop(&mut signals) => return Ok(End::Early),
    };
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    loop {
        let renew = tokio::select! {
            wish = signals.next() => match wish {
                Wish::Stop => return Ok(End::Asked),
                Wish::Rotate => true,
            },
            _ = housekeeping.tick() => {
                delivered.rotation.renew_token(OffsetDateTime::now_utc());
                delivered.rotation.is_due(OffsetDateTime::now_utc())
            }
        };
        if renew && delivered.rotation.renew(&delivered.prober).await {
            say("renewed every certificate");
        }
    }
}

async fn stop(signals: &mut Signals) {
    while signals.next().await != Wish::Stop {}
}

/// In containers a database waits for the certificate that the agent delivers, and so for the control plane.
fn fits_containers(file: &str, composition: &Composition) -> Result<(), CliError> {
    let plane = composition.mesh.as_ref().map(|mesh| &mesh.control_plane);
    let store = plane.filter(|plane| plane.is_in_a_database());
    let Some(store) = store.and_then(|plane| plane.store.as_ref()) else {
        return Ok(());
    };
    let at = store.referenced;
    Err(CliError::Composition {
        place: format!("{file}:{}:{}", at.line(), at.column()),
        what: "mesh.control_plane.store is `postgres`, which containers do not have yet: there, the database starts after the control plane".into(),
        fix: "write `store: embedded` and remove `replicas` for containers, or run this composition natively: ringwall up".into(),
    })
}

fn deliver(args: &ProvisionArgs, state: &StateDir) -> Result<Delivered, CliError> {
    let source = config::composition(args.file.as_deref())?;
    let mut composition = Composition::read(&source)?;
    if let Some(port) = args.public_port {
        composition.public.port.value = port;
    }
    composition.policy = config::policy(args.file.as_deref(), &composition)?;
    policy::check(&composition)?;
    fits_containers(&source.name, &composition)?;
    delivery::check_volumes(&mut composition, &args.run_dir)?;
    state.create_own()?;
    let lock = state.lock()?.ok_or_else(|| CliError::State {
        what: format!("another process provisions from {}", state.root().display()),
        fix: "stop it, or give this one its own: --state-dir DIRECTORY".into(),
    })?;
    state.keep_profile(args.profile)?;
    let site = Site::containers(state, &args.run_dir);
    let interception = Choice::in_containers(args.interception, &args.slice);
    let choices = Choices {
        external: args.external.clone(),
        kernel: interception.kernel.clone(),
        prefix: Some(args.slice.clone()),
        ..Choices::default()
    };
    let provisioned = crate::provision::run(&composition, &site, args.profile, &choices)?;
    files::write(&state.composition(), source.text.as_bytes(), 0o600, None)?;
    let prober = Prober::load(state, &composition.trust_domain.value)?;
    let begin = (Phase::Up, Condition::Unwatched);
    let public = site.public_dial(&composition);
    let mut record = Record::new(&composition, &site, args.profile, public, begin)?;
    // A container's interface is no place for a shield yet.
    record.shield = without_shield(&composition, false).map(str::to_owned);
    let meshed = composition.mesh.as_ref();
    record.interception = meshed.map(|_| interception.to_string());
    record.write(state)?;
    welcome(&record, &composition);
    Ok(Delivered {
        rotation: Rotation::new(provisioned),
        prober,
        _lock: lock,
    })
}

/// Logs of containers are kept and collected: no secret stands in them.
fn welcome(record: &Record, composition: &Composition) {
    let engines = composition.engines.len();
    say(&format!(
        "delivered: components {}, engines {engines}; {} once the gateway is ready",
        record.components.len(),
        record.url
    ));
    if record.profile == Profile::Demo {
        say(
            "  sign in with what `docker compose exec provisioner ringwall status --credentials` shows",
        );
    }
    let bundle = record.ca_bundle.display();
    say(&format!(
        "  trust this platform's authority: docker compose cp provisioner:{bundle} ."
    ));
}

/// For the engine's health check: says why not.
fn healthy(state: &StateDir, run: &Path) -> Result<ExitCode, CliError> {
    let started = state.composition();
    let record = Record::read(state)?.filter(|record| record.supervisor().is_alive());
    let text = files::read_if_there(&started)?.filter(|_| record.is_some());
    let Some(text) = text else {
        say("the delivery is not complete yet, or nothing provisions from this state directory");
        return Ok(ExitCode::FAILURE);
    };
    let name = started.display().to_string();
    let mut composition = Composition::read(&Source { name, text })?;
    delivery::check_volumes(&mut composition, run)?;
    let site = Site::containers(state, run);
    match delivery::complaint(&composition, &site, OffsetDateTime::now_utc()) {
        None => Ok(ExitCode::SUCCESS),
        Some(why) => {
            say(&why);
            Ok(ExitCode::FAILURE)
        }
    }
}
