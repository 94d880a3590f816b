//! Step 4: may they?
//!
//! Owns: [`Authorized`], which nothing else can make. A request needs a permitting policy; a tunnel needs its edge,
//! since there is nothing else to ask about. The caller's edge was checked in the handshake, and is again here: the
//! policy may have changed since, and a tunnel may lead to another port. Must not: decide by itself.

use std::sync::Arc;

use ringwall_policy::mesh::{MeshRequest, UserFacts};

use super::admit::Purpose;
use super::exchange::Exchange;
use super::identify::Identified;
use super::strip::Stripped;
use crate::inbound::AppPort;
use crate::inbound::caller::Caller;
use crate::refusal::Refusal;

/// Evidence: the mesh's policy permits this request. `forward` takes nothing less.
#[derive(Debug)]
pub(crate) struct Authorized {
    stripped: Stripped,
    user: Option<Arc<UserFacts>>,
}

impl Authorized {
    /// Whether it lasts as a connection does.
    pub(super) const fn lasts(&self) -> bool {
        matches!(
            self.stripped.purpose,
            Purpose::Tunnel | Purpose::WebSocket(_)
        )
    }

    /// With the user whom the policy was told of.
    pub(super) fn into_request(self) -> (Stripped, Option<Arc<UserFacts>>) {
        (self.stripped, self.user)
    }
}

pub(crate) fn authorize(
    caller: &Caller,
    identified: Identified,
    exchange: &mut Exchange,
) -> Result<Authorized, Refusal> {
    let Identified { stripped, user } = identified;
    let worker = &caller.session.worker;
    let shared = &worker.shared;
    let snapshot = shared.state.snapshot.load();
    let policy = snapshot.policy.as_ref().ok_or(Refusal::NoPolicy)?;
    if matches!(stripped.purpose, Purpose::Tunnel) {
        return if policy.allows_edge(caller.name(), &shared.workload, stripped.port.number) {
            Ok(Authorized { stripped, user })
        } else {
            Err(Refusal::Denied("no edge".into()))
        };
    }
    let request = asked(caller, &stripped, user.as_deref());
    let mut decisions = worker.inbound.decisions.lock();
    let verdict = decisions.decide(policy, &request, &shared.state.usage);
    drop(decisions);
    exchange.verdict = Some(Arc::clone(&verdict));
    if verdict.allowed {
        Ok(Authorized { stripped, user })
    } else {
        Err(Refusal::Denied(Arc::clone(&verdict.reason)))
    }
}

/// Whether the policy permits the request as plugins have left it. It counts as one request still.
pub(super) fn still_holds(caller: &Caller, stripped: &Stripped, user: Option<&UserFacts>) -> bool {
    let worker = &caller.session.worker;
    let shared = &worker.shared;
    let snapshot = shared.state.snapshot.load();
    let Some(policy) = &snapshot.policy else {
        return false;
    };
    let request = asked(caller, stripped, user);
    let mut decisions = worker.inbound.decisions.lock();
    decisions
        .verdict(policy, &request, &shared.state.usage)
        .allowed
}

fn asked<'a>(
    caller: &'a Caller,
    stripped: &'a Stripped,
    user: Option<&'a UserFacts>,
) -> MeshRequest<'a> {
    MeshRequest {
        caller: &caller.peer.id,
        callee: &caller.session.worker.shared.workload,
        port: stripped.port.number,
        method: method(stripped),
        path: stripped.parts.uri.path(),
        headers: &stripped.parts.headers,
        user,
    }
}

/// A WebSocket is asked about as what it is to the application: a GET, whatever carries it.
fn method(stripped: &Stripped) -> &str {
    match stripped.purpose {
        Purpose::WebSocket(_) => "GET",
        _ => stripped.parts.method.as_str(),
    }
}

/// For bytes without HTTP around them: the edge alone decides.
pub(super) fn authorize_bytes(caller: &Caller, port: AppPort) -> Result<(), Refusal> {
    let shared = &caller.session.worker.shared;
    let snapshot = shared.state.snapshot.load();
    let policy = snapshot.policy.as_ref().ok_or(Refusal::NoPolicy)?;
    if policy.allows_edge(caller.name(), &shared.workload, port.number) {
        Ok(())
    } else {
        Err(Refusal::Denied("no edge".into()))
    }
}
