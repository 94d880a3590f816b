//! Step 7 of the egress gateway: out of the platform instead of to an application.
//!
//! Owns: the hand-over of an authorized request or tunnel to the gateway's role (`egress.rs`), which has its own
//! allow-list beside the mesh's policy. Must not: add what an application behind a proxy would be told.

use std::pin::pin;
use std::sync::Arc;

use http::{Request, Response};
use ringwall_http_io::body;

use super::admit::Purpose;
use super::exchange::Exchange;
use super::filter::Filtered;
use super::strip::Stripped;
use crate::body::ProxyBody;
use crate::egress::Egress;
use crate::inbound::caller::Caller;
use crate::refusal::Refusal;
use crate::tunnel::{ReadBody, feed};

/// Bytes between a tunnel's stream and the server outside, per direction.
const PIPE: usize = 16 * 1024;

pub(crate) async fn leave(
    caller: &Arc<Caller>,
    egress: &Arc<Egress>,
    filtered: Filtered,
    exchange: &mut Exchange,
) -> Result<Response<ProxyBody>, Refusal> {
    let Filtered {
        stripped, permit, ..
    } = filtered;
    let Stripped {
        parts,
        body,
        port,
        purpose,
        ..
    } = stripped;
    exchange.permit = Some(permit);
    exchange.tap(&parts);
    match purpose {
        Purpose::WebSocket(_) => Err(Refusal::Upgrade),
        Purpose::Request { .. } => {
            let request = Request::from_parts(parts, body::boxed(body));
            let response = egress.handle(caller.name(), request).await;
            exchange.answered();
            Ok(response.map(ProxyBody::boxed))
        }
        Purpose::Tunnel => {
            let body = exchange.count(body);
            let authority = parts.uri.authority().ok_or(Refusal::UnknownPort)?;
            match egress.connect(caller.name(), authority.as_str()).await {
                Err(refusal) => Ok(refusal.response().map(ProxyBody::boxed)),
                Ok(passage) => {
                    exchange.answered();
                    let (near, far) = tokio::io::duplex(PIPE);
                    let (reader, writer) = tokio::io::split(near);
                    caller.session.beside(caller.bond(port), async move {
                        let mut carrying = pin!(passage.carry(far));
                        // The end of the passage is the end of both directions, that of the caller's bytes is told on.
                        tokio::select! {
                            _ended = feed(body, writer) => {
                                let _carried = carrying.await;
                            }
                            _carried = &mut carrying => {}
                        }
                    });
                    Ok(Response::new(ProxyBody::socket(ReadBody::new(reader))))
                }
            }
        }
    }
}
