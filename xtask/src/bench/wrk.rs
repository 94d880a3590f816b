//! Requests by wrk: over keep-alive connections, as many as are answered, for a fixed time.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::running::LOAD_CORE;
use crate::config::Config;

/// What is asked for.
pub(super) struct Load<'run> {
    pub(super) url: &'run str,
    pub(super) headers: &'run [String],
    pub(super) connections: u32,
    pub(super) seconds: u32,
    /// A script in Lua that makes the requests.
    pub(super) script: Option<&'run Path>,
}

/// What one run measured.
#[derive(Debug, PartialEq)]
pub(super) struct Requests {
    pub(super) count: f64,
    /// Those that were not answered with success, and connections that broke.
    pub(super) failed: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// The program.
pub(super) struct Wrk(PathBuf);

impl Wrk {
    pub(super) fn find(config: &Config) -> Result<Self> {
        let found = config.tool("wrk");
        found
            .map(Self)
            .context("wrk is missing: apt-get install -y wrk")
    }

    /// Runs a load in which a failed request is a failed measurement.
    pub(super) fn run(&self, load: &Load<'_>) -> Result<Requests> {
        let requests = self.count(load)?;
        let failed = requests.failed;
        ensure!(failed == 0.0, "{}: {failed} requests failed", load.url);
        Ok(requests)
    }

    /// Runs a load and counts what fails.
    pub(super) fn count(&self, load: &Load<'_>) -> Result<Requests> {
        let mut command = Command::new("taskset");
        command.args(["-c", LOAD_CORE]).arg(&self.0);
        command.args(["--latency", "-t1"]);
        command.arg(format!("-c{}", load.connections));
        command.arg(format!("-d{}s", load.seconds));
        for header in load.headers {
            command.args(["-H", header]);
        }
        if let Some(script) = load.script {
            command.arg("-s").arg(script);
        }
        let output = command.arg(load.url).output().context("starting wrk")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{}:\n{said}", load.url);
        Requests::read(&said).with_context(|| format!("wrk's report is not understood:\n{said}"))
    }
}

impl Requests {
    fn read(said: &str) -> Option<Self> {
        let lines = || said.lines().map(str::trim);
        let count = lines()
            .find_map(|line| line.split_once(" requests in "))
            .and_then(|(count, _)| count.parse().ok())
            .filter(|count| *count > 0.0)?;
        let quantile = |name: &str| {
            lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| microseconds(rest.trim()))
        };
        Some(Self {
            count,
            // Where nothing has failed there is no line, and the sum of none would be -0.
            failed: lines().filter_map(failures).fold(0.0, |sum, one| sum + one),
            p50_us: quantile("50%")?,
            p99_us: quantile("99%")?,
        })
    }
}

/// Of one line: `Non-2xx or 3xx responses: 7`, or `Socket errors: connect 0, read 1, write 0, timeout 2`.
fn failures(line: &str) -> Option<f64> {
    let (kind, rest) = line.split_once(": ")?;
    match kind {
        "Non-2xx or 3xx responses" => rest.parse().ok(),
        "Socket errors" => Some(
            rest.split(", ")
                .filter_map(|part| part.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum(),
        ),
        _ => None,
    }
}

/// `87.00us`, `1.20ms` or `1.00s`.
fn microseconds(text: &str) -> Option<f64> {
    let factors = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    factors
        .iter()
        .find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_s_times_are_read() {
        for (text, expected) in [("87.00us", 87.0), ("1.20ms", 1200.0), ("1.00s", 1e6)] {
            assert_eq!(microseconds(text), Some(expected));
        }
        assert_eq!(microseconds("n/a"), None);
    }

    #[test]
    fn a_report_is_read_with_what_has_failed() {
        let said = "  Latency Distribution\n     50%   87.00us\n     75%  100.00us\n     99%    1.20ms\n  \
                    4711 requests in 5.00s, 1.00MB read\n  Socket errors: connect 1, read 2, write 3, timeout 4\n  \
                    Non-2xx or 3xx responses: 7\nRequests/sec:   942.20\n";
        let expected = Requests {
            count: 4711.0,
            failed: 17.0,
            p50_us: 87.0,
            p99_us: 1200.0,
        };
        assert_eq!(Requests::read(said), Some(expected));
        assert_eq!(Requests::read("0 requests in 5.00s"), None);
    }
}
