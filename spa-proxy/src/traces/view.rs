//! What the page may see and say about its own orders' traces.
//!
//! Must not: answer differently for a trace of somebody else and for none at all.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use ringwall_service::extract;
use serde::{Deserialize, Serialize};

use super::{Span, SpanId, TraceId};
use crate::{app::Ringwall, auth::CurrentSession, error::Error};

/// A browser's clock may differ from ours by this much.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(10 * 60);
/// A click does not take longer.
const MAX_BROWSER_DURATION: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
pub(crate) struct TraceView {
    trace_id: TraceId,
    spans: Vec<Span>,
}

/// The browser's own root span.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BrowserSpan {
    trace_id: String,
    span_id: String,
    name: String,
    start_us: u64,
    duration_us: u64,
    ok: bool,
}

pub(crate) async fn trace(
    State(app): State<Arc<Ringwall>>,
    CurrentSession(session): CurrentSession,
    Path(trace_id): Path<String>,
) -> Result<Json<TraceView>, Error> {
    app.access_token(&session).await?;
    let trace_id = TraceId::parse(&trace_id).ok_or(Error::NotFound)?;
    let spans = app
        .traces
        .of(trace_id, &session.user.sub)
        .ok_or(Error::NotFound)?;
    Ok(Json(TraceView { trace_id, spans }))
}

pub(crate) async fn browser_span(
    State(app): State<Arc<Ringwall>>,
    CurrentSession(session): CurrentSession,
    extract::Json(reported): extract::Json<BrowserSpan>,
) -> Result<StatusCode, Error> {
    app.access_token(&session).await?;
    let (trace_id, span) = checked(reported, SystemTime::now())?;
    app.traces
        .add_owned(trace_id, &session.user.sub, span)
        .ok_or(Error::NotFound)?;
    Ok(StatusCode::ACCEPTED)
}

fn checked(reported: BrowserSpan, now: SystemTime) -> Result<(TraceId, Span), Error> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let start = Duration::from_micros(reported.start_us);
    let duration = Duration::from_micros(reported.duration_us);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == ' ';
    let named = (1..=64).contains(&reported.name.len()) && reported.name.chars().all(plain);
    if now.abs_diff(start) > CLOCK_DIFFERENCE || duration > MAX_BROWSER_DURATION || !named {
        return Err(Error::BadRequest("the span is not plausible"));
    }
    let malformed = || Error::BadRequest("malformed id");
    let span = Span {
        id: SpanId::parse(&reported.span_id).ok_or_else(malformed)?,
        parent: None,
        service: "browser".to_owned(),
        name: reported.name,
        kind: "internal",
        start_us: reported.start_us,
        duration_us: reported.duration_us,
        status: if reported.ok { "ok" } else { "error" },
        attributes: BTreeMap::new(),
    };
    Ok((
        TraceId::parse(&reported.trace_id).ok_or_else(malformed)?,
        span,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported() -> BrowserSpan {
        BrowserSpan {
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            span_id: "00f067aa0ba902b7".into(),
            name: "Place order".into(),
            start_us: 1_000_000_000,
            duration_us: 5_000,
            ok: true,
        }
    }

    #[test]
    fn a_plausible_span_is_taken_and_others_are_not() {
        let now = UNIX_EPOCH + Duration::from_secs(1_010);
        assert!(checked(reported(), now).is_ok());
        let bad = [
            BrowserSpan {
                start_us: 1,
                ..reported()
            },
            BrowserSpan {
                start_us: u64::MAX,
                ..reported()
            },
            BrowserSpan {
                duration_us: u64::MAX,
                ..reported()
            },
            BrowserSpan {
                name: "<script>".into(),
                ..reported()
            },
            BrowserSpan {
                name: String::new(),
                ..reported()
            },
            BrowserSpan {
                span_id: "0".repeat(16),
                ..reported()
            },
            BrowserSpan {
                trace_id: "x".into(),
                ..reported()
            },
        ];
        for span in bad {
            let shown = format!("{span:?}");
            assert!(checked(span, now).is_err(), "{shown}");
        }
    }
}
