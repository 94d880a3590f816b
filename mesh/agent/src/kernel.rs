//! The kernel's side of the mesh on this node: it leads workloads to their proxies and refuses everything else.
//!
//! Owns: which programs are at work, the enrolment of control groups, what the control plane allows them to reach, and the report of what the kernel
//! has refused. What is pinned holds without this process: an agent that is killed opens nothing, and its successor takes
//! over. Must not: decide (`ebpf/common` does, in the kernel), or allow what no edge allows.
//! Read next: `kernel/groups.rs` (whose groups), `kernel/reach.rs` (what may be reached), `kernel/report.rs` (what was refused), docs/ebpf.md.

mod acceleration;
mod groups;
mod reach;
mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringwall_ebpf_loader::{Attach, Error, Kernel, Slice, Tier};
use ringwall_observe::Observer;
use ringwall_service::{App, Shell, StartError};

use self::acceleration::Accelerator;
use self::groups::{Found, Keeper, Names};
use self::reach::Follower;
use self::report::Metrics;
use crate::config::kernel::{AccelerationWish, Groups, KernelConfig};
use crate::plane::ControlPlane;
use crate::shield::Edge;

/// Between two readings of the kernel's counters.
const READING: Duration = Duration::from_secs(2);

/// The programs and maps, shared by what changes them and what reads them. No lock is held across an await.
type Shared = Arc<Mutex<Kernel>>;

/// Loads or takes over the programs, enrols every group, and adds to `app` what keeps them in step.
pub(crate) async fn start(
    app: App,
    config: &KernelConfig,
    shell: &Shell,
    plane: ControlPlane,
    (state, edge): (&Path, Option<Arc<Edge>>),
) -> Result<App, StartError> {
    let object = std::fs::read(&config.object).map_err(|error| {
        StartError::config(format!(
            "kernel.object: {}: {error}\n  expected: the programs for the kernel\n  fix: build them with `cargo xtask ebpf`",
            config.object.display()
        ))
    })?;
    let (placed, attach) = groups::placed(config).map_err(|why| refused(&why))?;
    groups::make(&placed).map_err(|error| refused(&error))?;
    let names = Names::of(&placed).await;
    let kernel = enrolled(&object, &placed, attach, names.found());
    let mut kernel = kernel.map_err(|error| refused(&error))?;
    tracing::info!(
        tier = kernel.tier().as_str(),
        reason = kernel.tier().reason(),
        workloads = config.workloads.len(),
        "the kernel captures and enforces"
    );
    let events = kernel.events().map_err(|error| refused(&error))?;
    let metrics = Metrics::register(&shell.metrics, kernel.tier());
    let kernel: Shared = Arc::new(Mutex::new(kernel));
    let mut app = accelerated(app, config, shell, &kernel);
    let keeper = Keeper::new(Arc::clone(&kernel), placed, names);
    let follower = Follower::open(Arc::clone(&kernel), state, keeper.named());
    if config.groups == Groups::Engine {
        app = app.background("groups", keeper.run());
    }
    let known = follower.known();
    let mut app = app
        .background("reach", follower.run(plane))
        .background("kernel counters", report::count(kernel, metrics, READING))
        .ready_check("kernel", move || {
            let known = *known.borrow();
            async move {
                known
                    .then_some(())
                    .ok_or_else(|| "the control plane has not said what may be reached".to_owned())
            }
        });
    let observer = Observer::new(shell.spiffe_id().path(), &[]);
    let mut routes = ringwall_observe::flows(Arc::clone(&observer));
    if let Some(edge) = edge {
        routes = routes.merge(edge.routes());
        app = edge.join(app);
    }
    app = app.admin(routes);
    if let Some(events) = events {
        app = app.background("kernel events", report::tell(events, observer));
    }
    Ok(app)
}

/// Publishes what has become of acceleration, and tries it where it is asked for.
fn accelerated(app: App, config: &KernelConfig, shell: &Shell, kernel: &Shared) -> App {
    let status = acceleration::Status::register(&shell.metrics);
    if config.acceleration == AccelerationWish::Off {
        return app;
    }
    let accelerator = Accelerator {
        kernel: Arc::clone(kernel),
        object: config.object.clone(),
        slice: config.slice.clone(),
        status,
    };
    app.background("acceleration", accelerator.run())
}

fn enrolled(
    object: &[u8],
    config: &KernelConfig,
    attach: Attach,
    names: &Found,
) -> Result<Kernel, Error> {
    let slice = Slice {
        path: config.slice.clone(),
        pins: config.pins.clone(),
        attach,
    };
    let mut kernel = Kernel::open(object, slice)?;
    // What a predecessor has enrolled, and nobody names any more, goes.
    groups::enrol(&mut kernel, config, names)?;
    Ok(kernel)
}

fn refused(error: &dyn std::fmt::Display) -> StartError {
    StartError::config(format!(
        "kernel: {error}\n  fix: run the agent with the privileges that docs/ebpf.md names, or take `kernel` out: workloads then use their \
         proxies' explicit addresses"
    ))
}

/// `ringwall-agent try-kernel OBJECT SLICE`: whether the kernel can take part here.
const TRY_KERNEL: &str = "try-kernel";

/// What this binary does in place of being an agent, where its words say so.
pub(crate) fn errand(words: &[OsString]) -> Option<ExitCode> {
    if let [word, pins] = words
        && word.to_str() == Some(RELEASE)
    {
        return Some(ended(release(Path::new(pins))));
    }
    let [word, first, second] = words else {
        return None;
    };
    let (first, second) = (Path::new(first), Path::new(second));
    let done = match word.to_str()? {
        TRY_KERNEL => rehearse(first, second).map(|()| ExitCode::SUCCESS),
        acceleration::TRY => acceleration::try_it(first, second),
        acceleration::CANARY => acceleration::fly(first, second),
        _ => return None,
    };
    Some(ended(done))
}

fn ended(done: Result<ExitCode, String>) -> ExitCode {
    done.unwrap_or_else(|why| {
        eprintln!("{why}");
        ExitCode::FAILURE
    })
}

/// `ringwall-agent release PINS`: the end of a platform's interception, where no supervisor sees to it. Natively `ringwall up`
/// does.
const RELEASE: &str = "release";

fn release(pins: &Path) -> Result<ExitCode, String> {
    Kernel::remove(pins).map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Whether this kernel and our privileges do it all: everything is loaded, attached to a group of its own below `slice`, and
/// taken away again.
///
/// # Errors
/// In words, why not.
fn rehearse(object: &Path, slice: &Path) -> Result<(), String> {
    if let Tier::Userspace(why) = Kernel::prospect() {
        return Err(why);
    }
    let object = std::fs::read(object).map_err(|error| format!("{}: {error}", object.display()))?;
    let group = slice.join(format!("rehearsal-{}", std::process::id()));
    std::fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
    let group = Rehearsal(group);
    let pins = Path::new("/sys/fs/bpf").join(format!("ringwall-rehearsal-{}", std::process::id()));
    let tried = Kernel::open(
        &object,
        Slice {
            path: group.0.clone(),
            pins: pins.clone(),
            attach: Attach::Slice,
        },
    );
    let tier = tried.map(|kernel| kernel.tier().clone());
    let removed = Kernel::remove(&pins);
    match (tier, removed) {
        (Ok(Tier::Full), Ok(())) => Ok(()),
        (Ok(tier), Ok(())) => Err(format!(
            "{}: {}",
            tier.as_str(),
            tier.reason().unwrap_or_default()
        )),
        (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
    }
}

/// A control group that goes when this does.
struct Rehearsal(PathBuf);

impl Drop for Rehearsal {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
