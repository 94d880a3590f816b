//! Where services are served: registrations with their health, and the lease that outlives a lost stream.
//!
//! Owns: which endpoints callers see. Must not: read a clock; `now` is the time since the start.
//!
//! Only READY endpoints with a weight are seen; NOT_READY, DRAINING and weight 0 leave at once. When a stream is lost,
//! its endpoints stay for [`LEASE`], since a proxy that lost its control plane still serves; the same instance, or a
//! new process at the same address, takes them over. While a proxy's binary is replaced, two processes serve one
//! address: each has a claim, and the address stays as long as one of them is ready. When more than half of all
//! endpoints lose their streams together, it is more likely that we are the ones who are cut off, and they stay for
//! [`LONG_LEASE`].

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringwall_mesh_api::{v1, weight};

/// How long an endpoint outlives its stream.
pub(crate) const LEASE: Duration = Duration::from_secs(5);
/// The same while most endpoints are without a stream.
pub(crate) const LONG_LEASE: Duration = Duration::from_secs(30);
/// Below this, a majority says nothing.
const FEW: usize = 4;
/// Endpoints of one stream (one for each listener).
const MAX_PER_STREAM: usize = 8;
/// Endpoints of one service.
const MAX_PER_SERVICE: usize = 2_000;
/// Longest instance, node or zone.
pub(crate) const MAX_NAME: usize = 128;

/// One connected stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamId(pub(crate) u64);

/// Whose endpoint it is: the workload by its certificate, the rest by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) workload: Arc<str>,
    pub(crate) instance: Arc<str>,
    pub(crate) node: Arc<str>,
    pub(crate) zone: Arc<str>,
}

/// A report that can be believed in form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    address: SocketAddr,
    port: u16,
    weight: u32,
    ready: bool,
}

/// Why a report is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReportError {
    #[error("{0:?} is no address that a proxy could dial")]
    Address(String),
    #[error("port {0} is not declared for this service")]
    Port(u32),
    #[error("the weight is {0}, expected 0 to {max}", max = weight::MAX)]
    Weight(u32),
    #[error("the health is not said")]
    Health,
    #[error("a stream has at most 8 endpoints")]
    TooMany,
    #[error("a service has at most 2000 endpoints")]
    Full,
}

impl Report {
    /// `ports` are those that the service declares.
    pub(crate) fn parse(report: &v1::EndpointReport, ports: &[u16]) -> Result<Self, ReportError> {
        let text = &report.address;
        let address: SocketAddr = text
            .parse()
            .ok()
            .filter(|address: &SocketAddr| {
                let ip = address.ip().to_canonical();
                address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
            })
            .ok_or_else(|| ReportError::Address(text.chars().take(64).collect()))?;
        let port = u16::try_from(report.port).ok();
        let port = port.filter(|port| ports.contains(port));
        let port = port.ok_or(ReportError::Port(report.port))?;
        let weight = weight::read(report.weight);
        if weight > weight::MAX {
            return Err(ReportError::Weight(weight));
        }
        let ready = match report.health() {
            v1::Health::Ready => true,
            v1::Health::NotReady | v1::Health::Draining => false,
            v1::Health::Unspecified => return Err(ReportError::Health),
        };
        Ok(Self {
            address,
            port,
            weight,
            // Who is to get nothing is not shown to callers: none of them has to know the rule.
            ready: ready && weight > 0,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    By(StreamId),
    /// Its stream was lost at this time.
    Lost(Duration),
}

/// What one process says of an address.
#[derive(Debug)]
struct Claim {
    proxy: Proxy,
    weight: u32,
    ready: bool,
    held: Held,
}

/// Everything that is said of one address, the newest stream's claim last. Never empty.
#[derive(Debug, Default)]
struct Registered {
    claims: Vec<Claim>,
}

/// Address of the proxy and port of the application behind it.
type Key = (SocketAddr, u16);

/// All claims.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    services: BTreeMap<Arc<str>, BTreeMap<Key, Registered>>,
    streams: HashMap<StreamId, Vec<(Arc<str>, Key)>>,
    total: usize,
    lost: usize,
}

impl Endpoints {
    /// Registers or updates; `true` when what callers see has changed.
    pub(crate) fn report(
        &mut self,
        stream: StreamId,
        proxy: &Proxy,
        report: Report,
    ) -> Result<bool, ReportError> {
        let service = &proxy.workload;
        let key = (report.address, report.port);
        let own = self.streams.entry(stream).or_default();
        let of_service = self.services.entry(Arc::clone(service)).or_default();
        if !own.iter().any(|(_, known)| *known == key) {
            if own.len() == MAX_PER_STREAM {
                return Err(ReportError::TooMany);
            }
            if of_service.len() == MAX_PER_SERVICE && !of_service.contains_key(&key) {
                return Err(ReportError::Full);
            }
            own.push((Arc::clone(service), key));
        }
        let registered = of_service.entry(key).or_default();
        let before = registered.seen(key);
        let counted = registered.counts();
        registered.claim(Claim {
            proxy: proxy.clone(),
            weight: report.weight,
            ready: report.ready,
            held: Held::By(stream),
        });
        let changed = registered.seen(key) != before;
        let counts = registered.counts();
        self.recount(counted, counts);
        Ok(self.leave_former(stream, proxy, key) || changed)
    }

    fn recount(&mut self, before: (usize, usize), after: (usize, usize)) {
        self.total = self.total + after.0 - before.0;
        self.lost = self.lost + after.1 - before.1;
    }

    /// The same instance at another address has moved.
    fn leave_former(&mut self, stream: StreamId, proxy: &Proxy, now_at: Key) -> bool {
        let Some(of_service) = self.services.get_mut(&proxy.workload) else {
            return false;
        };
        let (mut changed, mut total, mut lost) = (false, 0, 0);
        of_service.retain(|key, registered| {
            if key.1 != now_at.1 || key.0 == now_at.0 {
                return true;
            }
            let (before, counted) = (registered.seen(*key), registered.counts());
            registered.claims.retain(|claim| {
                claim.proxy.instance != proxy.instance || claim.held == Held::By(stream)
            });
            let counts = registered.counts();
            total += counted.0 - counts.0;
            lost += counted.1 - counts.1;
            changed |= registered.seen(*key) != before;
            !registered.claims.is_empty()
        });
        self.recount((total, lost), (0, 0));
        changed
    }

    /// Starts the lease of what a stream had registered. What nobody sees has no lease.
    pub(crate) fn stream_ended(&mut self, stream: StreamId, now: Duration) {
        for (service, key) in self.streams.remove(&stream).unwrap_or_default() {
            let Some(of_service) = self.services.get_mut(&service) else {
                continue;
            };
            let Some(registered) = of_service.get_mut(&key) else {
                continue;
            };
            let counted = registered.counts();
            registered.lose(stream, now);
            let counts = registered.counts();
            if counts.0 == 0 {
                of_service.remove(&key);
            }
            self.recount(counted, counts);
        }
    }

    /// Ends leases; the services whose callers see less now.
    pub(crate) fn expire(&mut self, now: Duration) -> Vec<Arc<str>> {
        let lease = self.lease();
        let mut changed = Vec::new();
        let mut gone = 0;
        for (service, of_service) in &mut self.services {
            let before = gone;
            of_service.retain(|_, registered| {
                let length = registered.claims.len();
                registered.claims.retain(|claim| match claim.held {
                    Held::By(_) => true,
                    Held::Lost(at) => now < at + lease,
                });
                gone += length - registered.claims.len();
                !registered.claims.is_empty()
            });
            if gone > before {
                changed.push(Arc::clone(service));
            }
        }
        self.recount((gone, gone), (0, 0));
        changed
    }

    /// When [`Endpoints::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        if self.lost == 0 {
            return None;
        }
        let all = self.services.values().flat_map(BTreeMap::values);
        let claims = all.flat_map(|registered| &registered.claims);
        let lost = claims.filter_map(|claim| match claim.held {
            Held::By(_) => None,
            Held::Lost(at) => Some(at),
        });
        lost.min().map(|at| at + self.lease())
    }

    fn lease(&self) -> Duration {
        let most = self.total >= FEW && self.lost * 2 > self.total;
        if most { LONG_LEASE } else { LEASE }
    }

    /// What callers of `service` see, ordered by address.
    pub(crate) fn seen(&self, service: &str) -> Vec<v1::Endpoint> {
        let of_service = self.services.get(service).into_iter().flatten();
        of_service
            .filter_map(|(key, registered)| registered.seen(*key))
            .collect()
    }

    /// Everything that is registered, ready or not: address, and the service's port.
    pub(super) fn registered(&self, service: &str) -> Vec<(String, u32)> {
        let of_service = self.services.get(service).into_iter().flatten();
        let keys = of_service.map(|(key, _)| *key);
        keys.map(|(address, port)| (address.to_string(), port.into()))
            .collect()
    }

    /// All claims, and those without a stream.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.total, self.lost)
    }
}

impl Registered {
    /// Adds a claim, or replaces what it is the newer word of: that of the same stream or instance, and those of
    /// processes that are gone.
    fn claim(&mut self, new: Claim) {
        let Held::By(stream) = new.held else { return };
        let outdated = |known: &Claim| match known.held {
            Held::By(other) => known.proxy.instance == new.proxy.instance && other > stream,
            Held::Lost(_) => false,
        };
        if self.claims.iter().any(outdated) {
            // A former stream of a process that has opened another one.
            return;
        }
        self.claims.retain(|known| match known.held {
            Held::By(other) => other != stream && known.proxy.instance != new.proxy.instance,
            Held::Lost(_) => false,
        });
        let newer = |known: &Claim| matches!(known.held, Held::By(other) if other > stream);
        let place = self.claims.iter().position(newer);
        self.claims.insert(place.unwrap_or(self.claims.len()), new);
    }

    /// A ready claim gets a lease, unless another process serves the address.
    fn lose(&mut self, stream: StreamId, now: Duration) {
        let others = |claim: &Claim| claim.held != Held::By(stream) && claim.ready;
        let served = self.claims.iter().any(others);
        self.claims.retain_mut(|claim| {
            if claim.held != Held::By(stream) {
                return true;
            }
            claim.held = Held::Lost(now);
            claim.ready && !served
        });
    }

    /// Of all that are ready, the newest.
    fn seen(&self, (address, port): Key) -> Option<v1::Endpoint> {
        let claim = self.claims.iter().rev().find(|claim| claim.ready)?;
        Some(v1::Endpoint {
            address: address.to_string(),
            port: port.into(),
            node: claim.proxy.node.to_string(),
            zone: claim.proxy.zone.to_string(),
            weight: Some(claim.weight),
            instance: claim.proxy.instance.to_string(),
        })
    }

    /// All claims, and those without a stream.
    fn counts(&self) -> (usize, usize) {
        let lost = |claim: &&Claim| matches!(claim.held, Held::Lost(_));
        (self.claims.len(), self.claims.iter().filter(lost).count())
    }
}

#[cfg(test)]
mod tests;
