//! Where our own dockerd keeps its things, and what an earlier one that was killed has left there.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::config::Config;
use crate::process::say;
use crate::setup::privilege::Privilege;

/// How long dockerd and containerd get to end by themselves.
const END: Duration = Duration::from_secs(20);

/// Files and folders of our own engine.
pub(super) struct Places {
    /// Images; outlives the engine.
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    pub(super) lock: PathBuf,
    /// Socket, pid file and exec root: short, because the path of a socket has 108 bytes at most.
    pub(super) run: PathBuf,
}

impl Places {
    pub(super) fn of(config: &Config) -> Self {
        let engine = config.cache.join("engine");
        let mut hasher = DefaultHasher::new();
        engine.hash(&mut hasher);
        let name = format!("ringwall-engine-{:08x}", hasher.finish() >> 32);
        Self {
            data: engine.join("data"),
            log: engine.join("log"),
            lock: engine.join("lock"),
            run: Path::new("/tmp").join(name),
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.run.join("docker.sock")
    }

    pub(super) fn exec(&self) -> PathBuf {
        self.run.join("exec")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.run.join("pid")
    }

    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Ends what is still running, unmounts what is still mounted and removes the run directory.
    pub(super) fn clear(&self, privilege: &Privilege) -> Result<()> {
        self.end_processes(privilege)?;
        for mount in self.mounts() {
            let done = privilege.command("umount").arg(&mount).status();
            if !done.is_ok_and(|status| status.success()) {
                bail!("{} is still mounted", mount.display());
            }
        }
        if self.run.exists() {
            let done = privilege.command("rm").arg("-rf").arg(&self.run).status();
            if !done.is_ok_and(|status| status.success()) {
                bail!("{} cannot be removed", self.run.display());
            }
        }
        Ok(())
    }

    /// dockerd first: it ends its containerd. What it could not end any more is ended after it.
    fn end_processes(&self, privilege: &Privilege) -> Result<()> {
        let containerd = self.exec().join("containerd/containerd.pid");
        for (file, name) in [(self.pid_file(), "dockerd"), (containerd, "containerd")] {
            if let Some(pid) = self.running(&file, name) {
                end(privilege, pid, name)?;
            }
        }
        for pid in processes().filter(|pid| self.is_shim(*pid)) {
            end(privilege, pid, "containerd-shim")?;
        }
        Ok(())
    }

    /// The pid in the file, where that process is of this name and of ours: pids are used again.
    fn running(&self, file: &Path, name: &str) -> Option<u32> {
        let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        let ours = command_line(pid).contains(&*self.run.to_string_lossy());
        (ours && self::name(pid) == name).then_some(pid)
    }

    fn is_shim(&self, pid: u32) -> bool {
        name(pid).starts_with("containerd-shim")
            && command_line(pid).contains(&*self.run.to_string_lossy())
    }

    /// Mounts below our folders, the deepest first.
    fn mounts(&self) -> Vec<PathBuf> {
        let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut mounts = mounts_below(&info, &[&self.run, &self.data]);
        mounts.reverse();
        mounts
    }
}

/// The mount points in `/proc/self/mountinfo` (proc(5)) that lie below one of the folders, in order of mounting.
fn mounts_below(info: &str, folders: &[&Path]) -> Vec<PathBuf> {
    let points = info.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(PathBuf::from)
        .filter(|point| folders.iter().any(|folder| point.starts_with(folder)))
        .collect()
}

/// Asks a process to end, and ends it when it does not.
fn end(privilege: &Privilege, pid: u32, name: &str) -> Result<()> {
    for (signal, patience) in [("-TERM", END), ("-KILL", Duration::from_secs(5))] {
        let mut kill = privilege.command("kill");
        // It may have ended by itself in between.
        let _ = kill.arg(signal).arg(pid.to_string()).output();
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if self::name(pid) != name && !self::name(pid).starts_with(name) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        say(&format!("engine: {name} ({pid}) ignores {signal}"));
    }
    bail!("{name} ({pid}) does not end")
}

/// Another dockerd in our network namespace: starting a second one takes its packet rules away.
pub(super) fn other_dockerd() -> Option<(u32, String)> {
    let ours = fs::read_link("/proc/self/ns/net").ok();
    processes()
        .filter(|pid| name(*pid) == "dockerd")
        .find(|pid| {
            let theirs = fs::read_link(format!("/proc/{pid}/ns/net")).ok();
            theirs.is_none() || theirs == ours
        })
        .map(|pid| (pid, command_line(pid)))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
}

/// The name of a running process; nothing of one that has ended and waits for its parent.
fn name(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((name, rest)) = stat
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(") "))
    else {
        return String::new();
    };
    if rest.starts_with('Z') {
        return String::new();
    }
    name.to_owned()
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The last lines of a log, for an error.
pub(super) fn last_lines(log: &Path, count: usize) -> Result<String> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(count);
    Ok(lines.get(start..).unwrap_or_default().join("\n    "))
}

/// Runs docker against our own engine; best effort, at the end.
pub(super) fn quietly(command: &mut Command) -> String {
    let output = command.output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_engine_are_found_and_no_other() {
        let info = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
                    90 22 0:50 / /tmp/ringwall-engine-1/exec/netns/default rw - nsfs nsfs rw\n\
                    91 22 0:51 / /tmp/ringwall-engine-11/exec rw - tmpfs tmpfs rw\n\
                    92 22 0:52 / /c/engine/data/overlay2/x/merged rw - overlay overlay rw\n";
        let found = mounts_below(
            info,
            &[
                Path::new("/tmp/ringwall-engine-1"),
                Path::new("/c/engine/data"),
            ],
        );
        assert_eq!(
            found,
            [
                Path::new("/tmp/ringwall-engine-1/exec/netns/default"),
                Path::new("/c/engine/data/overlay2/x/merged")
            ]
        );
    }

    #[test]
    fn a_running_process_has_its_name_and_an_ended_one_has_none() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        // The name is that of the program once exec has happened.
        let until = Instant::now() + Duration::from_secs(5);
        while name(child.id()) != "sleep" && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(name(child.id()), "sleep");
        end(&Privilege::Root, child.id(), "sleep").unwrap();
        assert_eq!(name(child.id()), "");
        child.wait().unwrap();
    }
}
