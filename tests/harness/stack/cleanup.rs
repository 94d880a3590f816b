//! Nothing stays behind: after an interrupt, and after an earlier run that was killed.
//!
//! Owns: the list of what exists now, the two signals, and the search for what dead runs left.
//! A project is named `ringwall-e2e-<pid>-<n>` and everything else that this run makes at the engine
//! has the label `ringwall.e2e=<pid>`, so that whose it is can be told from the outside.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use super::{engine, native};

const PREFIX: &str = "ringwall-e2e-";
/// The label of containers and networks beside the projects.
pub const LABEL: &str = "ringwall.e2e";
const PROJECT: &str = "com.docker.compose.project";
/// How long an interrupted run may take to remove what it made.
const PATIENCE: Duration = Duration::from_secs(60);
/// As by a shell: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

static INTERRUPTION: AtomicBool = AtomicBool::new(false);
static LEFT: Mutex<Vec<(u64, Leftover)>> = Mutex::new(Vec::new());

/// What must go when the run ends in any way.
#[derive(Debug, Clone)]
pub enum Leftover {
    Process { pid: i32, state: PathBuf },
    Project { name: String, state: PathBuf },
}

/// While it lives, an interrupt removes what it stands for.
#[derive(Debug)]
pub struct Ticket(u64);

impl Ticket {
    /// From now on it may stay.
    pub fn forget(&self) {
        LEFT.lock().retain(|(number, _)| *number != self.0);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Puts `leftover` on the list.
pub fn remember(leftover: Leftover) -> Ticket {
    let mut left = LEFT.lock();
    let number = left.last().map_or(0, |(number, _)| number + 1);
    left.push((number, leftover));
    Ticket(number)
}

/// What the names of this process's projects and folders begin with.
pub fn prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

/// The label by which this process's other containers and networks are found.
pub fn label() -> String {
    format!("{LABEL}={}", std::process::id())
}

/// Removes everything and exits with 130 on SIGINT or SIGTERM. The handlers are not blocked signals:
/// a mask would be inherited by everything that is started from here.
pub fn on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        INTERRUPTION.store(true, Ordering::SeqCst);
        eprintln!("\ninterrupted: removing the platform under test");
        // What would be made after the removal would stay.
        end_engine_commands();
        remove_all();
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

/// Does not return after an interrupt: what the scenarios say of a platform that is being removed
/// is nothing, and the exit code is the interrupt's.
pub fn yield_to_interrupt() {
    while INTERRUPTION.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn remove_all() {
    let left: Vec<Leftover> = LEFT.lock().iter().map(|(_, one)| one.clone()).collect();
    let mut containers = false;
    for leftover in left {
        match leftover {
            Leftover::Process { pid, state } => {
                let deadline = Instant::now() + PATIENCE;
                // It may have got the terminal's own signal already.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                while native::is_alive(pid) && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(50));
                }
                let _ = std::fs::remove_dir_all(state);
            }
            Leftover::Project { name, state } => {
                containers = true;
                remove_project(&name);
                let _ = std::fs::remove_dir_all(state);
            }
        }
    }
    if containers {
        remove_labelled(std::process::id());
    }
}

/// Removes what runs whose process is dead left at the engine, and their folders.
pub fn sweep() -> Result<()> {
    let format = format!("{{{{.Label \"{PROJECT}\"}}}}");
    let filter = format!("label={PROJECT}");
    let mut projects = Vec::new();
    for list in [&["ps", "-a"][..], &["network", "ls"], &["volume", "ls"]] {
        let arguments = [list, &["--filter", &filter, "--format", &format]].concat();
        projects.extend(engine::lines(&arguments)?);
    }
    projects.sort();
    projects.dedup();
    for project in projects {
        if owner(&project).is_some_and(is_dead) {
            eprintln!("removing {project}, which an earlier run left");
            remove_project(&project);
        }
    }
    let filter = format!("label={LABEL}");
    let format = format!("{{{{.Label \"{LABEL}\"}}}}");
    for list in [&["ps", "-a"][..], &["network", "ls"]] {
        let arguments = [list, &["--filter", &filter, "--format", &format]].concat();
        for pid in engine::lines(&arguments)? {
            if let Some(pid) = pid.parse().ok().filter(|pid| is_dead(*pid)) {
                remove_labelled(pid);
            }
        }
    }
    for entry in std::fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(is_dead) && entry.path().join(MARK).is_file() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Stands in a folder that nobody asked to keep.
pub const MARK: &str = ".remove-with-its-run";

/// Marks `folder` as one that goes with its run, however that ends.
pub fn mark(folder: &Path) -> Result<()> {
    Ok(std::fs::write(folder.join(MARK), "")?)
}

/// The process that `ringwall-e2e-<pid>-<n>` belongs to.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    rest.split('-').next()?.parse().ok()
}

fn is_dead(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| !native::is_alive(pid))
}

/// Containers, networks and volumes of a project, by their labels: no file is needed for that.
pub fn remove_project(name: &str) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let down = [
            "compose",
            "--project-name",
            name,
            "down",
            "--volumes",
            "--remove-orphans",
            "--timeout",
            "2",
        ];
        let done = engine::docker(&down);
        match left_of(name) {
            Ok(left) if left.is_empty() => return,
            _ => {
                if let Err(error) = done {
                    eprintln!("{error:#}");
                }
            }
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    eprintln!(
        "could not remove the project {name}: remove it with `docker compose -p {name} down -v`"
    );
}

/// Every container, network and volume of a project that exists.
pub fn left_of(project: &str) -> Result<Vec<String>> {
    let filter = format!("label={PROJECT}={project}");
    let mut left = Vec::new();
    for (what, list) in [
        ("container", &["ps", "-a", "--format", "{{.Names}}"][..]),
        ("network", &["network", "ls", "--format", "{{.Name}}"]),
        ("volume", &["volume", "ls", "--format", "{{.Name}}"]),
    ] {
        let found = engine::lines(&[list, &["--filter", &filter]].concat())?;
        left.extend(found.into_iter().map(|name| format!("{what} {name}")));
    }
    Ok(left)
}

/// Containers, networks and images that `pid` made beside its projects.
pub fn remove_labelled(pid: u32) {
    let filter = format!("label={LABEL}={pid}");
    let removals: [(&[&str], &[&str]); 3] = [
        (&["ps", "-aq"], &["rm", "-f"]),
        (&["network", "ls", "-q"], &["network", "rm"]),
        (&["images", "-q"], &["rmi", "-f"]),
    ];
    for (list, remove) in removals {
        let found = engine::lines(&[list, &["--filter", &filter]].concat()).unwrap_or_default();
        for one in &found {
            // Gone meanwhile is as good.
            let _ = engine::docker(&[remove, &[one.as_str()]].concat());
        }
    }
}

/// Ends the engine's commands that this process has started and that still run.
fn end_engine_commands() {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // pid (name) state parent …
        let Some((name, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let ours = rest.split_whitespace().nth(1) == Some(own.as_str());
        let pid = process.file_name().to_string_lossy().parse();
        if let (true, true, Ok(pid)) = (ours, name.ends_with("(docker"), pid) {
            // Ended by itself is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}
