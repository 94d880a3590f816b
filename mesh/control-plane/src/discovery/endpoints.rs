//! Where services are served: registrations with their health, and the lease that outlives a lost stream.
//!
//! Owns: which endpoints callers see. Must not: read a clock; `now` is the time since the start.
//!
//! Only READY endpoints with a weight are seen; NOT_READY, DRAINING and weight 0 leave at once. When a stream is lost, its endpoints stay for
//! [`LEASE`], since a proxy that lost its control plane still serves; the same instance, or a new process at the same
//! address, takes them over. When more than half of all endpoints lose their streams together, it is more likely that we
//! are the ones who are cut off, and they stay for [`LONG_LEASE`].

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

#[derive(Debug)]
struct Registered {
    proxy: Proxy,
    weight: u32,
    ready: bool,
    held: Held,
}

/// Address of the proxy and port of the application behind it.
type Key = (SocketAddr, u16);

/// All registrations.
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
        let next = Registered {
            proxy: proxy.clone(),
            weight: report.weight,
            ready: report.ready,
            held: Held::By(stream),
        };
        let seen = next.seen(key);
        let before = of_service.insert(key, next);
        let mut changed = before.as_ref().and_then(|before| before.seen(key)) != seen;
        match &before {
            None => self.total += 1,
            Some(before) if matches!(before.held, Held::Lost(_)) => self.lost -= 1,
            Some(_) => {}
        }
        changed |= self.leave_former(stream, proxy, key);
        Ok(changed)
    }

    /// The same instance at another address has moved.
    fn leave_former(&mut self, stream: StreamId, proxy: &Proxy, now_at: Key) -> bool {
        let Some(of_service) = self.services.get_mut(&proxy.workload) else {
            return false;
        };
        let former: Vec<Key> = of_service
            .iter()
            .filter(|(key, known)| {
                key.1 == now_at.1
                    && key.0 != now_at.0
                    && known.proxy.instance == proxy.instance
                    && known.held != Held::By(stream)
            })
            .map(|(key, _)| *key)
            .collect();
        let mut changed = false;
        for key in former {
            if let Some(gone) = of_service.remove(&key) {
                self.total -= 1;
                self.lost -= usize::from(matches!(gone.held, Held::Lost(_)));
                changed |= gone.ready;
            }
        }
        changed
    }

    /// Starts the lease of what a stream had registered. What nobody sees has no lease.
    pub(crate) fn stream_ended(&mut self, stream: StreamId, now: Duration) {
        for (service, key) in self.streams.remove(&stream).unwrap_or_default() {
            let Some(of_service) = self.services.get_mut(&service) else {
                continue;
            };
            match of_service.get_mut(&key) {
                Some(known) if known.held == Held::By(stream) && known.ready => {
                    known.held = Held::Lost(now);
                    self.lost += 1;
                }
                Some(known) if known.held == Held::By(stream) => {
                    of_service.remove(&key);
                    self.total -= 1;
                }
                _ => {}
            }
        }
    }

    /// Ends leases; the services whose callers see less now.
    pub(crate) fn expire(&mut self, now: Duration) -> Vec<Arc<str>> {
        let lease = self.lease();
        let mut changed = Vec::new();
        for (service, of_service) in &mut self.services {
            let before = of_service.len();
            of_service.retain(|_, known| match known.held {
                Held::By(_) => true,
                Held::Lost(at) => now < at + lease,
            });
            let gone = before - of_service.len();
            if gone > 0 {
                self.total -= gone;
                self.lost -= gone;
                changed.push(Arc::clone(service));
            }
        }
        changed
    }

    /// When [`Endpoints::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        if self.lost == 0 {
            return None;
        }
        let all = self.services.values().flat_map(BTreeMap::values);
        let lost = all.filter_map(|known| match known.held {
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
            .filter_map(|(key, known)| known.seen(*key))
            .collect()
    }

    /// All registrations, and those without a stream.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.total, self.lost)
    }
}

impl Registered {
    fn seen(&self, (address, port): Key) -> Option<v1::Endpoint> {
        self.ready.then(|| v1::Endpoint {
            address: address.to_string(),
            port: port.into(),
            node: self.proxy.node.to_string(),
            zone: self.proxy.zone.to_string(),
            weight: Some(self.weight),
            instance: self.proxy.instance.to_string(),
        })
    }
}

#[cfg(test)]
mod tests;
