//! Step 4: a place among the requests to the destination, and the time that this one has.
//!
//! Owns: the bound on what is in flight, and the deadline out of the policy's timeout and the caller's wish.

use std::sync::Arc;
use std::time::Duration;

use super::admit::{Admitted, Purpose};
use super::permit::Permitted;
use crate::refusal::Refusal;
use crate::resilience::deadline::{self, Deadline};
use crate::resilience::policy::Rules;
use crate::resilience::{Callee, Entered};
use crate::serve::Session;
use crate::snapshot::{Port, Service, Snapshot};

/// Evidence: the call counts as in flight.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) admitted: Admitted,
    pub(super) service: Arc<Service>,
    pub(super) port: Port,
    pub(super) callee: Arc<Callee>,
    pub(super) entered: Entered,
    pub(super) deadline: Deadline,
    /// When the caller stops caring about anything, body included.
    pub(super) asked: Option<Deadline>,
}

pub(super) fn enter(
    session: &Session,
    snapshot: &Snapshot,
    permitted: Permitted,
) -> Result<Placed, Refusal> {
    let (admitted, service, port) = permitted.into_call();
    let callee = session
        .worker
        .shared
        .callees
        .of(snapshot, &service, port.number);
    let asked =
        deadline::asked(&admitted.parts.headers).map_err(|_| Refusal::Malformed("grpc-timeout"))?;
    let rules = Rules::of(
        &service.traffic,
        &admitted.parts.method,
        admitted.parts.uri.path(),
    );
    let now = callee.now();
    let deadline = Deadline::new(now, rules.timeout, asked);
    let asked = asked.map(|asked| Deadline::new(now, asked, None));
    let entered = match admitted.purpose {
        // What lasts is a connection, whatever it is carried by.
        Purpose::Tunnel(_) => callee.enter_connection(),
        Purpose::Request { .. } | Purpose::WebSocket(_) => callee.enter(),
    };
    let entered = entered.map_err(|overloaded| Refusal::Overloaded(overloaded.0))?;
    Ok(Placed {
        admitted,
        service,
        port,
        callee,
        entered,
        deadline,
        asked,
    })
}

/// What the next hop is told of the time: all of the caller's own wish, which is for the body too, or what a plain request
/// has left for its answer's head. A call of gRPC without a deadline may stream for ever, and is told nothing.
pub(super) fn told(
    now: Duration,
    deadline: Deadline,
    asked: Option<Deadline>,
    grpc: bool,
) -> Option<Duration> {
    match asked {
        Some(asked) => asked.left(now),
        None if grpc => None,
        None => deadline.left(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r30_the_next_hop_learns_the_time_that_is_left() {
        let s = Duration::from_secs;
        let deadline = Deadline::new(s(0), s(15), Some(s(60)));
        let asked = Some(Deadline::new(s(0), s(60), None));
        assert_eq!(told(s(10), deadline, asked, true), Some(s(50)));
        assert_eq!(told(s(10), deadline, asked, false), Some(s(50)));
        assert_eq!(told(s(10), deadline, None, false), Some(s(5)));
        assert_eq!(told(s(10), deadline, None, true), None);
    }
}
