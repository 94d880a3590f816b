//! The edge shield of this node: whom the kernel drops at the gateway's interface, and on whose word.
//!
//! Owns: the shield's life (it outlives this process), what ends by itself, and the limits of what a gateway may say: single
//! sources, for at most a day, so many at once, and never who is on the allow list, nor this machine itself. Must not: keep
//! the agent from starting: where the shield cannot be, the node goes on without it and says so.
//! Read next: `shield/feed.rs` (the gateway's word), `shield/routes.rs` (the operator's).

mod feed;
mod metrics;
mod routes;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringwall_ebpf_loader::{
    Added, Attached, Cause, Denied, Error, Fill, List, Prefix, Shield, Talker, Want,
};
use ringwall_service::{App, Shell};
use tokio::time::{MissedTickBehavior, interval};

use self::metrics::Metrics;
use crate::config::kernel::KernelConfig;
use crate::config::shield::{Network, ShieldConfig};

pub(crate) use feed::EdgeShieldService;

/// Between two sweeps; a third of what a sweep holds for.
const SWEEP: Duration = Duration::from_secs(10);
/// Longest denial on a gateway's word.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The shield, or why there is none. No lock is held across an await.
pub(crate) struct Edge {
    state: Mutex<State>,
    interfaces: Vec<String>,
    want: Want,
    feeders: Vec<String>,
    /// Beside loopback.
    allow: Vec<Prefix>,
    max_reported: usize,
    metrics: Metrics,
}

enum State {
    On {
        shield: Box<Shield>,
        places: Places,
        /// Denials that stand on a gateway's word.
        reported: usize,
    },
    Off(String),
}

/// Where it is at work, and where it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) attached: Vec<Attached>,
    pub(crate) missing: Vec<Missing>,
}

/// An interface that it could not be attached to. An interface that comes later is found by the next sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) interface: String,
    pub(crate) why: String,
}

/// What came of a gateway's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Denied,
    Kept,
    Exempt,
    Full,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Kept => "kept",
            Self::Exempt => "exempt",
            Self::Full => "full",
        }
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EdgeError {
    #[error("the shield is off: {0}")]
    Off(String),
    #[error("{0}")]
    Kernel(#[from] Error),
}

/// Everything that is at work.
pub(crate) struct Standing {
    pub(crate) places: Places,
    pub(crate) fill: Vec<(List, Fill)>,
    pub(crate) denied: Vec<Denied>,
}

impl Edge {
    /// Attaches the shield where it is configured.
    pub(crate) fn open(config: &KernelConfig, shield: &ShieldConfig, shell: &Shell) -> Arc<Self> {
        let metrics = Metrics::register(&shell.metrics);
        let state = match attach(config, shield) {
            Ok(state) => state,
            Err(why) => {
                tracing::error!(why, "the edge shield is off: the gateway's own limits hold");
                State::Off(why)
            }
        };
        if let State::On { places, .. } = &state {
            tell(&Places::default(), places, &metrics);
        }
        Arc::new(Self {
            state: Mutex::new(state),
            interfaces: shield.interfaces.clone(),
            want: shield.want(),
            feeders: shield.feeders.clone(),
            allow: shield.allow.iter().map(|Network(prefix)| *prefix).collect(),
            max_reported: shield.max_reported,
            metrics,
        })
    }

    /// A predecessor's shield that nobody asks for any more.
    pub(crate) fn remove(config: &KernelConfig) {
        if let Err(error) = Shield::remove(&config.pins) {
            tracing::warn!(%error, "an earlier shield may still be at work");
        }
    }

    /// One that is off, for tests.
    #[cfg(test)]
    pub(crate) fn off(why: &str, allow: &[&str]) -> Self {
        Self {
            state: Mutex::new(State::Off(why.to_owned())),
            interfaces: Vec::new(),
            want: Want::Best,
            feeders: vec!["gateway".to_owned()],
            allow: allow.iter().filter_map(|text| text.parse().ok()).collect(),
            max_reported: 10,
            metrics: Metrics::register(&ringwall_service::Metrics::default()),
        }
    }

    /// Adds what keeps it going.
    pub(crate) fn join(self: &Arc<Self>, app: App) -> App {
        app.background("edge shield", sweep(Arc::clone(self)))
    }

    /// The operator's routes.
    pub(crate) fn routes(self: &Arc<Self>) -> axum::Router {
        routes::router(Arc::clone(self))
    }

    /// Is this workload one that may have sources denied?
    pub(crate) fn is_feeder(&self, workload: &str) -> bool {
        self.feeders.iter().any(|feeder| feeder == workload)
    }

    /// Denies one source on a gateway's word.
    pub(crate) fn report(
        &self,
        address: IpAddr,
        cause: Cause,
        lasts: Duration,
    ) -> Result<Outcome, EdgeError> {
        let outcome = self.judge_report(address, cause, lasts)?;
        self.metrics.reported(outcome.as_str());
        Ok(outcome)
    }

    fn judge_report(
        &self,
        address: IpAddr,
        cause: Cause,
        lasts: Duration,
    ) -> Result<Outcome, EdgeError> {
        let prefix = Prefix::party(address);
        // A source that shares a /64 with somebody who is allowed is not denied either: that would deny both.
        let allowed = |one: &Prefix| one.covers(prefix) || prefix.covers(*one);
        if !is_a_clients(address) || self.allow.iter().any(allowed) || is_own(prefix) {
            return Ok(Outcome::Exempt);
        }
        let mut state = self.state.lock();
        let (shield, reported) = match &mut *state {
            State::On {
                shield, reported, ..
            } => (shield, reported),
            State::Off(why) => return Err(EdgeError::Off(why.clone())),
        };
        if *reported >= self.max_reported {
            return Ok(Outcome::Full);
        }
        match shield.deny(prefix, cause, Some(lasts.min(LONGEST))) {
            Ok(Added::New) => {
                *reported += 1;
                Ok(Outcome::Denied)
            }
            Ok(Added::Renewed) => Ok(Outcome::Denied),
            Ok(Added::Kept) => Ok(Outcome::Kept),
            Err(Error::ShieldFull { .. }) => Ok(Outcome::Full),
            Err(error) => Err(error.into()),
        }
    }

    /// Denies a network on an operator's word.
    pub(crate) fn deny(&self, prefix: Prefix, lasts: Option<Duration>) -> Result<Added, EdgeError> {
        self.with(|shield| shield.deny(prefix, Cause::Operator, lasts))
    }

    /// Lets a network in again.
    pub(crate) fn forgive(&self, prefix: Prefix) -> Result<bool, EdgeError> {
        self.with(|shield| shield.forgive(prefix))
    }

    pub(crate) fn top(&self, most: usize) -> Result<Vec<Talker>, EdgeError> {
        self.with(|shield| shield.top(most))
    }

    pub(crate) fn standing(&self) -> Result<Standing, EdgeError> {
        let state = self.state.lock();
        match &*state {
            State::On { shield, places, .. } => Ok(Standing {
                places: places.clone(),
                fill: shield.fill().to_vec(),
                denied: shield.list()?,
            }),
            State::Off(why) => Err(EdgeError::Off(why.clone())),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Shield) -> Result<T, Error>) -> Result<T, EdgeError> {
        match &mut *self.state.lock() {
            State::On { shield, .. } => Ok(act(shield)?),
            State::Off(why) => Err(EdgeError::Off(why.clone())),
        }
    }

    fn sweep(&self) {
        let mut state = self.state.lock();
        let State::On {
            shield,
            reported,
            places,
        } = &mut *state
        else {
            return;
        };
        let now = place(shield, &self.interfaces, self.want);
        tell(places, &now, &self.metrics);
        *places = now;
        match shield.sweep() {
            Ok(swept) => *reported = swept.reported,
            Err(error) => tracing::warn!(%error, "the shield cannot be swept"),
        }
        match shield.counts() {
            Ok(counts) => self.metrics.read(&counts, &shield.fill()),
            Err(error) => tracing::warn!(%error, "the shield's counters cannot be read"),
        }
    }
}

/// What a client's packets may come from, and what others would suffer from if it were denied.
fn is_a_clients(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(four) => four.is_broadcast(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}

/// Is an address of this machine in it? Its own calls to its public address have such a source: nobody's report ends them.
fn is_own(prefix: Prefix) -> bool {
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else {
        tracing::error!(
            "this machine's addresses cannot be read: nobody is denied on a gateway's word"
        );
        return true;
    };
    addresses
        .filter_map(|one| {
            let address = one.address?;
            let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
            four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
        })
        .any(|own| prefix.contains(own))
}

fn attach(config: &KernelConfig, shield: &ShieldConfig) -> Result<State, String> {
    let object = std::fs::read(&config.object)
        .map_err(|error| format!("{}: {error}", config.object.display()))?;
    let open = Shield::open(&object, &config.pins, &shield.guard());
    let open = open.map_err(|error| error.to_string())?;
    let places = place(&open, &shield.interfaces, shield.want());
    Ok(State::On {
        shield: Box::new(open),
        places,
        reported: 0,
    })
}

/// Attaches it wherever it should be and is not, and detaches it everywhere else. One interface that cannot be guarded keeps
/// no other one from it.
fn place(shield: &Shield, interfaces: &[String], want: Want) -> Places {
    let mut places = Places::default();
    for interface in interfaces {
        match shield.attach(interface, want) {
            Ok(attached) => places.attached.push(attached),
            Err(error) => places.missing.push(Missing {
                interface: interface.clone(),
                why: error.to_string(),
            }),
        }
    }
    let names: Vec<&str> = interfaces.iter().map(String::as_str).collect();
    if let Err(error) = shield.retain(&names) {
        tracing::warn!(%error, "the shield may still be at an interface that it was at before");
    }
    places
}

/// Says what has changed.
fn tell(before: &Places, now: &Places, metrics: &Metrics) {
    metrics.attached(&now.attached);
    let was = |interface: &str| before.attached.iter().any(|one| one.interface == interface);
    for one in now.attached.iter().filter(|one| !was(&one.interface)) {
        tracing::info!(
            interface = one.interface,
            mode = one.mode.as_str(),
            reason = one.reason,
            "the edge shield is on"
        );
    }
    let missing = now
        .missing
        .iter()
        .filter(|one| !before.missing.contains(one));
    for Missing { interface, why } in missing {
        tracing::error!(
            interface,
            why,
            "the edge shield is not at this interface: the gateway's own limits hold"
        );
    }
}

async fn sweep(edge: Arc<Edge>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let edge = Arc::clone(&edge);
        // A full list takes some tenths of a second.
        if tokio::task::spawn_blocking(move || edge.sweep())
            .await
            .is_err()
        {
            tracing::error!("a sweep of the shield has panicked");
        }
    }
}

#[cfg(test)]
mod tests;
