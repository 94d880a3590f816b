//! Acceleration on this node: tried at start, turned on where this kernel is good enough, watched as long as it is on.
//!
//! Owns: the processes of the trial and of the canary, which are this binary again, and what is published of them. Must not:
//! turn it on without a trial, or again after the canary has found something, until the agent is started anew.
//! Read next: `ringwall_ebpf_loader::acceleration`, docs/ebpf.md.

use std::ffi::OsString;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use ringwall_ebpf_loader::Acceleration;
use ringwall_ebpf_loader::acceleration::canary::Canary;
use ringwall_ebpf_loader::acceleration::trial;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::Shared;

/// `ringwall-agent try-acceleration OBJECT SLICE` prints the verdict.
pub(super) const TRY: &str = "try-acceleration";
/// `ringwall-agent acceleration-canary APP PROXY` answers one line to each.
pub(super) const CANARY: &str = "acceleration-canary";

/// Longer than a trial in which every shape stalls.
const LONGEST_TRIAL: Duration = Duration::from_secs(180);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(5);
/// What takes longer than this has stalled.
const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// The kernel ends it by itself when this has passed without a good look.
const LEASE: Duration = Duration::from_secs(30);

const LOOK: &str = "look";
const FLY: &str = "fly";
const GOOD: &str = "good";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
    reason: String,
}

/// What is known of it, for Prometheus and `ringwall check`: one row, of 1.
#[derive(Clone, Default)]
pub(super) struct Status(Family<StateLabels, Gauge>);

impl Status {
    pub(super) fn register(metrics: &ringwall_service::Metrics) -> Self {
        let own = Self::default();
        metrics.register(
            "kernel_acceleration",
            "1 for what has become of acceleration on loopback (off, trying, on, refused), and why",
            own.0.clone(),
        );
        own.set("off", "not asked for");
        own
    }

    fn set(&self, state: &'static str, reason: &str) {
        self.0.clear();
        let labels = StateLabels {
            state,
            reason: reason.to_owned(),
        };
        self.0.get_or_create(&labels).set(1);
    }

    fn tell(&self, of: &Acceleration) {
        self.set(of.as_str(), of.reason());
        match of {
            Acceleration::Refused(reason) => {
                tracing::warn!(reason, "acceleration is off");
            }
            _ => tracing::info!(state = of.as_str(), reason = of.reason(), "acceleration"),
        }
    }
}

/// What it takes.
pub(super) struct Accelerator {
    pub(super) kernel: Shared,
    pub(super) object: PathBuf,
    pub(super) slice: PathBuf,
    pub(super) status: Status,
}

impl Accelerator {
    /// Tries, turns on, watches. It ends where acceleration is refused, and is not tried again.
    pub(super) async fn run(self) {
        self.status.set("trying", "the trial is under way");
        let verdict = match self.tried().await {
            Ok(verdict) => verdict,
            Err(why) => Acceleration::Refused(why),
        };
        self.status.tell(&verdict);
        if let Acceleration::On(_) = verdict {
            let why = self.watched().await;
            if let Err(error) = self.kernel.lock().decelerate() {
                // The lease ends it.
                tracing::error!(%error, "acceleration cannot be turned off at once");
            }
            let why = format!("turned off until the agent is started again: {why}");
            self.status.tell(&Acceleration::Refused(why));
        }
    }

    async fn tried(&self) -> Result<Acceleration, String> {
        let words = [
            TRY.into(),
            self.object.clone().into(),
            self.slice.clone().into(),
        ];
        let child = spawn(words)?;
        let process = child.id();
        let output = timeout(LONGEST_TRIAL, child.wait_with_output()).await;
        let output = output.map_err(|_| "the trial has stalled".to_owned());
        if output.is_err()
            && let Some(process) = process
        {
            trial::clean(&self.slice, process).map_err(|error| error.to_string())?;
        }
        let output = output?.map_err(|error| format!("the trial: {error}"))?;
        read_verdict(
            &String::from_utf8_lossy(&output.stdout),
            &String::from_utf8_lossy(&output.stderr),
        )
    }

    /// Turns it on and looks again and again; gives why it has to be turned off.
    async fn watched(&self) -> String {
        match self.watch().await {
            Ok(why) | Err(why) => why,
        }
    }

    async fn watch(&self) -> Result<String, String> {
        let [app, proxy] =
            ["app", "proxy"].map(|side| self.slice.join(format!("acceleration-{side}")));
        for group in [&app, &proxy] {
            match std::fs::create_dir(group) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(format!("the canary's group {}: {error}", group.display()));
                }
                _ => {}
            }
        }
        let enrol = |at| {
            let enrolled = self.kernel.lock().enrol_canary(&app, &proxy, at);
            enrolled.map_err(|error| format!("enrolling the canary: {error}"))
        };
        enrol(None)?;
        let mut child = spawn([CANARY.into(), app.clone().into(), proxy.clone().into()])?;
        let (Some(mut asks), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the canary has no pipes".into());
        };
        let mut answers = BufReader::new(answers);
        let at = answer(&mut answers).await?;
        let at = at.parse().map_err(|_| format!("the canary: {at}"))?;
        enrol(Some(at))?;
        ask(&mut asks, FLY).await?;
        let prolong = || {
            let prolonged = self.kernel.lock().accelerate(LEASE);
            prolonged.map_err(|error| error.to_string())
        };
        Ok(look_on(asks, answers, prolong).await)
    }
}

/// A child of this binary that ends with its handle.
fn spawn<const N: usize>(words: [OsString; N]) -> Result<Child, String> {
    let own = std::env::current_exe().map_err(|error| format!("this binary: {error}"))?;
    Command::new(own)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("starting a process: {error}"))
}

/// The first line of what was printed is the state, the second one why.
fn read_verdict(printed: &str, said: &str) -> Result<Acceleration, String> {
    let mut lines = printed.lines();
    let reason = |line: Option<&str>| line.unwrap_or_default().to_owned();
    match lines.next() {
        Some("on") => Ok(Acceleration::On(reason(lines.next()))),
        Some("refused") => Ok(Acceleration::Refused(reason(lines.next()))),
        _ => Err(format!("the trial: {}", said.trim())),
    }
}

/// Prolongs after each good look; gives what was seen instead.
async fn look_on(
    mut asks: impl AsyncWrite + Unpin,
    mut answers: impl AsyncBufRead + Unpin,
    mut prolong: impl FnMut() -> Result<(), String>,
) -> String {
    loop {
        if let Err(why) = prolong() {
            return why;
        }
        let look = async {
            ask(&mut asks, LOOK).await?;
            answer(&mut answers).await
        };
        match timeout(LONGEST_LOOK, look).await {
            Err(_) => {
                return format!(
                    "the canary's connection has stalled for {} s",
                    LONGEST_LOOK.as_secs()
                );
            }
            Ok(Err(why)) => return why,
            Ok(Ok(said)) if said == GOOD => {}
            Ok(Ok(said)) => return format!("the canary: {said}"),
        }
        sleep(PAUSE).await;
    }
}

async fn ask(asks: &mut (impl AsyncWrite + Unpin), word: &str) -> Result<(), String> {
    let asked = asks.write_all(format!("{word}\n").as_bytes()).await;
    asked.map_err(|error| format!("the canary has ended: {error}"))
}

async fn answer(answers: &mut (impl AsyncBufRead + Unpin)) -> Result<String, String> {
    let mut line = String::new();
    match answers.read_line(&mut line).await {
        Ok(0) => Err("the canary has ended".into()),
        Ok(_) => Ok(line.trim_end().to_owned()),
        Err(error) => Err(format!("the canary: {error}")),
    }
}

/// The trial's process.
pub(super) fn try_it(object: &Path, slice: &Path) -> Result<ExitCode, String> {
    let object = std::fs::read(object).map_err(|error| format!("{}: {error}", object.display()))?;
    let trial = trial::try_out(&object, slice).map_err(|error| error.to_string())?;
    let verdict = trial.verdict();
    say(&format!("{}\n{}", verdict.as_str(), verdict.reason()))?;
    Ok(ExitCode::SUCCESS)
}

/// The canary's process. It ends with its input.
pub(super) fn fly(app: &Path, proxy: &Path) -> Result<ExitCode, String> {
    let mut canary = Canary::listen(proxy).map_err(|error| error.to_string())?;
    let at = canary.address().map_err(|error| error.to_string())?;
    say(&at.to_string())?;
    for line in std::io::stdin().lock().lines() {
        match line.map_err(|error| error.to_string())?.as_str() {
            FLY => canary.fly(app).map_err(|error| error.to_string())?,
            _ => match canary.look() {
                Ok(()) => say(GOOD)?,
                Err(seen) => say(&seen)?,
            },
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    said.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::io::{duplex, split};

    use super::*;

    /// A canary with these answers, after which it says nothing; gives why acceleration ended, and how often it was prolonged.
    async fn watched(said: &[&str], stays: bool) -> (String, u32) {
        let (ours, theirs) = duplex(1024);
        let (answers, asks) = split(ours);
        let (mut read, mut write) = split(theirs);
        for line in said {
            write
                .write_all(format!("{line}\n").as_bytes())
                .await
                .unwrap();
        }
        if !stays {
            write.shutdown().await.unwrap();
        }
        let swallow = tokio::spawn(async move {
            let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
            write
        });
        let mut prolonged = 0;
        let why = look_on(asks, BufReader::new(answers), || {
            prolonged += 1;
            Ok(())
        })
        .await;
        swallow.abort();
        (why, prolonged)
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_is_not_good_ends_it() {
        let (why, prolonged) = watched(&[GOOD, GOOD, "half-close: another byte at 7"], true).await;
        assert_eq!(
            (why.as_str(), prolonged),
            ("the canary: half-close: another byte at 7", 3)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_ends_it() {
        let (why, prolonged) = watched(&[GOOD], true).await;
        assert_eq!(
            (why.as_str(), prolonged),
            ("the canary's connection has stalled for 10 s", 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_canary_that_has_ended_ends_it() {
        let (why, prolonged) = watched(&[GOOD], false).await;
        assert_eq!((why.as_str(), prolonged), ("the canary has ended", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_prolonged_ends_it() {
        let (asks, answers) = (tokio::io::sink(), BufReader::new(tokio::io::empty()));
        let why = look_on(asks, answers, || Err("no map".into())).await;
        assert_eq!(why, "no map");
    }

    #[test]
    fn the_verdict_is_what_was_printed_and_anything_else_is_none() {
        assert_eq!(
            read_verdict("on\nping-pong 1.96×\n", ""),
            Ok(Acceleration::On("ping-pong 1.96×".into()))
        );
        assert_eq!(
            read_verdict("refused\nstalled\n", ""),
            Ok(Acceleration::Refused("stalled".into()))
        );
        assert_eq!(
            read_verdict("", "no object\n"),
            Err("the trial: no object".into())
        );
    }

    #[test]
    fn one_state_is_published_at_a_time() {
        let status = Status::default();
        status.set("trying", "the trial is under way");
        status.tell(&Acceleration::Refused("stalled".into()));
        let labels = |state, reason: &str| StateLabels {
            state,
            reason: reason.into(),
        };
        assert_eq!(
            status
                .0
                .get(&labels("refused", "stalled"))
                .map(|row| row.get()),
            Some(1)
        );
        assert!(
            status
                .0
                .get(&labels("trying", "the trial is under way"))
                .is_none()
        );
    }
}
