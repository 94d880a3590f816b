//! R60: every container of the stack is confined, as `docker inspect` declares it and as the kernel
//! says of its first process. The engines of the overlay are no exception.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::stack::containers::Site;
use e2e::stack::probe::{self, Report, Task};
use e2e::stack::{StackInfo, engine};
use serde_json::Value;

/// As everything in the platform's images.
const USER: u64 = 10_001;
/// What a container may take at most.
const MEMORY: u64 = 1 << 30;
const PROCESSES: u64 = 512;
const FILES: u64 = 65_536;
/// `drain` of ringwall.yaml: a container is given at least this long.
const DRAIN: Duration = Duration::from_secs(10);
/// Logs of one container, in bytes.
const LOGS: u64 = 256 << 20;

/// The one that sees the machine's processes, since it has to know who is calling, and brings programs to its kernel.
const AGENT: &str = "agent";
/// Its capabilities, and their numbers: for the programs, and for the files of others. Of SYS_ADMIN an engine gives it that does
/// not know the first two, which were made of it.
const CAPABILITIES: [(&str, u32); 5] = [
    ("BPF", 39),
    ("PERFMON", 38),
    ("NET_ADMIN", 12),
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
];
const SYS_ADMIN: (&str, u32) = ("SYS_ADMIN", 21);
/// What it sees of the machine, to make control groups and to pin programs.
const KERNELS: [&str; 2] = ["/sys/fs/bpf", "/sys/fs/cgroup"];

/// Of the container's first process, below its folder in /proc.
const STATUS: &str = "status";
const LIMITS: &str = "limits";
const MOUNTS: &str = "mountinfo";
const ENVIRONMENT: &str = "environ";
const COMMAND: &str = "cmdline";
/// Both generations of the kernel's control groups, as the container sees its own.
const MEMORY_FILES: [&str; 2] = [
    "root/sys/fs/cgroup/memory.max",
    "root/sys/fs/cgroup/memory/memory.limit_in_bytes",
];
const PROCESSES_FILES: [&str; 2] = [
    "root/sys/fs/cgroup/pids.max",
    "root/sys/fs/cgroup/pids/pids.max",
];
/// Places of the root file system in which a program could leave something.
const WRITES: [&str; 4] = [
    "root/e2e-written",
    "root/etc/e2e-written",
    "root/usr/bin/e2e-written",
    "root/run/ringwall/e2e-written",
];

/// What the engine was told.
pub(super) async fn r60_every_container_is_declared_hardened(stack: Arc<StackInfo>) -> Result<()> {
    let site = stack.containers()?;
    of_all(&site.services, |service| {
        let inspected = engine::inspect(&site.container(service))?;
        declared(service, &inspected)?;
        match site.is_pod(service) {
            true => holds_nothing(&inspected),
            false => is_asked(&inspected),
        }
    })
}

/// Somebody looks whether it does what it is for.
fn is_asked(inspected: &Value) -> Result<()> {
    let test = inspected["Config"]["Healthcheck"]["Test"].as_array();
    ensure!(test.is_some_and(|test| test.len() > 1), "no health check");
    let health = &inspected["State"]["Health"]["Status"];
    ensure!(health == "healthy", "{health}");
    Ok(())
}

/// A pod has a network and nothing else.
fn holds_nothing(inspected: &Value) -> Result<()> {
    let mounts = inspected["Mounts"].as_array();
    ensure!(mounts.is_none_or(Vec::is_empty), "it has {mounts:?}");
    Ok(())
}

fn declared(service: &str, inspected: &Value) -> Result<()> {
    let (host, config) = (&inspected["HostConfig"], &inspected["Config"]);
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let user = if service == AGENT { 0 } else { USER };
    ensure!(
        config["User"] == format!("{user}:{user}"),
        "{}",
        config["User"]
    );
    ensure!(host["ReadonlyRootfs"] == true, "its root can be written");
    ensure!(host["Privileged"] == false, "it is privileged");
    let added: BTreeSet<&str> = (host["CapAdd"].as_array().into_iter().flatten())
        .filter_map(|name| name.as_str())
        .map(|name| name.strip_prefix("CAP_").unwrap_or(name))
        .collect();
    ensure!(added == may_have(service)?, "{added:?}");
    ensure!(
        host["CapDrop"] == serde_json::json!(["ALL"]),
        "{}",
        host["CapDrop"]
    );
    let options = host["SecurityOpt"].to_string();
    ensure!(options.contains("no-new-privileges:true"), "{options}");
    ensure!(!options.contains("unconfined"), "{options}");
    for space in ["UTSMode", "UsernsMode"] {
        ensure!(host[space] == "", "{space} is {}", host[space]);
    }
    let processes = if service == AGENT { "host" } else { "" };
    ensure!(host["PidMode"] == processes, "PidMode {}", host["PidMode"]);
    ensure!(host["IpcMode"] == "private", "IpcMode {}", host["IpcMode"]);
    ensure!(
        (1..=MEMORY).contains(&number(&host["Memory"])),
        "memory {}",
        host["Memory"]
    );
    ensure!(
        host["MemorySwap"] == host["Memory"],
        "it may be swapped out"
    );
    ensure!(
        (1..=PROCESSES).contains(&number(&host["PidsLimit"])),
        "no pids limit"
    );
    let ulimits = host["Ulimits"].as_array().context("no ulimits")?;
    let files = ulimits.iter().find(|limit| limit["Name"] == "nofile");
    let files = number(&files.context("no limit of files")?["Hard"]);
    ensure!((1..=FILES).contains(&files), "{files} files");
    let signal = config["StopSignal"].as_str().unwrap_or_default();
    ensure!(
        matches!(signal, "SIGTERM" | "SIGINT"),
        "stop signal {signal:?}"
    );
    let grace = Duration::from_secs(number(&config["StopTimeout"]));
    ensure!(grace >= DRAIN, "it is killed {grace:?} after the signal");
    logs_are_bounded(&host["LogConfig"])?;
    mounts_nothing_else(service, inspected)
}

/// The socket of the engine, or any other folder of the host, would be a way out.
fn mounts_nothing_else(service: &str, inspected: &Value) -> Result<()> {
    for mount in inspected["Mounts"].as_array().into_iter().flatten() {
        let source = mount["Source"].as_str().unwrap_or_default();
        if service == AGENT && KERNELS.contains(&source) {
            continue;
        }
        let bound = mount["Type"] == "bind";
        ensure!(
            !bound || mount["RW"] == false,
            "writes to the host: {mount}"
        );
        ensure!(
            !mount.to_string().contains("docker.sock"),
            "holds the engine: {mount}"
        );
        ensure!(
            !bound || source.contains("/deploy/compose/"),
            "{service} sees {source} of the host"
        );
    }
    Ok(())
}

/// The names of the capabilities that a container is given.
fn may_have(service: &str) -> Result<BTreeSet<&'static str>> {
    if service != AGENT {
        return Ok(BTreeSet::new());
    }
    let all = CAPABILITIES.map(|(name, _)| name);
    if engine::knows_capability("BPF", &probe::image()?)? {
        return Ok(all.into());
    }
    let older = all
        .into_iter()
        .filter(|name| !["BPF", "PERFMON"].contains(name));
    Ok(older.chain([SYS_ADMIN.0]).collect())
}

fn logs_are_bounded(logs: &Value) -> Result<()> {
    let size = logs["Config"]["max-size"]
        .as_str()
        .context("logs without bound")?;
    let files = logs["Config"]["max-file"]
        .as_str()
        .context("logs without bound")?;
    let mebibytes: u64 = size
        .trim_end_matches('m')
        .parse()
        .context(size.to_owned())?;
    ensure!(
        files.parse::<u64>()? * (mebibytes << 20) <= LOGS,
        "{size} × {files}"
    );
    Ok(())
}

/// What the kernel says, and what happens when somebody tries.
pub(super) async fn r60_every_process_is_confined(stack: Arc<StackInfo>) -> Result<()> {
    let site = stack.containers()?;
    let reads = [STATUS, LIMITS].into_iter();
    let reads: Vec<&str> = reads.chain(MEMORY_FILES).chain(PROCESSES_FILES).collect();
    of_all(&site.services, |service| {
        confined(service, &look(site, service, &reads, &WRITES)?)
    })
}

/// What the probe finds in the folder of the container's first process.
fn look(site: &Site, service: &str, reads: &[&str], writes: &[&str]) -> Result<Report> {
    let pid = match service {
        AGENT => site.process(service)?,
        _ => 1,
    };
    let folder = format!("/proc/{pid}/");
    let below = |files: &[&str]| files.iter().map(|file| format!("{folder}{file}")).collect();
    let task = Task {
        reads: below(reads),
        writes: below(writes),
        ..Task::default()
    };
    let mut report = site.probe(service, &task)?;
    for outcomes in [&mut report.reads, &mut report.writes] {
        let named = std::mem::take(outcomes).into_iter();
        *outcomes = named
            .map(|(path, outcome)| (path.replacen(&folder, "", 1), outcome))
            .collect();
    }
    Ok(report)
}

fn confined(service: &str, report: &Report) -> Result<()> {
    let status = read(report, STATUS)?;
    let field = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
            .unwrap_or_default()
    };
    let user = if service == AGENT { 0 } else { USER };
    let ids = [user; 4].map(|id| id.to_string()).join(" ");
    ensure!(
        field("Uid") == ids && field("Gid") == ids,
        "it is {}",
        field("Uid")
    );
    let given = may_have(service)?;
    let known = CAPABILITIES.iter().chain([&SYS_ADMIN]);
    let allowed: u64 = known
        .filter(|(name, _)| given.contains(name))
        .map(|(_, number)| 1 << number)
        .sum();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let has = u64::from_str_radix(&field(set), 16).with_context(|| format!("no {set}"))?;
        ensure!(has & !allowed == 0, "{set} {}", field(set));
    }
    ensure!(field("NoNewPrivs") == "1", "it may gain privileges");
    ensure!(field("Seccomp") == "2", "seccomp mode {}", field("Seccomp"));
    let limits = read(report, LIMITS)?;
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files = files.and_then(|line| line.split_whitespace().nth(4));
    let files: u64 = files.context("no limit of files")?.parse()?;
    ensure!(files <= FILES, "{files} open files");
    // The agent sees the machine's control groups in the place of its own: of its limits there is the engine's word.
    if service != AGENT {
        ensure!(
            first_number(report, &MEMORY_FILES)? <= MEMORY,
            "memory without limit"
        );
        ensure!(
            first_number(report, &PROCESSES_FILES)? <= PROCESSES,
            "pids without limit"
        );
    }
    for place in WRITES {
        // The provisioner is the one that writes there, below it.
        let outcome = report.writes.get(place).context("not tried")?;
        let why = outcome.as_ref().err().map_or("written", String::as_str);
        ensure!(
            why.contains("Read-only file system"),
            "{service}: {place}: {why}"
        );
    }
    Ok(())
}

/// Secrets, keys and configurations lie in memory; nothing like them stands where a listing of
/// processes or containers shows it.
pub(super) async fn r60_secrets_are_on_tmpfs_only(stack: Arc<StackInfo>) -> Result<()> {
    let site = stack.containers()?;
    let canaries = super::layers::canaries(&stack)?;
    of_all(&site.services, |service| {
        let inspected = engine::inspect(&site.container(service))?;
        let report = look(site, service, &[MOUNTS, ENVIRONMENT, COMMAND], &[])?;
        if !site.is_pod(service) {
            delivered_in_memory(&report)?;
        }
        keeps_secrets(&inspected, &report, &canaries)
    })
}

fn delivered_in_memory(report: &Report) -> Result<()> {
    let mounts = read(report, MOUNTS)?;
    let delivered: Vec<&str> = mounts
        .lines()
        .filter(|line| line.contains(" /run/ringwall") || line.contains(" /run/deliver"))
        .collect();
    ensure!(!delivered.is_empty(), "it gets nothing");
    for mount in delivered {
        ensure!(
            mount.contains(" - tmpfs "),
            "it has its secrets on a disk: {mount}"
        );
    }
    Ok(())
}

fn keeps_secrets(inspected: &Value, report: &Report, canaries: &[String]) -> Result<()> {
    let image = engine::inspect(inspected["Image"].as_str().context("no image")?)?;
    let variables = read(report, ENVIRONMENT)?;
    for (place, text) in [
        ("environment", variables.to_owned()),
        ("command", read(report, COMMAND)?.to_owned()),
        ("configuration", inspected["Config"].to_string()),
        ("image", image["Config"].to_string()),
    ] {
        super::layers::holds_no_secret(&text, canaries).with_context(|| place.to_owned())?;
    }
    for variable in variables
        .split('\0')
        .filter_map(|entry| entry.split('=').next())
    {
        let name = variable.to_ascii_uppercase();
        let suspect = ["SECRET", "PASSWORD", "TOKEN", "KEY"]
            .iter()
            .any(|word| name.contains(word));
        ensure!(!suspect, "a variable is named {variable}");
    }
    Ok(())
}

/// Looks at all of them, so that one run tells of every container that is not as it should be.
fn of_all(services: &[String], look: impl Fn(&str) -> Result<()>) -> Result<()> {
    let complaints: Vec<String> = services
        .iter()
        .filter_map(|service| Some(format!("{service}: {:#}", look(service).err()?)))
        .collect();
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

fn read<'a>(report: &'a Report, path: &str) -> Result<&'a str> {
    let outcome = report.reads.get(path).context("not read")?;
    match outcome {
        Ok(text) => Ok(text),
        Err(error) => bail!("{path}: {error}"),
    }
}

/// The number in the file of whichever generation the kernel has.
fn first_number(report: &Report, paths: &[&str]) -> Result<u64> {
    let text = paths.iter().find_map(|path| read(report, path).ok());
    let text = text.context("no control group")?.trim();
    text.parse().with_context(|| format!("no limit: {text}"))
}
