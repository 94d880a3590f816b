//! Step 8: the answer leaves, and the record of the call with it.
//!
//! Must not: change a status. Connection fields are those of `serve.rs`.

use std::sync::Arc;

use http::Response;
use hyper_util::rt::TokioIo;

use super::exchange::Exchange;
use super::switch::Joint;
use crate::body::{ProxyBody, Record as _};
use crate::plugins::tcp::relay;
use crate::refusal::Refusal;
use crate::tunnel::{Moved, splice};

pub(super) fn pass(
    response: Response<ProxyBody>,
    mut exchange: Box<Exchange>,
) -> Response<ProxyBody> {
    match exchange.joint.take() {
        None => finish(response, exchange),
        Some(joint) => {
            exchange.responds(&response);
            flow(joint, exchange);
            response
        }
    }
}

pub(super) fn refuse(refusal: &Refusal, mut exchange: Box<Exchange>) -> Response<ProxyBody> {
    exchange.refused(refusal);
    finish(refusal.response(exchange.is_grpc()), exchange)
}

fn finish(response: Response<ProxyBody>, mut exchange: Box<Exchange>) -> Response<ProxyBody> {
    exchange.responds(&response);
    if exchange.is_headless() {
        // Nobody reads the body of an answer to HEAD: the head was all.
        exchange.ended();
        return response;
    }
    response.map(|body| body.recorded(exchange))
}

/// Carries bytes between the application and the tunnel once the answer has left.
fn flow(joint: Joint, mut exchange: Box<Exchange>) {
    let session = Arc::clone(&exchange.session);
    // What comes now are no messages of HTTP.
    session.watch.set_upgraded();
    session.beside(exchange.bond(), async move {
        let moved = Moved::default();
        let ended = match joint.application.await {
            Ok(application) => match joint.plugins {
                None => splice(TokioIo::new(application), joint.tunnel, &moved)
                    .await
                    .map_err(|_| None),
                Some(plugins) => {
                    let application = TokioIo::new(application);
                    let watch = &exchange.session.watch;
                    relay(&plugins, application, joint.tunnel, &moved, watch)
                        .await
                        .map_err(Some)
                }
            },
            Err(_) => Err(None),
        };
        if let Err(Some(refusal @ Refusal::Filter(..))) = &ended {
            exchange.refused(refusal);
        }
        exchange.flown(&moved, ended.is_ok());
    });
}
