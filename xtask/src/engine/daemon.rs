//! Our own dockerd, for as long as a command takes.
//!
//! A keeper process starts it and ends it. The keeper reads a pipe whose other end this process alone holds: however
//! we end (done, failed, Ctrl-C, killed), the pipe closes, and the keeper removes the containers and ends dockerd. It
//! stands in a process group of its own, so that Ctrl-C does not reach it.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::places::{Places, last_lines, other_dockerd, quietly};
use crate::config::Config;
use crate::process::{human, run, say};
use crate::setup::privilege::Privilege;

/// How long dockerd may take to answer.
const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
const LOG_LINES: usize = 12;

/// A dockerd of our own with its keeper.
pub(crate) struct Daemon {
    keeper: Child,
    places: Places,
}

impl Daemon {
    /// Starts dockerd and waits until it answers.
    pub(super) fn start(config: &Config, client: &Path) -> Result<Self> {
        let places = Places::of(config);
        let privilege =
            Privilege::find(config).context("dockerd needs root, and there is no sudo")?;
        fs::create_dir_all(&places.data).context("making the engine's folder")?;
        let lock = lock(&places.lock)?;
        places.clear(&privilege)?;
        if let Some((pid, command)) = other_dockerd() {
            bail!(
                "another dockerd runs in this network namespace (pid {pid}: {command}) and does not answer here; \
                 a second one would take its packet rules away: set DOCKER_HOST to its socket"
            );
        }
        let mut folder = fs::DirBuilder::new();
        let made = folder.mode(0o700).create(&places.run);
        made.with_context(|| format!("making {}", places.run.display()))?;
        let started = Instant::now();
        say(&format!(
            "engine: starting dockerd, log in {}",
            places.log.display()
        ));
        // The name of our own file may be another file's by now: a build of the workspace replaces it.
        let keeper = Command::new("/proc/self/exe")
            .arg("keep-engine")
            .stdin(Stdio::piped())
            // The lock is held as long as somebody has this file open: by the keeper to its end.
            .stdout(lock)
            .process_group(0)
            .spawn()
            .context("starting the engine's keeper")?;
        let mut daemon = Self { keeper, places };
        daemon.wait_until_it_answers(client)?;
        say(&format!("engine: ready in {}", human(started.elapsed())));
        Ok(daemon)
    }

    pub(super) fn host(&self) -> String {
        self.places.host()
    }

    fn wait_until_it_answers(&mut self, client: &Path) -> Result<()> {
        let until = Instant::now() + START;
        let client = client.to_path_buf();
        while Instant::now() < until {
            if let Some(status) = self.keeper.try_wait().context("looking at the keeper")? {
                let said = last_lines(&self.places.log, LOG_LINES)?;
                bail!("dockerd ended ({status}); its last lines:\n    {said}");
            }
            if self.places.socket().exists() && super::ask(&client, &self.host()).is_ok() {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        let said = last_lines(&self.places.log, LOG_LINES)?;
        bail!(
            "dockerd did not answer within {}; its last lines:\n    {said}",
            human(START)
        )
    }

    /// Ends it and says when that went wrong.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.keeper.stdin.take());
        let status = self.keeper.wait().context("waiting for the engine's end")?;
        if !status.success() {
            bail!(
                "the engine did not end cleanly; its log: {}",
                self.places.log.display()
            );
        }
        Ok(())
    }
}

impl Drop for Daemon {
    /// After an error on the way: the pipe closes here, and the command ends when the engine has.
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// One engine per data root: a second command waits for the end of the first.
fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    if file.try_lock().is_err() {
        say("engine: another `cargo xtask` uses it; waiting for that one's end");
        file.lock().context("waiting for the engine")?;
    }
    Ok(file)
}

/// The hidden command `keep-engine`: dockerd runs until our standard input ends.
pub(crate) fn keep(config: &Config) -> Result<()> {
    let places = Places::of(config);
    let privilege = Privilege::find(config).context("dockerd needs root, and there is no sudo")?;
    let mut dockerd = dockerd(config, &places, &privilege)?;
    let (sender, ended) = mpsc::sync_channel::<()>(1);
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while std::io::stdin()
            .lock()
            .read(&mut bytes)
            .is_ok_and(|read| read > 0)
        {}
        drop(sender);
    });
    let died = loop {
        match ended.recv_timeout(POLL) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break None,
        }
        if let Some(status) = dockerd.try_wait().context("looking at dockerd")? {
            break Some(status);
        }
    };
    if let Some(status) = died {
        places.clear(&privilege)?;
        bail!("dockerd ended by itself: {status}");
    }
    remove_containers(config, &places);
    // Reaps dockerd as soon as it ends; `clear` asks it to.
    let reaper = thread::spawn(move || dockerd.wait());
    places.clear(&privilege)?;
    let _ = reaper.join();
    Ok(())
}

fn dockerd(config: &Config, places: &Places, privilege: &Privilege) -> Result<Child> {
    let program = config.tool("dockerd").context("dockerd is missing")?;
    // What an engine that was killed leaves of its networks keeps the next one from starting. None of them is needed again.
    let mut forget = privilege.command("rm");
    run(forget.arg("-rf").arg(places.data.join("network")))?;
    let log = File::create(&places.log).context("making the engine's log")?;
    // The socket belongs to our group, so that no later step needs sudo.
    let group = fs::metadata(&places.run)
        .context("looking at the run directory")?
        .gid();
    let mut command = privilege.command(program);
    command.arg("--data-root").arg(&places.data);
    command.arg("--exec-root").arg(places.exec());
    command.arg("--pidfile").arg(places.pid_file());
    command.args(["--host", &places.host(), "--group", &group.to_string()]);
    let errors = log.try_clone().context("sharing the engine's log")?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    command.spawn().context("starting dockerd")
}

/// Containers and networks go; images and named volumes stay in the data root.
fn remove_containers(config: &Config, places: &Places) {
    let Some(client) = config.tool("docker") else {
        return;
    };
    let docker = |words: &[&str]| -> Command {
        let mut command = Command::new::<&PathBuf>(&client);
        command.env("DOCKER_HOST", places.host()).args(words);
        command
    };
    let all = quietly(&mut docker(&["ps", "--all", "--quiet"]));
    if !all.trim().is_empty() {
        let mut remove = docker(&["rm", "--force", "--volumes"]);
        quietly(remove.args(all.split_whitespace()));
    }
    quietly(&mut docker(&["network", "prune", "--force"]));
}
