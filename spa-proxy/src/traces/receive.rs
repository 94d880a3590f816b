//! `POST /v1/traces`: OTLP over HTTP with protobuf bodies (OTLP specification 1.x, "OTLP/HTTP").
//!
//! Owns: the bounds of what is taken over from a span. The service is the mTLS peer, whatever
//! `service.name` in the payload says. Must not: keep an attribute that is not listed.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, header};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span as OtlpSpan, span::SpanKind, status::StatusCode},
};
use prost::Message;
use ringwall_http_io::body::{self, BodyError};
use ringwall_service::Peer;

use super::{Added, MAX_DURATION, MAX_EXPORT, Span, SpanId, TraceId};
use crate::{app::Ringwall, error::Error};

/// Most spans that are looked at in one request.
const MAX_SPANS: usize = 10_000;
const MAX_NAME: usize = 128;
const MAX_VALUE: usize = 128;
pub(super) const PROTOBUF: &str = "application/x-protobuf";

/// Attributes that the page shows. Everything else stays out, so that nothing private gets in.
const ATTRIBUTES: [&str; 20] = [
    "db.operation.name",
    "db.system",
    "db.system.name",
    "http.request.method",
    "http.request.resend_count",
    "http.response.status_code",
    "http.route",
    "messaging.destination.name",
    "messaging.operation.type",
    "messaging.system",
    "peer",
    "peer.service",
    "ringwall.peer",
    "ringwall.policy.decision",
    "ringwall.policy.reason",
    "ringwall.proxy",
    "ringwall.refusal",
    "server.address",
    "url.path",
    "error.type",
];

pub(crate) async fn export(
    State(app): State<Arc<Ringwall>>,
    Peer(peer): Peer,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    if headers
        .get(header::CONTENT_TYPE)
        .is_none_or(|media| media != PROTOBUF)
    {
        return Err(Error::UnsupportedMediaType);
    }
    let bytes = body::collect(body, MAX_EXPORT)
        .await
        .map_err(|error| match error {
            BodyError::TooLarge { limit } => Error::BodyTooLarge(limit),
            BodyError::Read(_) => Error::BadRequest("the body broke off"),
        })?;
    let request = ExportTraceServiceRequest::decode(bytes.clone())
        .map_err(|_| Error::BadRequest("the body is not an export request"))?;
    let (mut count, mut rejected) = (0, 0);
    let spans = request
        .resource_spans
        .into_iter()
        .flat_map(|resource| resource.scope_spans);
    for (n, span) in spans.flat_map(|scope| scope.spans).enumerate() {
        count = n + 1;
        let read = if n < MAX_SPANS {
            read(&span, peer.path())
        } else {
            None
        };
        let added = read.map(|(trace, span)| app.traces.add(trace, span));
        rejected += i64::from(added != Some(Added::Kept));
    }
    if let Some(export) = &app.span_export {
        export.offer(peer.path(), &bytes, count);
    }
    Ok(accepted(rejected))
}

/// Success, with the number of spans that were not kept (OTLP/HTTP "Partial Success").
fn accepted(rejected: i64) -> Response {
    let partial_success = (rejected > 0).then(|| ExportTracePartialSuccess {
        rejected_spans: rejected,
        error_message: "malformed, repeated or above a limit".to_owned(),
    });
    let answer = ExportTraceServiceResponse { partial_success };
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF))];
    (content_type, answer.encode_to_vec()).into_response()
}

/// The span in our terms; nothing when its ids are malformed.
fn read(span: &OtlpSpan, service: &str) -> Option<(TraceId, Span)> {
    let trace = TraceId::from_bytes(&span.trace_id)?;
    let start_us = span.start_time_unix_nano / 1_000;
    let duration_us = (span.end_time_unix_nano / 1_000).saturating_sub(start_us);
    let most = u64::try_from(MAX_DURATION.as_micros()).unwrap_or(u64::MAX);
    Some((
        trace,
        Span {
            id: SpanId::from_bytes(&span.span_id)?,
            parent: SpanId::from_bytes(&span.parent_span_id),
            service: service.to_owned(),
            name: shortened(&span.name, MAX_NAME),
            kind: kind(span.kind()),
            start_us,
            duration_us: duration_us.min(most),
            status: match span.status.as_ref().map(|status| status.code()) {
                Some(StatusCode::Error) => "error",
                Some(StatusCode::Ok) => "ok",
                _ => "unset",
            },
            attributes: attributes(&span.attributes),
        },
    ))
}

fn kind(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
        SpanKind::Internal | SpanKind::Unspecified => "internal",
    }
}

fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let listed = all
        .iter()
        .filter(|pair| ATTRIBUTES.contains(&pair.key.as_str()));
    listed
        .filter_map(|pair| Some((pair.key.clone(), text(pair.value.as_ref()?)?)))
        .collect()
}

fn text(value: &AnyValue) -> Option<String> {
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(shortened(text, MAX_VALUE)),
        Value::BoolValue(yes) => Some(yes.to_string()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn shortened(text: &str, most: usize) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(key: &str, value: &str) -> KeyValue {
        let value = AnyValue {
            value: Some(Value::StringValue(value.to_owned())),
        };
        KeyValue {
            key: key.to_owned(),
            value: Some(value),
            ..KeyValue::default()
        }
    }

    fn span() -> OtlpSpan {
        OtlpSpan {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            name: "GET /v1/items".to_owned(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: 5_000,
            end_time_unix_nano: 9_000,
            ..OtlpSpan::default()
        }
    }

    #[test]
    fn a_span_is_taken_over_in_microseconds() {
        let (_, read) = read(&span(), "inventory").unwrap();
        assert_eq!((read.start_us, read.duration_us), (5, 4));
        assert_eq!(
            (read.service.as_str(), read.kind, read.parent),
            ("inventory", "server", None)
        );
    }

    #[test]
    fn malformed_ids_and_times_do_no_harm() {
        assert!(
            read(
                &OtlpSpan {
                    trace_id: vec![1; 15],
                    ..span()
                },
                "x"
            )
            .is_none()
        );
        assert!(
            read(
                &OtlpSpan {
                    span_id: vec![0; 8],
                    ..span()
                },
                "x"
            )
            .is_none()
        );
        let (_, backwards) = read(
            &OtlpSpan {
                end_time_unix_nano: 0,
                ..span()
            },
            "x",
        )
        .unwrap();
        assert_eq!(backwards.duration_us, 0);
        let (_, endless) = read(
            &OtlpSpan {
                end_time_unix_nano: u64::MAX,
                ..span()
            },
            "x",
        )
        .unwrap();
        assert_eq!(endless.duration_us, 3_600_000_000);
    }

    #[test]
    fn r69_only_listed_attributes_are_kept_and_long_ones_are_cut() {
        let attributes = vec![
            string("http.route", &"r".repeat(1_000)),
            string("peer", "orders\r\nx"),
            string("authorization", "Bearer secret"),
            string("service.name", "payments"),
        ];
        let (_, read) = read(
            &OtlpSpan {
                attributes,
                ..span()
            },
            "orders",
        )
        .unwrap();
        assert_eq!(
            read.attributes.keys().collect::<Vec<_>>(),
            ["http.route", "peer"]
        );
        assert_eq!(read.attributes["http.route"].len(), MAX_VALUE);
        assert_eq!(read.attributes["peer"], "ordersx");
    }
}
