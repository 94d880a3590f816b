//! `/observe` and `/tap` of the admin listener, for the operator: JSON, one object a line.
//!
//! Owns: the streams and their ends. An empty line every few seconds shows that the proxy lives; `{"lost":N}` says how
//! many records the reader was too slow for. Every tap is written to the log with who asked for what.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::Stream;
use futures_util::stream::unfold;
use http::{StatusCode, header};
use ringwall_proto::problems;
use ringwall_service::{Peer, Problem};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::filter::Filter;
use crate::flow::Flow;
use crate::tap::Tap;
use crate::{Observer, Reader};

/// Media type of one JSON value a line.
const NDJSON: &str = "application/x-ndjson";
/// Time after which a silent stream shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Requests that one tap may see.
const MAX_TAPPED: u32 = 1000;
const DEFAULT_TAPPED: u32 = 20;
/// Seconds that one tap may last.
const MAX_TAP_SECONDS: u64 = 600;
const DEFAULT_TAP_SECONDS: u64 = 30;

/// Routes of a proxy for [`ringwall_service::App::admin`], which lets nobody but the operator in.
pub fn router(observer: Arc<Observer>) -> Router {
    let tap = Router::new().route("/tap", get(tap));
    flows(Arc::clone(&observer)).merge(tap.with_state(observer))
}

/// The same where there are flows and no headers: of a node's kernel.
pub fn flows(observer: Arc<Observer>) -> Router {
    Router::new()
        .route("/observe", get(observe))
        .with_state(observer)
}

async fn observe(
    State(observer): State<Arc<Observer>>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(filter) = filter.map_err(|error| bad_request(&error.body_text()))?;
    if filter.max.is_some() || filter.seconds.is_some() {
        return Err(bad_request("`max` and `seconds` belong to /tap"));
    }
    let reader = observer.reader().ok_or_else(too_many)?;
    Ok(stream(recorded(reader, filter)))
}

fn recorded(reader: Reader, filter: Filter) -> impl Stream<Item = Result<Bytes, Infallible>> {
    unfold((reader, filter), |(mut reader, filter)| async move {
        loop {
            if let Some(flow) = reader.kept.pop_front() {
                if filter.matches(&flow) {
                    break Some((line_of(&reader, &flow), (reader, filter)));
                }
                continue;
            }
            if !filter.follow {
                break None;
            }
            let text = match timeout(HEARTBEAT, reader.live.recv()).await {
                Ok(Ok(flow)) if filter.matches(&flow) => line_of(&reader, &flow),
                Ok(Ok(_other)) => continue,
                Ok(Err(RecvError::Lagged(lost))) => lost_line(lost),
                Ok(Err(RecvError::Closed)) => break None,
                Err(_silence) => heartbeat(),
            };
            break Some((text, (reader, filter)));
        }
    })
}

async fn tap(
    State(observer): State<Arc<Observer>>,
    peer: Peer,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(filter) = filter.map_err(|error| bad_request(&error.body_text()))?;
    if filter.verdict.is_some() || filter.status.is_some() || filter.follow {
        return Err(bad_request(
            "a tap sees requests before their verdict: `verdict`, `status` and `follow` belong to /observe",
        ));
    }
    let max = filter.max.unwrap_or(DEFAULT_TAPPED);
    let seconds = filter.seconds.unwrap_or(DEFAULT_TAP_SECONDS);
    if !(1..=MAX_TAPPED).contains(&max) || !(1..=MAX_TAP_SECONDS).contains(&seconds) {
        return Err(bad_request(&format!(
            "`max` is from 1 to {MAX_TAPPED}, `seconds` from 1 to {MAX_TAP_SECONDS}"
        )));
    }
    let (tap, lines) = observer
        .taps
        .open(filter.clone(), max)
        .ok_or_else(too_many)?;
    tracing::info!(
        operator = %peer.0,
        max,
        seconds,
        caller = filter.caller.as_deref(),
        callee = filter.callee.as_deref(),
        service = filter.service.as_deref(),
        method = filter.method.as_deref(),
        path = filter.path.as_deref(),
        "headers are tapped"
    );
    let tapping = Tapping {
        observer,
        tap: Some(tap),
        operator: peer,
        shown: 0,
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    Ok(stream(heads(tapping, lines, end)))
}

/// A tap that is open; it ends with its stream, however that ends.
struct Tapping {
    observer: Arc<Observer>,
    /// `None` once its queue is all that is left of it.
    tap: Option<Arc<Tap>>,
    operator: Peer,
    shown: u64,
}

impl Tapping {
    fn close(&mut self) -> u64 {
        let Some(tap) = self.tap.take() else {
            return 0;
        };
        self.observer.taps.close(&tap);
        tracing::info!(operator = %self.operator.0, heads = self.shown, "the tap has ended");
        tap.lost()
    }

    fn lost(&self) -> u64 {
        self.tap.as_ref().map_or(0, |tap| tap.lost())
    }
}

impl Drop for Tapping {
    fn drop(&mut self) {
        self.close();
    }
}

fn heads(
    tapping: Tapping,
    lines: mpsc::Receiver<Value>,
    end: Instant,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    unfold(
        (tapping, lines),
        move |(mut tapping, mut lines)| async move {
            let lost = tapping.lost();
            if lost > 0 {
                return Some((lost_line(lost), (tapping, lines)));
            }
            // The tap's own sender must not keep the queue open once it has seen all that it may.
            let open = tapping.tap.as_ref().is_some_and(|tap| !tap.is_spent());
            if !open && tapping.tap.is_some() {
                let lost = tapping.close();
                if lost > 0 {
                    return Some((lost_line(lost), (tapping, lines)));
                }
            }
            let next = tokio::select! {
                biased;
                () = sleep_until(end) => return None,
                next = timeout(HEARTBEAT, lines.recv()) => next,
            };
            let text = match next {
                Ok(Some(mut head)) => {
                    tapping.shown += 1;
                    if let Some(fields) = head.as_object_mut() {
                        fields.insert("proxy".to_owned(), json!(*tapping.observer.proxy));
                    }
                    line(&head)
                }
                Ok(None) => return None,
                Err(_silence) => heartbeat(),
            };
            Some((text, (tapping, lines)))
        },
    )
}

fn line_of(reader: &Reader, flow: &Flow) -> Result<Bytes, Infallible> {
    #[derive(serde::Serialize)]
    struct Line<'a> {
        proxy: &'a str,
        #[serde(flatten)]
        flow: &'a Flow,
    }
    line(&Line {
        proxy: &reader.observer.proxy,
        flow,
    })
}

fn line(value: &impl serde::Serialize) -> Result<Bytes, Infallible> {
    // Records consist of texts and numbers: they always have a JSON form.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    Ok(text.into())
}

fn lost_line(lost: u64) -> Result<Bytes, Infallible> {
    line(&json!({ "lost": lost }))
}

fn heartbeat() -> Result<Bytes, Infallible> {
    Ok(Bytes::from_static(b"\n"))
}

fn stream(lines: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}

fn bad_request(why: &str) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        problems::BAD_REQUEST,
        "Bad request",
    )
    .detail(why)
}

fn too_many() -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        problems::TOO_MANY_REQUESTS,
        "Too many observers",
    )
    .detail("End another observation of this proxy first.")
}
