//! A control plane and an agent, each a process of its own, in a directory of their own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ringwall_identity::TrustDomain;
use ringwall_identity::authority::Authority;
use ringwall_secret::private_file;
use ringwall_tls::IdentitySource;
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::tools::control_plane;

/// Longest wait for anything here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// A running pair. Both end with it.
pub(crate) struct Stack {
    folder: TempDir,
    ports: [u16; 5],
    plane: Option<Child>,
    agent: Option<Child>,
}

/// How the pair is configured.
#[derive(Clone)]
pub(crate) struct Settings<'a> {
    pub(crate) workloads: &'a [&'a str],
    /// Seconds; the control plane takes 10 at least.
    pub(crate) svid_ttl_s: u32,
    /// Lines below `attestation:` and further keys.
    pub(crate) extra: String,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self {
            workloads: &[],
            svid_ttl_s: 3600,
            extra: String::new(),
        }
    }
}

/// A name that no other test, and no other run on this machine, has.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    format!("{name}-{}-{number}", std::process::id())
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Waits until `what` gives something.
pub(crate) fn until<T>(why: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {why}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Stack {
    /// Starts both and waits until the agent is ready.
    pub(crate) fn start(settings: &Settings<'_>) -> Self {
        let mut stack = Self::prepare(settings);
        stack.start_plane();
        stack.start_agent();
        stack.wait_ready();
        stack
    }

    /// Writes everything, starts nothing.
    pub(crate) fn prepare(settings: &Settings<'_>) -> Self {
        let stack = Self {
            folder: tempfile::tempdir().unwrap(),
            ports: free_ports(),
            plane: None,
            agent: None,
        };
        for folder in ["plane", "plane-secrets", "agent", "agent-secrets"] {
            let mut builder = fs::DirBuilder::new();
            builder.mode(0o700).create(stack.path(folder)).unwrap();
        }
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        let now = OffsetDateTime::now_utc();
        let root = Authority::generate(&domain, now).unwrap();
        let month = Duration::from_secs(30 * 86_400);
        let intermediate = root.issue_intermediate(month, now).unwrap();
        fs::write(stack.path("roots.pem"), root.cert_pem()).unwrap();
        stack.secret("plane-secrets/intermediate-cert", &intermediate.chain_pem);
        stack.secret("plane-secrets/intermediate-key", &intermediate.key_pem);
        stack.secret("plane-secrets/store-key", &"k".repeat(32));
        stack.new_token();
        stack.write_configs(settings);
        stack
    }

    fn write_configs(&self, settings: &Settings<'_>) {
        let [mesh, plane_admin, bootstrap, agent_admin, unused] = self.ports;
        let root = self.folder.path().display();
        let entry = |name: &&str| {
            format!(
                "  - {{ name: {name}, owner: tests, nodes: [local], server_names: [{name}.test] }}\n"
            )
        };
        let services: String = settings.workloads.iter().map(entry).collect();
        let services = if services.is_empty() {
            " []\n".into()
        } else {
            format!("\n{services}")
        };
        let plane = format!(
            "service:\n  name: control-plane\n  trust_domain: ringwall.local\n  profile: demo\n  \
             listen: 127.0.0.1:{mesh}\n  admin: 127.0.0.1:{plane_admin}\n  identity: self\n  \
             state: {root}/plane\n  secrets: {{ provider: file, directory: {root}/plane-secrets }}\n\
             bootstrap: 127.0.0.1:{bootstrap}\n\
             authority: {{ roots: {root}/roots.pem, svid_ttl: {}s, jwt_ttl: 20s }}\n\
             store: {{ embedded: {root}/plane/plane.db }}\nnodes: [local]\nservices:{services}",
            settings.svid_ttl_s,
        );
        fs::write(self.path("plane.yaml"), plane).unwrap();
        let agent = format!(
            "service:\n  name: agent\n  workload: agent/local\n  trust_domain: ringwall.local\n  \
             profile: demo\n  listen: 127.0.0.1:{unused}\n  admin: 127.0.0.1:{agent_admin}\n  \
             admin_callers: [agent/local]\n  identity: self\n  state: {root}/agent\n  \
             secrets: {{ provider: file, directory: {root}/agent-secrets }}\n  \
             upstreams: {{ control-plane: {{ address: \"127.0.0.1:{mesh}\", identity: control-plane }} }}\n\
             node: local\nbootstrap: {{ address: \"127.0.0.1:{bootstrap}\", bundle: {root}/roots.pem }}\n\
             socket: {root}/run/agent.sock\nattestation:\n  spawned: {{ socket: {root}/run/control.sock }}\n{}",
            settings.extra,
        );
        fs::write(self.path("agent.yaml"), agent).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/agent.sock")
    }

    fn secret(&self, name: &str, text: &str) {
        private_file::write(&self.path(name), text.as_bytes()).unwrap();
    }

    /// A join token that was not used yet, for both sides.
    pub(crate) fn new_token(&self) {
        let token = unique("join-token-of-a-test");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        let end = OffsetDateTime::now_utc().unix_timestamp() + 600;
        let list = format!(
            r#"[{{"sha256":"{}","node":"local","not_after":{end}}}]"#,
            hex::encode(digest)
        );
        self.secret("plane-secrets/join-tokens", &list);
        self.secret("agent-secrets/join-token", &token);
    }

    pub(crate) fn start_plane(&mut self) {
        self.plane = Some(self.spawn(&control_plane(), "plane"));
        let port = self.ports[2];
        let mut ended = None;
        until("the control plane listens", || {
            ended = self.plane.as_mut().unwrap().try_wait().unwrap();
            let listens = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
            (listens || ended.is_some()).then_some(())
        });
        assert_eq!(ended, None, "the control plane has ended");
    }

    pub(crate) fn start_agent(&mut self) {
        let agent = Path::new(env!("CARGO_BIN_EXE_ringwall-agent"));
        self.agent = Some(self.spawn(agent, "agent"));
    }

    /// By a command that changes something and starts the rest of its words.
    pub(crate) fn start_agent_under(&mut self, prefix: &[&str]) {
        let agent = env!("CARGO_BIN_EXE_ringwall-agent");
        let child = self.spawn_as(
            Command::new(prefix[0]).args(&prefix[1..]).arg(agent),
            "agent",
        );
        self.agent = Some(child);
    }

    fn spawn(&self, binary: &Path, name: &str) -> Child {
        self.spawn_as(&mut Command::new(binary), name)
    }

    fn spawn_as(&self, command: &mut Command, name: &str) -> Child {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        command
            .arg("--config")
            .arg(self.path(&format!("{name}.yaml")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
    }

    pub(crate) fn wait_ready(&mut self) {
        let begun = Instant::now();
        while !self.is_healthy() {
            let ended = self.agent.as_mut().unwrap().try_wait().unwrap();
            if ended.is_some() || begun.elapsed() > PATIENCE {
                panic!("the agent is not ready ({ended:?}): {}", self.log("agent"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What a container engine would ask.
    pub(crate) fn is_healthy(&self) -> bool {
        let status = Command::new(env!("CARGO_BIN_EXE_ringwall-agent"))
            .arg("--config")
            .arg(self.path("agent.yaml"))
            .arg("--health")
            .stderr(Stdio::null())
            .status();
        status.unwrap().success()
    }

    pub(crate) fn kill_plane(&mut self) {
        end(self.plane.take());
    }

    pub(crate) fn kill_agent(&mut self) {
        end(self.agent.take());
    }

    /// Waits for an agent that ends by itself; its exit code.
    pub(crate) fn agent_ends(&mut self) -> Option<i32> {
        let agent = self.agent.as_mut().unwrap();
        until("the agent ends", || agent.try_wait().unwrap()).code()
    }

    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    pub(crate) fn signal_agent(&self, name: &str) {
        let pid = self.agent_pid().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// The node's own SVID, as it lies there.
    pub(crate) fn own(&self) -> Option<Arc<IdentitySource>> {
        IdentitySource::load(&self.path("agent/identity")).ok()
    }

    /// Says, as the supervisor, that the process `pid` is `workload`; the answer.
    pub(crate) fn vouch(&self, pid: u32, workload: &str) -> String {
        self.say(&format!(
            r#"{{"pid":{pid},"started":{},"workload":"{workload}"}}"#,
            started(pid)
        ))
    }

    pub(crate) fn say(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.path("run/control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Whoever is not heard finds the line closed.
        let _closed = writeln!(stream, "{line}");
        let mut answer = String::new();
        let _closed = BufReader::new(stream).read_line(&mut answer);
        answer
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        end(self.agent.take());
        end(self.plane.take());
        if std::thread::panicking() {
            eprintln!(
                "agent:\n{}\nplane:\n{}",
                self.log("agent"),
                self.log("plane")
            );
        }
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _gone = child.kill();
        let _gone = child.wait();
    }
}

/// Field 22 of `/proc/PID/stat`.
pub(crate) fn started(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(')').unwrap();
    rest.split_whitespace().nth(19).unwrap().parse().unwrap()
}

/// Ports that are free at this moment.
fn free_ports<const N: usize>() -> [u16; N] {
    let held: Vec<_> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    std::array::from_fn(|at| held[at].local_addr().unwrap().port())
}
