//! Step 10: the response leaves, and the record of the exchange with it.
//!
//! Owns: the fields that the gateway adds to every response. Must not: change a status.

use http::header::{self, HeaderName};
use http::{HeaderValue, Method, Response};

use super::body::ProxyBody;
use crate::abuse::Offence;
use crate::access_log::Exchange;
use crate::refusal::Refusal;

const HSTS: HeaderName = header::STRICT_TRANSPORT_SECURITY;
/// RFC 6797: a year; browsers then never try plain HTTP.
const ONE_YEAR: HeaderValue = HeaderValue::from_static("max-age=31536000");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

pub(crate) fn pass(
    mut response: Response<ProxyBody>,
    mut exchange: Box<Exchange>,
) -> Response<ProxyBody> {
    exchange.status = response.status().as_u16();
    finish(&mut response, exchange);
    response
}

pub(crate) fn refuse(refusal: &Refusal, mut exchange: Box<Exchange>) -> Response<ProxyBody> {
    let mut response = refusal.response();
    exchange.status = response.status().as_u16();
    exchange.refusal = Some(refusal.name());
    exchange.reason = refusal.reason();
    if let Some(offence) = Offence::in_refusal(refusal) {
        let connection = &exchange.connection;
        connection.worker.offended(connection.peer.ip(), offence);
    }
    finish(&mut response, exchange);
    response
}

fn finish(response: &mut Response<ProxyBody>, exchange: Box<Exchange>) {
    let connection = &exchange.connection;
    let headers = response.headers_mut();
    if connection.is_tls() {
        headers.insert(HSTS, ONE_YEAR);
    }
    if connection.is_http2() {
        // RFC 9113 §8.2.2: there is no such field; a malformed request ends its stream alone.
        headers.remove(header::CONNECTION);
    } else if connection.worker.shared.is_draining() && !headers.contains_key(header::CONNECTION) {
        headers.insert(header::CONNECTION, CLOSE);
    }
    let headless = *exchange.method() == Method::HEAD;
    response.body_mut().record(exchange, headless);
}
