//! What runs: the control plane on one machine; agent, proxies and applications on the other.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwall_identity::authority::Authority;
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_secret::private_file;
use ringwall_store::testing::{PASSWORD, Server};
use ringwall_tls::IdentitySource;
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::people;
use crate::place::Place;

/// Longest wait for anything here; other tests may have the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Of certificates, where control planes come and go.
const SHORT_LIFE: Duration = Duration::from_secs(40);
const TOKEN: &str = "a-join-token-of-these-tests-that-is-long-enough";

/// Addresses of the two machines.
pub(crate) const PLANE: &str = "10.77.0.1";
pub(crate) const NODE: &str = "10.77.0.2";
/// Ports of the services, as edges call them; their proxies listen there.
const ORDERS: u16 = 7105;
pub(crate) const INVENTORY: u16 = 7106;
const EGRESS: u16 = 7109;
/// Where the application `orders` finds its proxy.
pub(crate) const OUTBOUND: &str = "127.0.0.1:7505";

const POLICIES: &str = r#"
@id("stock") permit (principal == Workload::"orders", action, resource == Service::"inventory")
unless { context.path like "/closed*" };
@id("out") permit (principal == Workload::"orders", action, resource == Service::"egress");
"#;

/// Both machines with everything on them.
pub(crate) struct World {
    pub(crate) plane: Place,
    pub(crate) node: Place,
    pub(crate) operator: Arc<IdentitySource>,
    /// Of the control planes, where there are two.
    database: Option<Server>,
    /// Where the operator finds the control plane that leads.
    pub(crate) leader: u16,
    folder: TempDir,
    processes: HashMap<String, Child>,
}

/// A control plane: what it is called here, and its ports.
type Replica = (&'static str, [u16; 3]);
const FIRST: Replica = ("plane", [7110, 7210, 7310]);
const SECOND: Replica = ("plane-2", [7120, 7220, 7320]);

impl World {
    /// Control plane, agent, and proxies of `orders` and `inventory` with their applications; all are ready.
    pub(crate) fn start() -> Self {
        Self::prepare(false).start_all()
    }

    /// The same with two control planes over one PostgreSQL, on their own machine. The first one leads.
    pub(crate) fn start_replicated() -> Self {
        Self::prepare(true).start_all()
    }

    fn start_all(self) -> Self {
        let mut world = self;
        world.start_plane();
        if world.database.is_some() {
            world.start_second_plane();
        }
        world.start_agent();
        for port in [7305, 7306] {
            let at = ("127.0.0.1", port);
            world.node.run(people::application(at));
        }
        world.start_proxy("orders", ORDERS, "");
        world.start_proxy("inventory", INVENTORY, "");
        until("the first call succeeds", || {
            (world.get("/v1").0 == 200).then_some(())
        });
        world
    }

    fn prepare(replicated: bool) -> Self {
        ringwall_tls::install_crypto_provider();
        let (plane, node) = (Place::new(), Place::new());
        plane.connect(PLANE, &node, NODE);
        // It listens on the loopback of the machine on which it is started.
        let database = replicated.then(|| plane.run(async { Server::own("control-plane") }));
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in [
            "plane",
            "plane-2",
            "plane-secrets",
            "agent",
            "agent-secrets",
            "secrets",
            "operator",
        ] {
            private_folder(&path(name));
        }
        let secret = |name: &str, text: &str| {
            private_file::write(&path(name), text.as_bytes()).unwrap();
        };
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        let now = OffsetDateTime::now_utc();
        let root = match &database {
            None => Authority::generate(&domain, now),
            Some(server) => {
                let root = server.authority();
                Authority::load(root.cert_pem(), root.key_pem())
            }
        };
        let root = root.unwrap();
        let month = 30 * 24 * HOUR;
        let intermediate = root.issue_intermediate(month, now).unwrap();
        fs::write(path("roots.pem"), root.cert_pem()).unwrap();
        secret("plane-secrets/intermediate-cert", &intermediate.chain_pem);
        secret("plane-secrets/intermediate-key", &intermediate.key_pem);
        secret("plane-secrets/store-key", &"k".repeat(32));
        secret("plane-secrets/postgres-password", PASSWORD);
        secret("agent-secrets/join-token", TOKEN);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, TOKEN.as_bytes());
        let end = now.unix_timestamp() + 600;
        let digest = hex::encode(digest);
        let tokens = format!(r#"[{{"sha256":"{digest}","node":"local","not_after":{end}}}]"#);
        secret("plane-secrets/join-tokens", &tokens);
        let operator = SpiffeId::workload(&domain, "ringwall").unwrap();
        let operator = root.issue_svid(&operator, &[], HOUR, now).unwrap();
        secret("operator/bundle.pem", root.cert_pem());
        secret("operator/svid.key", &operator.key_pem);
        secret("operator/svid.pem", &operator.chain_pem);
        let operator = IdentitySource::load(&path("operator")).unwrap();
        let world = Self {
            plane,
            node,
            operator,
            database,
            leader: FIRST.1[0],
            folder,
            processes: HashMap::new(),
        };
        world.configure();
        world
    }

    fn configure(&self) {
        match &self.database {
            None => {
                let store = format!("embedded: {}", self.path("plane/plane.db").display());
                self.configure_plane(FIRST, HOUR, &store);
            }
            Some(server) => {
                let database = server.create_database();
                for replica in [FIRST, SECOND] {
                    let store = format!(
                        "postgres: {{ address: '127.0.0.1:{}', server_name: postgres, database: {database}, user: control-plane, tls: '{}' }}",
                        server.port(),
                        self.path(replica.0).join("postgres").display(),
                    );
                    // Short enough that certificates are renewed while a test goes on.
                    self.configure_plane(replica, SHORT_LIFE, &store);
                }
            }
        }
        self.configure_agent();
    }

    fn configure_plane(&self, (name, ports): Replica, life: Duration, store: &str) {
        let root = self.folder.path().display();
        let [mesh, admin, bootstrap] = ports;
        let life = life.as_secs();
        let policies = POLICIES.replace('\n', "\n      ");
        let plane = format!(
            "service:
  name: control-plane
  trust_domain: ringwall.local
  profile: demo
  listen: {PLANE}:{mesh}
  admin: 127.0.0.1:{admin}
  identity: self
  state: {root}/{name}
  secrets: {{ provider: file, directory: {root}/plane-secrets }}
bootstrap: {PLANE}:{bootstrap}
authority: {{ roots: {root}/roots.pem, svid_ttl: {life}s, database_ttl: {life}s }}
store: {{ {store} }}
nodes: [local]
services:
  - {{ name: orders, owner: shop, nodes: [local], ports: [{{ number: {ORDERS} }}] }}
  - {{ name: inventory, owner: shop, nodes: [local], ports: [{{ number: {INVENTORY} }}] }}
  - {{ name: egress, owner: platform, nodes: [local], ports: [{{ number: {EGRESS} }}] }}
policy:
  edges:
    - {{ caller: orders, callee: inventory, ports: [{INVENTORY}] }}
    - {{ caller: orders, callee: egress, ports: [{EGRESS}] }}
  policies:
    main.cedar: |{policies}
"
        );
        fs::write(self.path(&format!("{name}.yaml")), plane).unwrap();
    }

    /// The control planes as upstreams, for agent and proxies.
    fn upstreams(&self) -> String {
        let first =
            format!("control-plane: {{ address: \"{PLANE}:7110\", identity: control-plane }}");
        let second =
            format!(", control-plane-2: {{ address: \"{PLANE}:7120\", identity: control-plane }}");
        let second = self.database.as_ref().map_or("", |_| &second);
        format!("{{ {first}{second} }}")
    }

    fn configure_agent(&self) {
        let (root, upstreams) = (self.folder.path().display(), self.upstreams());
        let further = self.database.as_ref().map_or("", |_| "10.77.0.1:7320");
        let agent = format!(
            "service:
  name: agent
  workload: agent/local
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:7111
  admin: 127.0.0.1:7211
  admin_callers: [agent/local]
  identity: self
  state: {root}/agent
  secrets: {{ provider: file, directory: {root}/agent-secrets }}
  upstreams: {upstreams}
node: local
bootstrap: {{ address: \"{PLANE}:7310\", further: [{further}], bundle: {root}/roots.pem }}
socket: {root}/run/agent.sock
attestation: {{ spawned: {{ socket: {root}/run/control.sock }} }}
"
        );
        fs::write(self.path("agent.yaml"), agent).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn start_plane(&mut self) {
        self.start_replica(FIRST);
    }

    pub(crate) fn start_second_plane(&mut self) {
        self.start_replica(SECOND);
    }

    fn start_replica(&mut self, (name, [mesh, ..]): Replica) {
        let binary = built("ringwall-control-plane");
        let plane = self.plane.start(self.command(&binary, name));
        self.processes.insert(name.into(), plane);
        until("the control plane listens", || {
            let dial = tokio::net::TcpStream::connect((PLANE, mesh));
            self.plane.run(dial).ok()
        });
    }

    fn start_agent(&mut self) {
        let agent = self
            .node
            .start(self.command(&built("ringwall-agent"), "agent"));
        self.processes.insert("agent".into(), agent);
        until("the agent has joined", || {
            UnixStream::connect(self.path("run/control.sock")).ok()
        });
    }

    /// Starts the proxy of `workload`, which other proxies find at `port`, and says to the agent who it is.
    pub(crate) fn start_proxy(&mut self, workload: &str, port: u16, more: &str) {
        self.start_instance(&format!("{workload}-proxy"), workload, port, port, more);
    }

    /// A proxy that is called `name` here and listens at `listen`.
    pub(crate) fn start_instance(
        &mut self,
        name: &str,
        workload: &str,
        port: u16,
        listen: u16,
        more: &str,
    ) {
        let (root, upstreams) = (self.folder.path().display(), self.upstreams());
        let (app, out, admin, unused) = (port + 200, listen + 400, listen + 500, listen + 600);
        private_folder(&self.path(name));
        let text = format!(
            "service:
  name: {workload}-proxy
  workload: {workload}
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:{unused}
  admin: 127.0.0.1:{admin}
  admin_callers: [ringwall]
  identity: \"unix:{root}/run/agent.sock\"
  state: {root}/{name}
  secrets: {{ provider: file, directory: {root}/secrets }}
  upstreams: {upstreams}
  drain: 10s
advertise: {NODE}
inbound: [{{ listen: \"{NODE}:{listen}\", app: \"127.0.0.1:{app}\", port: {port} }}]
outbound: {{ http: \"127.0.0.1:{out}\" }}
access_log: {{ file: {root}/{name}.access.log }}
{more}"
        );
        fs::write(self.path(&format!("{name}.yaml")), text).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_ringwall-proxy"));
        let proxy = self.node.start(self.command(binary, name));
        let pid = proxy.id();
        self.processes.insert(name.to_owned(), proxy);
        let started = started(pid);
        let line = format!(r#"{{"pid":{pid},"started":{started},"workload":"{workload}"}}"#);
        until("the agent hears who it is", || {
            (self.say(&line).trim() == r#"{"ok":true}"#).then_some(())
        });
    }

    fn command(&self, binary: &Path, name: &str) -> Command {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        let mut command = Command::new(binary);
        command
            .arg("--config")
            .arg(self.path(&format!("{name}.yaml")))
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    /// Says a line to the agent as its supervisor.
    fn say(&self, line: &str) -> String {
        let mut answer = String::new();
        let Ok(mut stream) = UnixStream::connect(self.path("run/control.sock")) else {
            return answer;
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _closed = writeln!(stream, "{line}");
        let _closed = BufReader::new(stream).read_line(&mut answer);
        answer
    }

    /// Ends a process without a word.
    pub(crate) fn kill(&mut self, name: &str) {
        let mut process = self.processes.remove(name).expect(name);
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Ends a process in its own time.
    pub(crate) fn terminate(&mut self, name: &str) {
        let mut process = self.processes.remove(name).expect(name);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        until("it ends", || process.try_wait().unwrap());
    }

    /// Ends the control planes' database without a word.
    pub(crate) fn kill_database(&mut self) {
        self.database.as_mut().expect("a database").kill();
    }

    pub(crate) fn start_database(&mut self) {
        let mut server = self.database.take().expect("a database");
        // On the machine of the control planes, whose loopback it listens on.
        let server = self.plane.run(async move {
            server.start_again();
            server
        });
        self.database = Some(server);
    }

    /// Unplugs the control plane's end of the cable: what the node sends is lost without a word.
    pub(crate) fn cut(&self) {
        self.plane.ip("link set cable down");
    }

    pub(crate) fn heal(&self) {
        self.plane.ip("link set cable up");
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            let _gone = process.kill();
            let _gone = process.wait();
        }
        if std::thread::panicking() {
            for name in [
                "plane",
                "plane-2",
                "agent",
                "orders-proxy",
                "inventory-proxy",
                "egress-proxy",
            ] {
                let log = self.log(name);
                let from = log.len().saturating_sub(6000);
                let from = (from..log.len()).find(|at| log.is_char_boundary(*at));
                eprintln!("--- {name}:\n{}", &log[from.unwrap_or(log.len())..]);
            }
        }
    }
}

/// Waits until `what` gives something.
pub(crate) fn until<T>(why: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {why}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn private_folder(path: &Path) {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).recursive(true).create(path).unwrap();
}

/// Field 22 of `/proc/PID/stat`.
fn started(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(')').unwrap();
    rest.split_whitespace().nth(19).unwrap().parse().unwrap()
}

/// A binary of another package: built with the workspace, or now where this package is tested alone.
fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let binary = own.parent().and_then(Path::parent).unwrap().join(name);
    if !binary.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", name])
            .current_dir("../..") // tests run in their package's folder
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(built.success(), "{name} cannot be built");
    }
    binary
}
