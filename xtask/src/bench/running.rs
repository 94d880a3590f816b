//! Processes under measurement: started on a core of their own, asked what they used, stopped at the end.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::show;

/// Where proxies run.
pub(super) const PROXY_CORE: &str = "0";
/// Where the load and the back ends run.
pub(super) const LOAD_CORE: &str = "1";
/// How long a process may take until it listens.
const START: Duration = Duration::from_secs(20);

/// How to start a process.
#[derive(Clone)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<String>,
    /// It has started when it listens here.
    pub(super) port: u16,
    pub(super) log: PathBuf,
    pub(super) core: &'static str,
}

/// A started process; stopped when it goes out of scope.
pub(super) struct Running {
    child: Child,
}

impl Program {
    /// Starts the process and waits until it listens.
    pub(super) fn start(&self) -> Result<Running> {
        let mut running = self.spawn()?;
        self.wait_for(&mut running)?;
        Ok(running)
    }

    /// Starts the process.
    pub(super) fn spawn(&self) -> Result<Running> {
        let mut command = Command::new("taskset");
        command
            .args(["-c", self.core])
            .arg(&self.path)
            .args(&self.arguments);
        let log = fs::File::create(&self.log).context("making a log file")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing a log file")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting `{}`", show(&command)))?;
        Ok(Running { child })
    }

    /// Waits until the process listens.
    pub(super) fn wait_for(&self, running: &mut Running) -> Result<()> {
        let until = Instant::now() + START;
        while Instant::now() < until {
            if let Some(status) = running.child.try_wait().context("looking at a process")? {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("{} ended with {status}:\n{said}", self.name);
            }
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!(
            "{} does not listen on port {}; see {}",
            self.name,
            self.port,
            self.log.display()
        )
    }
}

impl Running {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of the process and of its children.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let own = self.child.id();
        let children =
            fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        std::iter::once(own).chain(children).map(cpu_of).sum()
    }

    /// Resident memory in KiB (`VmRSS` of proc(5)).
    pub(super) fn rss_kib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .context("reading memory")?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .and_then(|number| number.trim().parse().ok())
            .context("reading memory")
    }
}

/// `utime + stime` of one process (proc(5)); the kernel counts in hundredths of a second.
fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading processor time")?;
    // The second field is the name in parentheses, which may hold blanks.
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').collect())
        .unwrap_or_default();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("reading processor time")?;
    Ok(Duration::from_millis((user + system) * 10))
}

impl Drop for Running {
    /// Asks first: nginx's workers outlive a master that is killed.
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_of_this_process_is_read() {
        let mut sum = 0u64;
        let until = Instant::now() + Duration::from_millis(60);
        while Instant::now() < until {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        assert!(
            cpu_of(std::process::id()).unwrap() >= Duration::from_millis(10),
            "{sum}"
        );
    }
}
