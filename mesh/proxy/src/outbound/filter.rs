//! Step 5: the plugins on the way to the service, and those of its answer on the way back.
//!
//! Owns: what plugins are told about a call. They stand behind the edge: a call that has none never reaches them, and where it
//! goes is settled: method and host stay, and a path that they change is the callee's to decide about, as any path is. They do
//! not see the secret of the loopback. Must not: filter what it cannot see: HTTP in a tunnel of the application's own is refused.
//! Read next: `plugins/http.rs`.

use std::ops::ControlFlow;
use std::sync::Arc;

use http::Response;
use ringwall_plugin_host::ConnectionInfo;

use super::admit::{Admitted, Purpose};
use super::enter::Placed;
use super::exchange::Exchange;
use crate::body::ProxyBody;
use crate::plugins::http::{Answer, Passed, Stream, pass};
use crate::plugins::{facts, tcp};
use crate::refusal::Refusal;
use crate::serve::Session;
use crate::snapshot::Protocol;

/// Evidence: whatever stands on the way to the service has let the call pass.
#[derive(Debug)]
pub(super) struct Filtered {
    pub(super) placed: Placed,
    pub(super) plugins: Stream,
    /// Those of a tunnel's bytes.
    pub(super) bytes: Option<tcp::Plugins>,
}

impl Filtered {
    /// A plugin's own call, which passes no plugin.
    pub(super) fn by_a_plugin(mut placed: Placed, exchange: &mut Exchange) -> Self {
        count(&mut placed, exchange);
        Self::untouched(placed)
    }

    fn untouched(placed: Placed) -> Self {
        Self {
            placed,
            plugins: Stream::default(),
            bytes: None,
        }
    }
}

/// What the application sends counts, not what plugins make of it.
fn count(placed: &mut Placed, exchange: &mut Exchange) {
    let admitted = &mut placed.admitted;
    if let Purpose::Request { .. } = admitted.purpose {
        let body = std::mem::replace(&mut admitted.body, ProxyBody::empty());
        admitted.body = exchange.count(body);
    }
}

/// Passes the call; `Break` is a plugin's own answer. `connection`: the application's.
pub(super) async fn filter(
    session: &Arc<Session>,
    connection: impl FnOnce() -> Arc<ConnectionInfo>,
    mut placed: Placed,
    exchange: &mut Exchange,
) -> Result<ControlFlow<Response<ProxyBody>, Filtered>, Refusal> {
    count(&mut placed, exchange);
    let worker = &session.worker;
    let filters = worker.shared.filters.load();
    let chain = filters
        .outbound(&placed.service.name, placed.port.number)
        .clone();
    drop(filters);
    if chain.is_empty() {
        return Ok(ControlFlow::Continue(Filtered::untouched(placed)));
    }
    let (service, port) = (Arc::clone(&placed.service), placed.port);
    let id = exchange.trace.id().into();
    let facts = move || {
        let mut facts = facts::outbound(connection(), &service, port);
        facts.request_id = Some(id);
        facts
    };
    let has_bytes = match placed.admitted.purpose {
        Purpose::Request { .. } => false,
        Purpose::WebSocket(_) => true,
        Purpose::Tunnel(_) if port.protocol == Protocol::Tcp => {
            let bytes = tcp::admit(worker, &chain, facts).await?;
            return Ok(ControlFlow::Continue(Filtered {
                placed,
                plugins: Stream::default(),
                bytes,
            }));
        }
        Purpose::Tunnel(_) => return Err(Refusal::Filter("filter-tunnel", None)),
    };
    let Admitted {
        parts,
        body,
        target,
        purpose,
    } = placed.admitted;
    let (parts, body, plugins) = match pass(worker, &chain, facts, (parts, body), has_bytes).await?
    {
        Passed::On(parts, body, plugins) => (*parts, body, plugins),
        Passed::Answered(Answer { response, why }) => {
            exchange.refused(&why);
            return Ok(ControlFlow::Break(response));
        }
    };
    placed.admitted = Admitted {
        parts,
        body,
        target,
        purpose,
    };
    Ok(ControlFlow::Continue(Filtered {
        placed,
        plugins,
        bytes: None,
    }))
}
