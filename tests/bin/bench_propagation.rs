//! Simulated proxies at a real control plane: how long an endpoint's change takes until all of them have it. Prints one
//! JSON object on stdout, see [`Measured`].
//!
//! Arguments: the control plane's binary, the core that it gets, the number of rounds. `cargo xtask bench propagation` runs
//! it, on the other core, and makes the table.
//!
//! 50 services of 20 instances each: every instance has a connection of its own with mTLS, a configuration stream and a
//! registered endpoint. All services may call the first one; a change is another weight of one of its endpoints. Every proxy
//! acknowledges every message, as real ones do, and so gets nothing further while it is late.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringwall_http_io::Address;
use ringwall_identity::authority::Authority;
use ringwall_identity::certificate::from_pem;
use ringwall_identity::{Intermediate, SpiffeId, TrustDomain};
use ringwall_mesh_api::v1::configuration_client::ConfigurationClient;
use ringwall_mesh_api::v1::{self, proxy_message::Message, resource::Body};
use ringwall_secret::private_file;
use ringwall_service::grpc::channel;
use ringwall_tls::{IdentityMaterial, IdentitySource, mesh_grpc_client_config};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout};

const SERVICES: usize = 50;
const INSTANCES: usize = 20;
/// The service whose endpoint changes; all others may call it.
const CHANGING: usize = 0;
/// Changes of a round, and the time from one to the next: a proxy may report ten times a second.
const CHANGES: u32 = 60;
const EVERY: Duration = Duration::from_millis(200);
/// Streams that are opened at the same time.
const OPENING: usize = 20;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);
const LIFE: Duration = Duration::from_secs(3600);
const DOMAIN: &str = "bench.local";
/// `times` in /proc/PID/stat count in these (proc(5); 100 a second on every Linux of today).
const TICK: Duration = Duration::from_millis(10);

/// The report.
#[derive(Serialize)]
struct Measured {
    proxies: usize,
    receivers: usize,
    /// From the first connection until every proxy had its state and was registered.
    connected_ms: f64,
    /// Resident memory of the control plane with all of them.
    memory_kib: u64,
    rounds: Vec<Round>,
}

#[derive(Serialize)]
struct Round {
    /// For each change: until the last proxy had it.
    all_us: Vec<f64>,
    /// Over changes and proxies: until one had it.
    each_us: [f64; 2],
    /// CPU of the control plane for one change.
    cpu_us: f64,
}

fn main() -> ExitCode {
    ringwall_tls::install_crypto_provider();
    match run() {
        Ok(report) => {
            // The one line that the caller reads.
            let _ =
                std::io::Write::write_all(&mut std::io::stdout(), format!("{report}\n").as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &'static str| arguments.next().context(what);
    let binary = next("the control plane's binary is not named")?;
    let core = next("its core is not named")?;
    let rounds = next("the number of rounds is not named")?.parse()?;
    let site = Site::make()?;
    let plane = site.start(Path::new(&binary), &core)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let measured = runtime.block_on(measure(&site, &plane, rounds))?;
    Ok(serde_json::to_string(&measured)?)
}

/// A place with an authority and a configuration.
struct Site {
    folder: tempfile::TempDir,
    root: Authority,
    intermediate: Intermediate,
    mesh: SocketAddr,
}

/// A control plane that runs; stopped when it goes out of scope.
struct Plane(Child);

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn service(number: usize) -> String {
    format!("s{number:02}")
}

impl Site {
    fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let domain = TrustDomain::parse(DOMAIN)?;
        let now = OffsetDateTime::now_utc();
        let root = Authority::generate(&domain, now - time::Duration::DAY)?;
        let issued = root.issue_intermediate(24 * LIFE, now)?;
        let roots = from_pem(root.cert_pem())?;
        let (chain, key) = (&issued.chain_pem, &issued.key_pem);
        let intermediate = Intermediate::load(&domain, chain, key, &roots, now)?;
        let secrets = folder.path().join("secrets");
        std::fs::create_dir(&secrets)?;
        for (name, value) in [
            ("store-key", &*"k".repeat(43)),
            ("intermediate-cert", chain),
            ("intermediate-key", key),
        ] {
            private_file::write(&secrets.join(name), value.as_bytes())?;
        }
        private_file::write(&folder.path().join("roots.pem"), root.cert_pem().as_bytes())?;
        let [mesh, admin, bootstrap] = free_addresses()?;
        let text = configuration(folder.path(), mesh, admin, bootstrap)?;
        std::fs::write(folder.path().join("control-plane.yaml"), text)?;
        Ok(Self {
            folder,
            root,
            intermediate,
            mesh,
        })
    }

    fn start(&self, binary: &Path, core: &str) -> Result<Plane> {
        let file = |name: &str| -> PathBuf { self.folder.path().join(name) };
        let log = std::fs::File::create(file("log"))?;
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(binary);
        command.arg("--config").arg(file("control-plane.yaml"));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut plane = Plane(command.spawn().context("starting the control plane")?);
        let begun = Instant::now();
        while std::net::TcpStream::connect(self.mesh).is_err() {
            let ended = plane.0.try_wait()?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(file("log"))?;
                anyhow::bail!("the control plane does not serve: {log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(plane)
    }

    /// One identity for all instances of a service, as its agent would hand it out.
    fn identity(&self, service: &str) -> Result<Arc<IdentitySource>> {
        let id = self.id(service)?;
        let now = OffsetDateTime::now_utc();
        let (certified, key) = self.intermediate.issue_svid(&id, &[], LIFE, now)?;
        let material = IdentityMaterial {
            chain: certified.chain,
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec())),
            bundle: from_pem(self.root.cert_pem())?,
            crls: Vec::new(),
        };
        Ok(IdentitySource::from_material(material)?)
    }

    fn id(&self, path: &str) -> Result<SpiffeId> {
        Ok(SpiffeId::workload(&TrustDomain::parse(DOMAIN)?, path)?)
    }
}

fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    // All at once, so that they differ.
    let mut listeners = Vec::new();
    for _ in 0..N {
        listeners.push(TcpListener::bind("127.0.0.1:0")?);
    }
    let addresses = listeners.iter().map(TcpListener::local_addr);
    let addresses: Vec<SocketAddr> = addresses.collect::<Result<_, _>>()?;
    addresses
        .try_into()
        .ok()
        .context("as many as were asked for")
}

fn configuration(
    folder: &Path,
    mesh: SocketAddr,
    admin: SocketAddr,
    bootstrap: SocketAddr,
) -> Result<String> {
    let folder = folder.display();
    let mut text = format!(
        "service:
  name: control-plane
  trust_domain: {DOMAIN}
  profile: demo
  listen: {mesh}
  admin: {admin}
  identity: self
  state: {folder}/state
  secrets: {{ provider: file, directory: {folder}/secrets }}
bootstrap: {bootstrap}
authority: {{ roots: {folder}/roots.pem }}
store: {{ embedded: {folder}/control-plane.db }}
nodes: [local]
services:
"
    );
    for number in 0..SERVICES {
        let name = service(number);
        writeln!(
            text,
            "  - {{ name: {name}, owner: bench, nodes: [local], ports: [{{ number: 80 }}] }}"
        )?;
    }
    text.push_str("policy:\n  edges:\n");
    let changing = service(CHANGING);
    for number in (0..SERVICES).filter(|number| *number != CHANGING) {
        let (name, neighbour) = (service(number), service(number % (SERVICES - 1) + 1));
        writeln!(text, "    - {{ caller: {name}, callee: {changing} }}")?;
        if neighbour != name {
            writeln!(text, "    - {{ caller: {name}, callee: {neighbour} }}")?;
        }
    }
    text.push_str(
        "  policies:\n    all: |\n      @id(\"all\") permit (principal, action, resource);\n",
    );
    Ok(text)
}

/// A proxy has seen the changing endpoint with this weight.
struct Seen {
    weight: u32,
    at: Instant,
}

/// One proxy: applies and acknowledges everything, and tells what it sees.
struct Proxy {
    to: mpsc::Sender<v1::ProxyMessage>,
}

impl Proxy {
    async fn open(
        mesh: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
        (instance, watched): (usize, Option<String>),
        seen: mpsc::Sender<Seen>,
    ) -> Result<Self> {
        let (to, mut messages) = mpsc::channel(8);
        let hello = v1::Hello {
            instance: format!("i{instance}"),
            node: "local".to_owned(),
            zone: "zone".to_owned(),
            revision: 0,
        };
        to.send(message(Message::Hello(hello))).await?;
        let outgoing = futures_util::stream::poll_fn(move |context| messages.poll_recv(context));
        let mut client = ConfigurationClient::new(channel(Address::Ip(mesh), tls));
        let mut incoming = client.stream(outgoing).await?.into_inner();
        let first = incoming.message().await?.context("no first message")?;
        ensure!(first.snapshot, "the first message is no snapshot");
        to.send(ack(first.nonce)).await?;
        let acks = to.clone();
        tokio::spawn(async move {
            while let Ok(Some(next)) = incoming.message().await {
                let at = Instant::now();
                if acks.send(ack(next.nonce)).await.is_err() {
                    return;
                }
                let weight = watched
                    .as_deref()
                    .and_then(|address| weight(&next, address));
                if let Some(weight) = weight
                    && seen.send(Seen { weight, at }).await.is_err()
                {
                    return;
                }
            }
            eprintln!("a configuration stream has ended");
        });
        Ok(Self { to })
    }

    async fn report(&self, address: &str, weight: u32) -> Result<()> {
        let report = v1::EndpointReport {
            address: address.to_owned(),
            port: 80,
            weight: Some(weight),
            health: v1::Health::Ready.into(),
        };
        Ok(self.to.send(message(Message::Endpoint(report))).await?)
    }
}

fn message(message: Message) -> v1::ProxyMessage {
    v1::ProxyMessage {
        message: Some(message),
    }
}

fn ack(nonce: u64) -> v1::ProxyMessage {
    message(Message::Ack(v1::Ack { nonce }))
}

/// The weight of an endpoint, where the message is about it.
fn weight(message: &v1::ConfigMessage, address: &str) -> Option<u32> {
    message.changed.iter().find_map(|resource| {
        let Some(Body::Endpoints(all)) = &resource.body else {
            return None;
        };
        let mut all = all.endpoints.iter();
        all.find(|endpoint| endpoint.address == address)
            .and_then(|endpoint| endpoint.weight)
    })
}

fn address(service: usize, instance: usize) -> String {
    format!("10.0.{service}.{}:15008", instance + 1)
}

async fn measure(site: &Site, plane: &Plane, rounds: u32) -> Result<Measured> {
    let watched = address(CHANGING, 0);
    let (seen, mut heard) = mpsc::channel(2 * SERVICES * INSTANCES);
    let begun = Instant::now();
    let mut proxies = Vec::new();
    for number in 0..SERVICES {
        let identity = site.identity(&service(number))?;
        let tls = mesh_grpc_client_config(&identity, site.id("control-plane")?)?;
        let watched = (number != CHANGING).then(|| watched.clone());
        let all: Vec<usize> = (0..INSTANCES).collect();
        for some in all.chunks(OPENING) {
            let opening = some.iter().map(|instance| {
                let own = (*instance, watched.clone());
                Proxy::open(site.mesh, Arc::clone(&tls), own, seen.clone())
            });
            let opened = futures_util::future::try_join_all(opening);
            proxies.extend(timeout(PATIENCE, opened).await.context("connecting")??);
        }
    }
    for (index, proxy) in proxies.iter().enumerate() {
        let own = address(index / INSTANCES, index % INSTANCES);
        proxy.report(&own, 1).await?;
    }
    let connected = begun.elapsed();
    // Until nothing moves any more.
    while timeout(Duration::from_secs(2), heard.recv()).await.is_ok() {}
    let changing = proxies.first().context("there are proxies")?;
    let receivers = (SERVICES - 1) * INSTANCES;
    let mut measured = Measured {
        proxies: proxies.len(),
        receivers,
        connected_ms: connected.as_secs_f64() * 1e3,
        memory_kib: memory_kib(plane.0.id())?,
        rounds: Vec::new(),
    };
    let mut weight = 1;
    for _ in 0..rounds {
        let mut change = Change {
            changing,
            heard: &mut heard,
            weight: &mut weight,
            receivers,
        };
        let round = change.round(&watched, plane.0.id()).await?;
        measured.rounds.push(round);
    }
    Ok(measured)
}

/// The changing proxy and those that listen.
struct Change<'a> {
    changing: &'a Proxy,
    heard: &'a mut mpsc::Receiver<Seen>,
    weight: &'a mut u32,
    receivers: usize,
}

impl Change<'_> {
    async fn round(&mut self, address: &str, pid: u32) -> Result<Round> {
        let before = cpu(pid)?;
        let (mut all, mut each) = (Vec::new(), Vec::new());
        for _ in 0..CHANGES {
            // Another one than before, below the limit of 10,000.
            *self.weight = *self.weight % 9_998 + 2;
            let asked = Instant::now();
            self.changing.report(address, *self.weight).await?;
            let mut took = Duration::ZERO;
            for _ in 0..self.receivers {
                let seen = timeout(PATIENCE, self.heard.recv()).await;
                let seen = seen
                    .context("not all have heard of it")?
                    .context("no proxy is left")?;
                ensure!(seen.weight == *self.weight, "a change was seen twice");
                let own = seen.at.duration_since(asked);
                each.push(own.as_secs_f64() * 1e6);
                took = took.max(own);
            }
            all.push(took.as_secs_f64() * 1e6);
            sleep_until((asked + EVERY).into()).await;
        }
        // The acknowledgements are part of it.
        sleep(EVERY).await;
        each.sort_by(f64::total_cmp);
        let at = |part: usize| each.get(each.len() * part / 100).copied().unwrap_or(0.0);
        let used = cpu(pid)?.saturating_sub(before);
        Ok(Round {
            all_us: all,
            each_us: [at(50), at(99)],
            cpu_us: used.as_secs_f64() * 1e6 / f64::from(CHANGES),
        })
    }
}

/// What a process has used of all cores (proc(5), fields 14 and 15).
fn cpu(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(") ").context("no command in stat")?;
    let times = fields.split(' ').skip(11).take(2).map(str::parse::<u32>);
    let ticks: u32 = times.sum::<Result<u32, _>>()?;
    Ok(TICK * ticks)
}

fn memory_kib(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.context("no VmRSS in status")
}
