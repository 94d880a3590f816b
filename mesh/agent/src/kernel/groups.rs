//! The control groups of workloads: where they are, that they are enrolled, and that they stay so.
//!
//! Owns: the places of groups that a container engine makes (by `cgroup_parent`). They are made and enrolled here before the
//! engine puts a process there, so that a container's first instruction is captured; one that was removed and made anew is
//! enrolled again. Names among what may be reached are looked up here, by the engine's name server. Must not: believe a word
//! of a container about itself. Who is enrolled too late is not let out before: `crates/service/src/run/capture.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use ringwall_ebpf_loader::{Attach, Bind, Enrolment, Error, Kernel, Listener};
use ringwall_http_io::Address;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Shared;
use crate::config::kernel::{CapturedWorkload, Groups, KernelConfig};

/// Between two looks at the groups.
const LOOK: Duration = Duration::from_millis(200);
/// Looks at groups for each look at names.
const NAMES: u32 = 5;
/// One name.
const LOOK_UP: Duration = Duration::from_secs(1);
/// How often in a row a name may have no answer before its addresses are forgotten.
const MISSES: u32 = 5;

/// Addresses of services that are known by name.
pub(super) type Named = BTreeMap<String, BTreeSet<SocketAddr>>;

/// The configuration with every group where it is on this machine, and what the programs are attached to.
///
/// # Errors
/// In words, where this process does not see the machine's control groups.
pub(super) fn placed(config: &KernelConfig) -> Result<(KernelConfig, Attach), String> {
    if config.groups == Groups::Slice {
        return Ok((config.clone(), Attach::Slice));
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mount = version_2(&config.slice).ok_or_else(|| {
        format!(
            "no control groups of version 2 in {}\n  expected: the machine's, alone or in `unified`\n  fix: mount /sys/fs/cgroup of the \
             machine there, and start the agent with the machine's control group namespace (`cgroup: host`)",
            config.slice.display()
        )
    })?;
    let driver = Driver::of(&own);
    let mut placed = config.clone();
    for workload in &mut placed.workloads {
        workload.app = driver.place(&mount, &workload.app);
        workload.proxy = driver.place(&mount, &workload.proxy);
    }
    for other in &mut placed.uncaptured {
        other.group = driver.place(&mount, &other.group);
    }
    // All of them are as deep as the first one.
    let first = placed.groups().next().and_then(Path::parent);
    placed.slice = first.map_or(mount, Path::to_path_buf);
    Ok((placed, Attach::Each))
}

/// Where version 2 is mounted: there, or beside version 1.
fn version_2(place: &Path) -> Option<PathBuf> {
    let places = [place.to_path_buf(), place.join("unified")];
    places
        .into_iter()
        .find(|place| place.join("cgroup.controllers").exists())
}

/// Who makes an engine's control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    /// The engine itself: a group is directly below the root.
    Engine,
    /// systemd: a hyphen in a slice's name is a step downwards (systemd.slice(5)).
    Systemd,
}

impl Driver {
    /// By the group of this process, which the same engine has made.
    fn of(own: &str) -> Self {
        let own = own.lines().find_map(|line| line.strip_prefix("0::"));
        match own.is_some_and(|own| own.ends_with(".scope")) {
            true => Self::Systemd,
            false => Self::Engine,
        }
    }

    fn place(self, mount: &Path, group: &Path) -> PathBuf {
        let name = group.file_name().unwrap_or_default().to_string_lossy();
        let mut place = mount.to_path_buf();
        if self == Self::Systemd {
            let stem = name.strip_suffix(".slice").unwrap_or(&name);
            let steps = stem.match_indices('-').map(|(at, _)| at);
            for step in steps.filter_map(|at| stem.get(..at)) {
                place.push(format!("{step}.slice"));
            }
        }
        place.join(&*name)
    }
}

/// Makes the groups that are not there. Natively the supervisor does.
pub(super) fn make(config: &KernelConfig) -> io::Result<()> {
    if config.groups == Groups::Slice {
        return Ok(());
    }
    for group in config.groups() {
        fs::create_dir_all(group).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", group.display()))
        })?;
    }
    Ok(())
}

/// Enrols every group, and withdraws what nobody names any more.
pub(super) fn enrol(
    kernel: &mut Kernel,
    config: &KernelConfig,
    found: &Found,
) -> Result<(), Error> {
    for workload in &config.workloads {
        kernel.enrol(&Enrolment::proxy(&workload.workload, &workload.proxy))?;
        let direct = found.all(&workload.direct);
        kernel.enrol(&application(workload, &direct))?;
    }
    for other in &config.uncaptured {
        kernel.enrol(&Enrolment::proxy(&other.workload, &other.group))?;
    }
    let groups: Vec<&Path> = config.groups().collect();
    kernel.retain(&groups)
}

fn application<'a>(workload: &'a CapturedWorkload, direct: &'a [SocketAddr]) -> Enrolment<'a> {
    Enrolment {
        capture: listener(&workload.capture),
        dns: listener(&workload.names),
        direct,
        ports: &workload.ports,
        bind: Bind::Refuse,
        egress: workload.egress,
        ..Enrolment::app(&workload.workload, &workload.app)
    }
}

/// The address of each family.
fn listener(addresses: &[SocketAddr]) -> Listener {
    let of_family = |six: bool| addresses.iter().find(|at| at.is_ipv6() == six).copied();
    Listener {
        v4: of_family(false),
        v6: of_family(true),
    }
}

/// What names stand for, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found(BTreeMap<String, BTreeSet<SocketAddr>>);

impl Found {
    fn all(&self, addresses: &[Address]) -> Vec<SocketAddr> {
        let mut all = BTreeSet::new();
        for address in addresses {
            match address {
                Address::Ip(address) => {
                    all.insert(*address);
                }
                Address::Name { .. } => {
                    all.extend(self.0.get(&address.to_string()).into_iter().flatten());
                }
            }
        }
        all.into_iter().collect()
    }
}

/// Looks every name up, and keeps for a while what had an answer.
pub(super) struct Names {
    found: Found,
    misses: BTreeMap<String, u32>,
}

/// Keeps an engine's groups enrolled.
pub(super) struct Keeper {
    kernel: Shared,
    config: KernelConfig,
    /// As the kernel knows them.
    enrolled: (Vec<u64>, Found),
    names: Names,
    named: watch::Sender<Named>,
}

impl Names {
    /// What is known now: a successor of an agent takes nothing away that its predecessor had found.
    pub(super) async fn of(config: &KernelConfig) -> Self {
        let mut names = Self {
            found: Found::default(),
            misses: BTreeMap::new(),
        };
        names.look_up(config).await;
        names
    }

    pub(super) const fn found(&self) -> &Found {
        &self.found
    }

    async fn look_up(&mut self, config: &KernelConfig) {
        let direct = config.workloads.iter().flat_map(|one| &one.direct);
        let services = config.named.values().flatten();
        let names: BTreeSet<String> = direct
            .chain(services)
            .filter(|address| matches!(address, Address::Name { .. }))
            .map(ToString::to_string)
            .collect();
        for name in names {
            let answer = addresses(&name).await;
            let misses = self.misses.entry(name.clone()).or_default();
            *misses = match answer.is_empty() {
                true => misses.saturating_add(1),
                false => 0,
            };
            if !answer.is_empty() {
                self.found.0.insert(name, answer);
            } else if *misses >= MISSES {
                self.found.0.remove(&name);
            }
        }
    }

    /// Where services are that are known by name.
    fn services(&self, config: &KernelConfig) -> Named {
        let named = config.named.iter();
        named
            .map(|(service, places)| {
                let addresses = self.found.all(places);
                (service.clone(), addresses.into_iter().collect())
            })
            .collect()
    }
}

impl Keeper {
    /// `config` is [`placed`], and enrolled with these names.
    pub(super) fn new(kernel: Shared, config: KernelConfig, names: Names) -> Self {
        Self {
            kernel,
            enrolled: (numbers(&config), names.found.clone()),
            named: watch::Sender::new(names.services(&config)),
            config,
            names,
        }
    }

    /// Where services are that are known by name.
    pub(super) fn named(&self) -> watch::Receiver<Named> {
        self.named.subscribe()
    }

    /// Looks for ever.
    pub(super) async fn run(mut self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round: u32 = 0;
        loop {
            ticks.tick().await;
            if round.is_multiple_of(NAMES) {
                self.names.look_up(&self.config).await;
                let named = self.names.services(&self.config);
                self.named.send_if_modified(|known| {
                    let changed = *known != named;
                    *known = named;
                    changed
                });
            }
            round = round.wrapping_add(1);
            if let Err(error) = self.follow() {
                tracing::error!(%error, "a workload is not enrolled: it is refused everything");
            }
        }
    }

    fn follow(&mut self) -> Result<(), String> {
        make(&self.config).map_err(|error| error.to_string())?;
        let current = (numbers(&self.config), self.names.found.clone());
        if current == self.enrolled {
            return Ok(());
        }
        enrol(&mut self.kernel.lock(), &self.config, &self.names.found)
            .map_err(|error| error.to_string())?;
        let made_anew = current.0 != self.enrolled.0;
        tracing::info!(made_anew, "workloads are enrolled again");
        self.enrolled = current;
        Ok(())
    }
}

/// What the engine's name server says; nothing where it does not know.
async fn addresses(name: &str) -> BTreeSet<SocketAddr> {
    match timeout(LOOK_UP, tokio::net::lookup_host(name)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        _ => BTreeSet::new(),
    }
}

/// The kernel's numbers of the groups; 0 of one that is not there.
fn numbers(config: &KernelConfig) -> Vec<u64> {
    let number = |group: &Path| fs::metadata(group).map_or(0, |found| found.ino());
    config.groups().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = r"/sys/fs/cgroup/ringwall-app-spa\x2dproxy.slice";

    #[test]
    fn a_group_is_where_the_engine_makes_it() {
        let place = |driver: Driver| driver.place(Path::new("/cg"), Path::new(GROUP));
        let own = PathBuf::from(r"/cg/ringwall-app-spa\x2dproxy.slice");
        assert_eq!(place(Driver::Engine), own);
        let steps =
            PathBuf::from(r"/cg/ringwall.slice/ringwall-app.slice/ringwall-app-spa\x2dproxy.slice");
        assert_eq!(place(Driver::Systemd), steps);
    }

    #[test]
    fn the_driver_is_seen_at_ones_own_group() {
        let engine = "4:memory:/x/docker/ab\n0::/docker/ab\n";
        assert_eq!(Driver::of(engine), Driver::Engine);
        let systemd = "0::/system.slice/docker-ab.scope\n";
        assert_eq!(Driver::of(systemd), Driver::Systemd);
    }

    #[test]
    fn a_name_without_an_answer_leads_nowhere() {
        let direct: Vec<Address> = ["127.0.0.1:7507", "gateway:8443"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let mut found = Found::default();
        assert_eq!(found.all(&direct), ["127.0.0.1:7507".parse().unwrap()]);
        let gateway: SocketAddr = "172.18.0.3:8443".parse().unwrap();
        found
            .0
            .insert("gateway:8443".to_owned(), BTreeSet::from([gateway]));
        assert!(found.all(&direct).contains(&gateway));
    }
}
