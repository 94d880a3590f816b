//! Step 9: the response leaves, and the record of the exchange with it.
//!
//! Must not: change a status. Connection fields are those of `serve.rs`.

use http::Response;

use super::exchange::Exchange;
use crate::body::{ProxyBody, Record as _};
use crate::refusal::Refusal;

pub(crate) fn pass(response: Response<ProxyBody>, exchange: Box<Exchange>) -> Response<ProxyBody> {
    finish(response, exchange)
}

pub(crate) fn refuse(refusal: &Refusal, mut exchange: Box<Exchange>) -> Response<ProxyBody> {
    exchange.refused(refusal);
    finish(refusal.response(exchange.grpc), exchange)
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
