//! What the kernel does for the mesh, seen from inside a component: its connections end at its own proxy, whatever it dials,
//! and everything else is refused, with the agent or the proxy dead as well.
//!
//! The escape matrix, hook by hook, is in `ebpf/loader/tests`; here is the platform as a whole, and the matrix from inside a
//! container.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use e2e::operator;
use e2e::person::Person;
use e2e::promptly;
use e2e::stack::StackInfo;
use e2e::stack::containers::Site;
use e2e::stack::probe::{self, Dial, Dialled, Report, Task};
use e2e::wire;
use serde_json::Value;

/// How the kernel refuses a connection (EPERM).
const REFUSED: &str = "Operation not permitted";
/// Nobody answers there, and nobody must be asked: documentation, link-local metadata, a private network.
const OUTSIDE: [&str; 4] = [
    "192.0.2.1:443",
    "169.254.169.254:80",
    "10.1.2.3:5432",
    "[2001:db8::1]:443",
];

/// What the agent was told about one component.
struct Enrolled {
    place: Place,
    ports: Vec<u16>,
    captured: Vec<SocketAddr>,
}

/// Where a process is the component's.
#[derive(Clone)]
enum Place {
    Group(PathBuf),
    Container(Site, String),
}

impl Enrolled {
    fn of(stack: &StackInfo, component: &str) -> Result<Self> {
        let file = stack.state_dir.join("config/agent.yaml");
        let value: Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
        let workloads = value["kernel"]["workloads"].as_array();
        let workloads = workloads.context(
            "the kernel takes no part in this platform: `ringwall status` says why; these scenarios need root, control \
             groups of version 2, and the programs that `cargo xtask ebpf` builds",
        )?;
        let own = workloads.iter().find(|one| one["workload"] == component);
        let own = own.with_context(|| format!("{component} is not enrolled"))?;
        let list = |key: &str| own[key].as_array().cloned().unwrap_or_default();
        let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let place = match stack.containers() {
            Ok(site) => Place::Container(site.clone(), component.to_owned()),
            Err(_) => Place::Group(own["app"].as_str().context("no group")?.into()),
        };
        Ok(Self {
            place,
            ports: list("ports").iter().filter_map(port).collect(),
            captured: list("capture").iter().filter_map(address).collect(),
        })
    }

    async fn asked(&self, task: Task) -> Result<Report> {
        let place = self.place.clone();
        let asked = move || match &place {
            Place::Group(group) => probe::confined(group, &task),
            Place::Container(site, component) => site.probe_inside(component, &task),
        };
        tokio::task::spawn_blocking(asked).await?
    }

    async fn dials(&self, dials: Vec<Dial>) -> Result<Vec<Dialled>> {
        let task = Task {
            dials,
            ..Task::default()
        };
        Ok(self.asked(task).await?.dials)
    }

    async fn dial(&self, dial: Dial) -> Result<Dialled> {
        self.dials(vec![dial]).await?.pop().context("no report")
    }
}

fn get(to: SocketAddr, path: &str) -> Dial {
    Dial {
        get: Some(path.to_owned()),
        ..Dial::to(to)
    }
}

/// All the ways to write one address.
fn forms(to: SocketAddr) -> Vec<SocketAddr> {
    let mapped = match to.ip() {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        ip @ IpAddr::V6(_) => ip,
    };
    let six: IpAddr = std::net::Ipv6Addr::LOCALHOST.into();
    let mut forms = vec![to, (mapped, to.port()).into()];
    if to.ip().is_loopback() {
        forms.push((six, to.port()).into());
    }
    forms
}

/// Inventory itself asks for orders' API key: the request has come through.
fn is_answered(dialled: &Dialled) -> bool {
    let answer = dialled
        .answer
        .as_ref()
        .and_then(|answer| answer.as_ref().ok());
    answer.is_some_and(|answer| answer.contains("401"))
}

fn is_refused(dialled: &Dialled) -> bool {
    let refused = dialled.refused.as_deref();
    refused.is_some_and(|why| why.contains(REFUSED))
}

/// R25: a component knows no proxy, dials a service in plaintext, and is answered by that service, over mTLS between the
/// two proxies: in its configuration there is no address of a proxy.
pub(super) async fn r25_the_kernel_leads_a_component_to_its_proxy(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let orders = Enrolled::of(&stack, "orders")?;
    let text = std::fs::read_to_string(stack.state_dir.join("config/orders.yaml"))?;
    let proxy = std::fs::read_to_string(stack.state_dir.join("config/orders-proxy.yaml"))?;
    let proxy: Value = serde_saphyr::from_str(&proxy)?;
    let outbound = proxy["outbound"]["http"]
        .as_str()
        .context("no outbound listener")?;
    let hidden = orders.captured.iter().map(ToString::to_string);
    for address in hidden.chain([outbound.to_owned()]) {
        ensure!(
            !text.contains(&address),
            "orders knows its proxy at {address}"
        );
    }
    let inventory = stack.component("inventory")?.address;
    for to in forms(inventory) {
        let dialled = orders.dial(get(to, "/v1/items")).await?;
        ensure!(is_answered(&dialled), "{to}: {dialled:?}");
    }
    Ok(())
}

/// R25: whichever name server a component asks, its proxy answers: with the services that it may call, and nothing else.
pub(super) async fn r25_names_are_what_a_component_may_call(stack: Arc<StackInfo>) -> Result<()> {
    let orders = Enrolled::of(&stack, "orders")?;
    let inventory = stack.component("inventory")?.address.ip().to_string();
    let known = ["inventory", "inventory.ringwall.local"];
    // It is no caller of notifications, and goes nowhere outside.
    let unknown = ["notifications", "example.org", "metadata.google.internal"];
    let names = known.iter().chain(&unknown).map(|&name| name.to_owned());
    let task = Task {
        names: names.collect(),
        ..Task::default()
    };
    let found = orders.asked(task).await?.names;
    for name in known {
        ensure!(
            found[name] == [inventory.clone()],
            "{name}: {:?}",
            found[name]
        );
    }
    for name in unknown {
        ensure!(found[name].is_empty(), "{name}: {:?}", found[name]);
    }
    Ok(())
}

/// Lateral movement and egress: what has no edge is refused before a packet leaves, by IPv4, IPv6 and mapped addresses.
pub(super) async fn attack_what_has_no_edge_is_refused_by_the_kernel(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let notifications = Enrolled::of(&stack, "notifications")?;
    let payments = Enrolled::of(&stack, "payments")?;
    let mut targets: Vec<SocketAddr> = OUTSIDE
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    for name in [
        "payments",
        "inventory",
        "postgres",
        "control-plane",
        "tokenizer",
    ] {
        targets.extend(forms(stack.component(name)?.address));
    }
    let captured = payments.captured.iter().map(SocketAddr::port);
    for port in payments.ports.iter().copied().chain(captured) {
        targets.extend(forms(SocketAddr::from(([127, 0, 0, 1], port))));
    }
    let dialled = notifications
        .dials(targets.iter().map(|to| Dial::to(*to)).collect())
        .await?;
    for (to, dialled) in targets.iter().zip(&dialled) {
        ensure!(is_refused(dialled), "{to}: {dialled:?}");
    }
    // It is told, with the workload's name.
    let seen = operator::command(
        &stack,
        &[
            "observe",
            "--verdict",
            "dropped",
            "--caller",
            "notifications",
            "-o",
            "json",
        ],
    )
    .await?;
    ensure!(seen.out.contains("\"verdict\":\"dropped\""), "{seen:?}");
    Ok(())
}

/// A component's own port is its proxy's alone: whoever else dials it gets no answer at all.
pub(super) async fn attack_nobody_but_its_proxy_reaches_a_component(
    stack: Arc<StackInfo>,
) -> Result<()> {
    for component in ["inventory", "payments", "orders"] {
        let enrolled = Enrolled::of(&stack, component)?;
        let local = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
        let ports: Vec<SocketAddr> = enrolled.ports.iter().map(local).collect();
        let captured = enrolled.captured.iter().copied();
        for (to, dialled) in by_a_stranger(&stack, component, ports).await? {
            ensure!(
                dialled.refused.is_some(),
                "{component}: {to} answers a stranger"
            );
        }
        // And the capture listener, which a stranger reaches, serves nobody whom the kernel has not led there.
        for (to, dialled) in by_a_stranger(&stack, component, captured.collect()).await? {
            let answer = dialled.answer.and_then(Result::ok).unwrap_or_default();
            ensure!(answer.is_empty(), "{component}: {to}: {answer:?}");
        }
    }
    Ok(())
}

/// What a process finds that stands in the component's network, and in nobody's control group.
async fn by_a_stranger(
    stack: &StackInfo,
    component: &str,
    targets: Vec<SocketAddr>,
) -> Result<Vec<(SocketAddr, Dialled)>> {
    let task = Task {
        dials: targets.iter().map(|to| get(*to, "/v1/items")).collect(),
        ..Task::default()
    };
    let asked = match stack.containers() {
        Ok(site) => {
            let (site, component) = (site.clone(), component.to_owned());
            tokio::task::spawn_blocking(move || site.probe(&component, &task)).await?
        }
        Err(_) => tokio::task::spawn_blocking(move || probe::anywhere(&task)).await?,
    };
    Ok(targets.into_iter().zip(asked?.dials).collect())
}

/// What is no connection, and what would lead out of the control group, is not there for a component.
pub(super) async fn attack_a_component_cannot_leave_its_group(stack: Arc<StackInfo>) -> Result<()> {
    let orders = Enrolled::of(&stack, "orders")?;
    let mut ways = vec!["packet", "raw"];
    // Natively there is not even anything to read; an engine shows a container its own group.
    let groups = [
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/unified/cgroup.procs",
    ];
    let hidden = stack.containers().is_err();
    if hidden {
        // In containers the component itself installs the filter that refuses them, as `crates/confine` tests it.
        ways.extend(["vsock", "crypto", "netlink-audit"]);
    }
    let status = "/proc/self/status".to_owned();
    let task = Task {
        sockets: ways
            .iter()
            .chain(&["tcp", "udp"])
            .map(|&way| way.to_owned())
            .collect(),
        reads: groups
            .iter()
            .map(|&path| path.to_owned())
            .chain([status.clone()])
            .collect(),
        writes: groups
            .iter()
            .chain(&["/sys/fs/cgroup/escaped", "/sys/fs/bpf/escaped"])
            .map(|&path| path.to_owned())
            .collect(),
        ..Task::default()
    };
    let report = orders.asked(task).await?;
    for way in ways {
        let made = &report.sockets[way];
        ensure!(made.is_err(), "a socket of {way} was {made:?}");
    }
    ensure!(
        report.sockets["tcp"].is_ok() && report.sockets["udp"].is_ok(),
        "{report:?}"
    );
    for path in groups {
        ensure!(!hidden || report.reads[path].is_err(), "{path} can be read");
    }
    for (path, outcome) in &report.writes {
        ensure!(outcome.is_err(), "{path} was {outcome:?}");
    }
    let status = report.reads[&status].clone().map_err(anyhow::Error::msg)?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
            .unwrap_or_default()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        ensure!(field(set) == "0000000000000000", "{set} {}", field(set));
    }
    ensure!(
        field("NoNewPrivs:") == "1" && field("Seccomp:") == "2",
        "{status}"
    );
    is_confined(stack.component("orders")?.pid, hidden)
}

/// The component's own process is no other than the probe.
fn is_confined(pid: i32, natively: bool) -> Result<()> {
    let own = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(
        own.contains("CapBnd:\t0000000000000000") && own.contains("Seccomp:\t2"),
        "{own}"
    );
    let filters = own
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp_filters:"));
    let filters: u32 = filters.context("no filters")?.trim().parse()?;
    let engines = u32::from(!natively);
    ensure!(filters >= engines + 2, "{filters} filters: {own}");
    Ok(())
}

/// R31: an edge that the policy loses is out of the kernel within a second, and back as fast.
pub(super) async fn r31_an_edge_is_out_of_the_kernel_within_a_second(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let orders = Enrolled::of(&stack, "orders")?;
    let inventory = stack.component("inventory")?.address;
    let close = |bundle: &mut Value| {
        let gone = |entry: &Value| entry["caller"] == "orders" && entry["callee"] == "inventory";
        for list in ["edges", "examples"] {
            let entries = bundle[list].as_array_mut().context("no list")?;
            entries.retain(|entry| !gone(entry));
        }
        Ok(())
    };
    let is_allowed = async || {
        let dialled = orders.dial(get(inventory, "/v1/items")).await?;
        // Allowed is what goes all the way: both proxies and the kernel know the edge.
        Ok(match (is_answered(&dialled), is_refused(&dialled)) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            _ => None,
        })
    };
    promptly::policies_are_in_force(&stack, close, is_allowed).await
}

/// With the agent killed, orders go on and nothing opens; the next one takes the pinned programs over.
pub(super) async fn attack_a_killed_agent_opens_nothing(stack: Arc<StackInfo>) -> Result<()> {
    opens_nothing(&stack, "agent").await
}

/// With its proxy killed, a component reaches nobody; nothing of what it dials leaves.
pub(super) async fn attack_a_killed_proxy_opens_nothing(stack: Arc<StackInfo>) -> Result<()> {
    opens_nothing(&stack, "notifications-proxy").await
}

async fn opens_nothing(stack: &StackInfo, killed: &str) -> Result<()> {
    let notifications = Enrolled::of(stack, "notifications")?;
    let outside: Vec<SocketAddr> = OUTSIDE
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let payments = stack.component("payments")?.address;
    let before = stack.running(killed)?.pid;
    // At random moments it is killed many more times in `ebpf/loader/tests`.
    stack.kill(killed).await?;
    let targets: Vec<SocketAddr> = outside.iter().copied().chain([payments]).collect();
    let dials = targets.iter().map(|to| Dial::to(*to)).collect();
    let dialled = notifications.dials(dials).await?;
    for (to, dialled) in targets.iter().zip(&dialled) {
        ensure!(is_refused(dialled), "{to}: {dialled:?}");
    }
    stack.recovered_as_another(killed, before).await?;
    let person = Person::signed_in(stack, "alice").await?;
    let skus = person.skus().await?;
    let sku = skus.first().context("nothing to buy")?;
    let (status, order) = person.order(sku, &uuid::Uuid::new_v4().to_string()).await?;
    ensure!(status.is_success(), "no order afterwards: {status} {order}");
    Ok(())
}

/// From inside a container, by every way that a process without privileges has, nothing leaves that the kernel has not led to
/// the component's proxy: a capture on all interfaces of the machine counts what was to be sent, and finds nothing.
pub(super) async fn attack_no_way_out_of_a_container_carries_cleartext(
    stack: Arc<StackInfo>,
) -> Result<()> {
    const TEXT: &str = "e2e-cleartext-that-must-not-leave";
    let site = stack.containers()?.clone();
    let addresses = site.addresses("control-plane")?;
    let neighbour = *addresses.get("mesh").context("it is not in the mesh")?;
    // Whom an application may not dial, and a wire would carry to.
    let mut targets: Vec<SocketAddr> = OUTSIDE
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    targets.extend(forms(SocketAddr::new(neighbour, 9)));
    let capture = wire::Capture::begin(TEXT)?;
    for component in ["notifications", "orders", "payments"] {
        let (site, targets) = (site.clone(), targets.clone());
        let tried = move || site.ways_out(component, TEXT, &targets);
        let tried = tokio::task::spawn_blocking(tried).await??;
        ensure!(tried.len() > 50, "only {} ways were tried", tried.len());
        for way in tried {
            ensure!(way.outcome.is_err(), "{component}: {way:?}");
        }
    }
    let seen = capture.end()?;
    ensure!(seen.with_text == 0, "left the container: {seen:?}");
    // The same in nobody's control group is on the wire: the capture does see it.
    let capture = wire::Capture::begin(TEXT)?;
    let out = vec![SocketAddr::new(neighbour, 9)];
    let strange = move || site.ways_out_of_a_stranger("orders", TEXT, &out);
    let tried = tokio::task::spawn_blocking(strange).await??;
    ensure!(tried.iter().any(|way| way.outcome.is_ok()), "{tried:?}");
    let seen = capture.end()?;
    ensure!(seen.with_text > 0, "the capture is blind: {seen:?}");
    Ok(())
}
