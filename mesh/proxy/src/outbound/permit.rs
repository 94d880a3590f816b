//! Step 3: may this workload connect there at all?
//!
//! Owns: the edge, asked of the caller's own copy of the policy. The callee's proxy asks again, with everything that only it
//! knows; here a forbidden call fails before it leaves the machine, and with words that help. Must not: allow without policy.

use std::sync::Arc;

use super::admit::Admitted;
use super::destine::Destined;
use crate::refusal::Refusal;
use crate::serve::Session;
use crate::snapshot::{Port, Service, Snapshot};

/// Evidence: policy has the edge.
#[derive(Debug)]
pub(super) struct Permitted {
    admitted: Admitted,
    service: Arc<Service>,
    port: Port,
}

impl Permitted {
    pub(super) fn into_call(self) -> (Admitted, Arc<Service>, Port) {
        (self.admitted, self.service, self.port)
    }
}

pub(super) fn permit(
    session: &Session,
    snapshot: &Snapshot,
    destined: Destined,
) -> Result<Permitted, Refusal> {
    let Destined {
        admitted,
        service,
        port,
    } = destined;
    edge(session, snapshot, &service, port)?;
    Ok(Permitted {
        admitted,
        service,
        port,
    })
}

/// The same for opaque bytes, which have no request.
pub(super) fn edge(
    session: &Session,
    snapshot: &Snapshot,
    service: &Service,
    port: Port,
) -> Result<(), Refusal> {
    let workload = &session.worker.shared.workload;
    let policy = snapshot.policy.as_ref().ok_or(Refusal::NotReady)?;
    if policy.allows_edge(workload, &service.name, port.number) {
        return Ok(());
    }
    let (name, number) = (&service.name, port.number);
    let reason = format!(
        "`{workload}` has no edge to port {number} of `{name}`: declare it in ringwall.yaml, among the `calls` of \
         `{workload}` and the `callers` of `{name}`"
    );
    Err(Refusal::NoEdge(reason.into()))
}
