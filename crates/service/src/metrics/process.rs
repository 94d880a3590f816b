//! What the kernel knows of this process, under the names that every Prometheus client uses.
//!
//! Owns: reading `/proc` (proc(5)) at each scrape. Must not: fail a scrape; what cannot be read is
//! left out of the text.

use std::{fmt, fs, path::PathBuf, str::FromStr};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Units of the times in `stat` per second: 100 for user space, whatever the kernel's own clock.
const CLOCK_TICKS: f64 = 100.0;

/// Fields of `stat`, counted as proc(5) does.
const USER_TIME: usize = 14;
const SYSTEM_TIME: usize = 15;
const START_TIME: usize = 22;

/// Reads the process's figures anew at each scrape.
#[derive(Debug)]
pub(super) struct Process {
    proc: PathBuf,
}

impl Default for Process {
    fn default() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        let status = self.read("self/status");
        let stat = self.read("self/stat");
        // The kernel counts in KiB here.
        let memory = |label| Some(ConstGauge::new(after::<u64>(&status, label)? * 1024));
        let help = "Resident memory.";
        put(
            &mut to,
            "process_resident_memory_bytes",
            help,
            memory("VmRSS:"),
        )?;
        let help = "Virtual memory.";
        put(
            &mut to,
            "process_virtual_memory_bytes",
            help,
            memory("VmSize:"),
        )?;
        let help = "Processor time in user and system mode.";
        let spent = processor_time(&stat).map(ConstCounter::new);
        put(&mut to, "process_cpu_seconds", help, spent)?;
        let help = "Open file descriptors.";
        let open = self.open_files().map(ConstGauge::new);
        put(&mut to, "process_open_fds", help, open)?;
        let help = "Most file descriptors that may be open.";
        let limits = self.read("self/limits");
        let most = after::<u64>(&limits, "Max open files").map(ConstGauge::new);
        put(&mut to, "process_max_fds", help, most)?;
        let help = "Start of the process, in seconds since 1970.";
        let started = self.started(&stat).map(ConstGauge::new);
        put(&mut to, "process_start_time_seconds", help, started)
    }
}

impl Process {
    /// Empty when it cannot be read: then nothing is found in it.
    fn read(&self, entry: &str) -> String {
        fs::read_to_string(self.proc.join(entry)).unwrap_or_default()
    }

    /// The descriptor that lists the others counts too.
    fn open_files(&self) -> Option<usize> {
        Some(fs::read_dir(self.proc.join("self/fd")).ok()?.count())
    }

    fn started(&self, stat: &str) -> Option<f64> {
        let boot: f64 = after(&self.read("stat"), "btime")?;
        Some(boot + field(stat, START_TIME)? / CLOCK_TICKS)
    }
}

/// Writes a metric that could be read.
fn put(
    to: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    metric: Option<impl EncodeMetric>,
) -> fmt::Result {
    let Some(metric) = metric else {
        return Ok(());
    };
    let encoder = to.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}

fn processor_time(stat: &str) -> Option<f64> {
    Some((field(stat, USER_TIME)? + field(stat, SYSTEM_TIME)?) / CLOCK_TICKS)
}

/// A field of `stat` after the name, which stands in brackets and may hold spaces and brackets.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_pid_and_name, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number - 3)?.parse().ok()
}

/// The first word after the label of a line.
fn after<T: FromStr>(text: &str, label: &str) -> Option<T> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;

    const NAMES: [(&str, &str); 6] = [
        ("process_resident_memory_bytes", "gauge"),
        ("process_virtual_memory_bytes", "gauge"),
        ("process_cpu_seconds", "counter"),
        ("process_open_fds", "gauge"),
        ("process_max_fds", "gauge"),
        ("process_start_time_seconds", "gauge"),
    ];

    fn scrape(process: Process) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        text
    }

    fn value(text: &str, name: &str) -> f64 {
        after(text, &format!("{name} ")).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    #[test]
    fn every_process_shows_plausible_figures() {
        let text = scrape(Process::default());
        let resident = value(&text, "process_resident_memory_bytes");
        assert!((1e5..1e11).contains(&resident), "{text}");
        assert!(value(&text, "process_virtual_memory_bytes") >= resident);
        assert!(value(&text, "process_cpu_seconds_total") >= 0.0);
        let open = value(&text, "process_open_fds");
        assert!((3.0..=value(&text, "process_max_fds")).contains(&open));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - value(&text, "process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{text}");
    }

    #[test]
    fn open_files_and_processor_time_follow_the_process() {
        let held: Vec<_> = (0..50)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        let before = scrape(Process::default());
        assert!(value(&before, "process_open_fds") >= 50.0);
        let spent = |text: &str| value(text, "process_cpu_seconds_total");
        while spent(&scrape(Process::default())) <= spent(&before) {}
        drop(held);
    }

    #[test]
    fn each_metric_stands_once_with_help_and_type() {
        let text = crate::Metrics::default().encode().unwrap();
        for (name, kind) in NAMES {
            let sample = match kind {
                "counter" => format!("{name}_total "),
                _ => format!("{name} "),
            };
            let starts = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
            assert_eq!(starts(&format!("# HELP {name} ")), 1, "{text}");
            assert_eq!(starts(&format!("# TYPE {name} {kind}")), 1, "{text}");
            assert_eq!(starts(&sample), 1, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let proc = tempfile::tempdir().unwrap();
        let of = || Process {
            proc: proc.path().to_owned(),
        };
        assert_eq!(scrape(of()), "# EOF\n");

        fs::create_dir(proc.path().join("self")).unwrap();
        let write = |entry: &str, text: &str| fs::write(proc.path().join(entry), text).unwrap();
        write(
            "self/limits",
            "Max open files            unlimited  unlimited  files\n",
        );
        write("self/stat", "7 (a) R 1 (b) S 1\n");
        write("self/status", "VmRSS:\t    none kB\n");
        write("stat", "btime\n");
        assert_eq!(scrape(of()), "# EOF\n");
    }

    #[test]
    fn a_name_with_brackets_and_spaces_moves_no_field() {
        let stat = "7 (a) R (b c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 12300 1 1\n";
        assert_eq!(processor_time(stat), Some(2.0));
        assert_eq!(field(stat, START_TIME), Some(12300.0));
    }
}
