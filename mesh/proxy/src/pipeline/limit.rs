//! Step 5: how many at once?
//!
//! Owns: the bound on requests that the application works on, per worker; tunnels and WebSockets last, and count as
//! connections. Streams per connection and heads have their limits where they come in (`serve.rs`). Must not: queue.

use ringwall_data_path::permit::Permit;

use super::authorize::Authorized;
use crate::inbound::caller::Caller;
use crate::refusal::Refusal;

/// Evidence: there is room at the application.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(super) authorized: Authorized,
    pub(super) permit: Permit,
}

pub(crate) fn limit(caller: &Caller, authorized: Authorized) -> Result<Limited, Refusal> {
    let worker = &caller.session.worker;
    let permit = if authorized.lasts() {
        let permit = worker.shared.permit();
        permit.ok_or(Refusal::Overloaded("too-many-connections"))?
    } else {
        let limit = worker.shared.config.limits.max_requests;
        let permit = Permit::take(&worker.inbound.requests, limit);
        permit.ok_or(Refusal::Overloaded("too-many-requests"))?
    };
    Ok(Limited { authorized, permit })
}
