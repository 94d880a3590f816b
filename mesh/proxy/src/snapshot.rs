//! What this proxy knows of the mesh: one immutable value, swapped whole.
//!
//! Owns: the shape in which the parts of the proxy see services, endpoints, policy and revocations. An old snapshot lives
//! until its requests end. Must not: talk to the control plane (`control.rs`) or decide (`ringwall-policy`).
//! Read next: `snapshot/compile.rs`, which makes these values from what the control plane says.

pub(crate) mod compile;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ringwall_identity::SpiffeId;
use ringwall_policy::mesh::MeshPolicy;

pub(crate) use ringwall_mesh_api::traffic::{Breaker, Outlier, Retries, TrafficPolicy};

/// The state of one revision.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) revision: u64,
    /// Services that this workload may call, by name.
    pub(crate) services: BTreeMap<Arc<str>, Arc<Service>>,
    /// `None` until a signed bundle has arrived: everything is denied.
    pub(crate) policy: Option<Arc<MeshPolicy>>,
    pub(crate) revocations: Arc<Revocations>,
}

impl Snapshot {
    /// What is known before anybody said anything: nothing, so that everything is denied.
    pub(crate) fn empty() -> Self {
        Self {
            revision: 0,
            services: BTreeMap::new(),
            policy: None,
            revocations: Arc::default(),
        }
    }
}

/// A service and where it is served.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    pub(crate) identity: SpiffeId,
    pub(crate) ports: Vec<Port>,
    pub(crate) tier: String,
    pub(crate) traffic: TrafficPolicy,
    /// Speaks its own TLS and has no proxy: dialled as it is.
    pub(crate) direct: Vec<String>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

/// How bytes on a port are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 and HTTP/2, told apart by the client's first bytes.
    Http,
    Http2,
    /// Opaque; servers may speak first, so that nothing is waited for.
    Tcp,
}

/// One proxy that serves a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// Port of the application, as callers name it.
    pub(crate) port: u16,
    pub(crate) zone: Box<str>,
    pub(crate) weight: u32,
    pub(crate) instance: Box<str>,
}

/// Who is no longer believed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Revocations {
    pub(crate) revision: u64,
    /// Big-endian without leading zeros: see [`Revocations::serial`].
    pub(crate) serials: HashSet<Vec<u8>>,
    pub(crate) spiffe_ids: HashSet<String>,
    pub(crate) spki_sha256: HashSet<[u8; 32]>,
}

impl Revocations {
    /// The one form of a serial number: DER puts a zero before a first byte of 0x80 and more.
    pub(crate) fn serial(bytes: &[u8]) -> &[u8] {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.get(zeros..).unwrap_or_default()
    }

    /// Whether a certificate is no longer believed, for whichever reason.
    pub(crate) fn name(&self, serial: &[u8], id: &SpiffeId, spki_sha256: &[u8; 32]) -> bool {
        self.serials.contains(Self::serial(serial))
            || self.spiffe_ids.contains(id.as_str())
            || self.spki_sha256.contains(spki_sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r34_a_serial_an_id_or_a_key_is_enough() {
        let orders = SpiffeId::parse("spiffe://ringwall.local/orders").unwrap();
        let revoked = |serial: Option<&[u8]>, id: Option<&str>, key: Option<u8>| Revocations {
            revision: 1,
            serials: serial.map(<[u8]>::to_vec).into_iter().collect(),
            spiffe_ids: id.map(str::to_owned).into_iter().collect(),
            spki_sha256: key.map(|byte| [byte; 32]).into_iter().collect(),
        };
        let named = |revocations: &Revocations| revocations.name(&[0, 0x80, 1], &orders, &[7; 32]);
        assert!(!named(&Revocations::default()));
        assert!(named(&revoked(Some(&[0x80, 1]), None, None)));
        assert!(named(&revoked(None, Some(orders.as_str()), None)));
        assert!(named(&revoked(None, None, Some(7))));
        assert!(!named(&revoked(
            Some(&[0x80, 2]),
            Some("spiffe://ringwall.local/x"),
            Some(8)
        )));
    }
}
