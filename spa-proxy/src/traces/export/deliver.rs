//! One attempt to hand a batch over.
//!
//! Owns: what is changed in a copy, and what an answer means (OTLP/HTTP "Retryable Response Codes",
//! "Partial Success"). Must not: keep state between attempts.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use prost::Message;
use ringwall_http_io::{Client, ClientError, Transport, body};
use ringwall_proto::paths;

use super::{super::receive::PROTOBUF, Batch};

/// Largest answer that is looked at, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
const SERVICE_NAME: &str = "service.name";

/// How an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The receiver cannot have the spans, and may take them later.
    #[error("{0}")]
    Away(String),
    /// The receiver may have them.
    #[error("{0}")]
    Unanswered(String),
    /// The receiver does not want these spans.
    #[error("{0}")]
    Refused(String),
}

/// The number of spans that the receiver took out, when it took the batch.
pub(super) async fn deliver(
    client: &Client,
    batch: &Batch,
    limit: Duration,
) -> Result<u64, Failure> {
    let payload = attributed(&batch.bytes, &batch.service)?;
    match tokio::time::timeout(limit, exchange(client, payload)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(Failure::Unanswered(format!("no answer within {limit:?}"))),
    }
}

async fn exchange(client: &Client, payload: Vec<u8>) -> Result<u64, Failure> {
    let request = Request::post(paths::OTLP_TRACES)
        .header(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF))
        .body(body::full(payload))
        .map_err(|error| Failure::Refused(error.to_string()))?;
    let response = client.send(request).await.map_err(failed)?;
    let status = response.status();
    let answer = body::collect(response.into_body(), MAX_ANSWER)
        .await
        .map_err(|error| Failure::Unanswered(error.to_string()))?;
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Err(Failure::Away(format!("it answered {status}"))),
        _ if status.is_success() => Ok(rejected(answer)),
        _ => Err(Failure::Refused(format!("it answered {status}"))),
    }
}

fn failed(error: ClientError) -> Failure {
    if error.is_connect() {
        Failure::Away(error.to_string())
    } else {
        Failure::Unanswered(error.to_string())
    }
}

fn rejected(answer: Bytes) -> u64 {
    ExportTraceServiceResponse::decode(answer)
        .ok()
        .and_then(|answer| answer.partial_success)
        .map_or(0, |partial| {
            u64::try_from(partial.rejected_spans).unwrap_or(0)
        })
}

/// The batch with the sender's certificate as its `service.name`, whatever it says itself: a
/// component cannot put steps into the traces of another.
fn attributed(bytes: &Bytes, service: &str) -> Result<Vec<u8>, Failure> {
    let mut request = ExportTraceServiceRequest::decode(bytes.clone())
        .map_err(|error| Failure::Refused(error.to_string()))?;
    for spans in &mut request.resource_spans {
        let attributes = &mut spans.resource.get_or_insert_default().attributes;
        attributes.retain(|pair| pair.key != SERVICE_NAME);
        let value = Some(Value::StringValue(service.to_owned()));
        attributes.push(KeyValue {
            key: SERVICE_NAME.to_owned(),
            value: Some(AnyValue { value }),
            ..KeyValue::default()
        });
    }
    Ok(request.encode_to_vec())
}
