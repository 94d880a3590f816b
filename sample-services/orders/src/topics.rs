//! The topics of the event log over HTTP: long polling and cursors, for declared consumers only.
//!
//! Owns: the access list. A workload reads a topic only if it is listed, and only under the
//! consumer group of its own name, so that it cannot move another's cursor. It must not change an
//! event. Read next: `relay.rs` (who writes the log).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use futures_util::future::{BoxFuture, Shared};
use http::StatusCode;
use ringwall_identity::SpiffeId;
use ringwall_proto::ids::Name;
use ringwall_proto::orders::{
    CursorCommit, EventPage, EventsQuery, LoggedEvent, MAX_EVENTS, MAX_WAIT_SECONDS,
};
use ringwall_proto::paths;
use ringwall_service::Peer;
use ringwall_service::extract::{Json, Path, Query};
use ringwall_store::{EventLog, Offset, StoreError};
use ringwall_token::JwkSet;

use crate::config::TopicConfig;
use crate::error::OrderError;

/// The readable topics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Topics {
    log: EventLog,
    readers: Arc<BTreeMap<Name, TopicConfig>>,
    public_keys: Arc<JwkSet>,
    drain: Drain,
}

/// Resolves when the process begins to drain.
pub(crate) type Drain = Shared<BoxFuture<'static, ()>>;

impl Topics {
    pub(crate) fn new(
        log: EventLog,
        readers: &BTreeMap<Name, TopicConfig>,
        public_keys: JwkSet,
        drain: Drain,
    ) -> Self {
        Self {
            log,
            readers: Arc::new(readers.clone()),
            public_keys: Arc::new(public_keys),
            drain,
        }
    }

    fn allow(&self, peer: &SpiffeId, topic: &Name, group: &Name) -> Result<(), OrderError> {
        let denied = || OrderError::TopicDenied(peer.path().to_owned());
        if group.as_str() != peer.path() {
            return Err(denied());
        }
        let topic = self.readers.get(topic).ok_or(OrderError::UnknownTopic)?;
        if topic.consumers.contains(group) {
            Ok(())
        } else {
            Err(denied())
        }
    }
}

pub(crate) fn router(topics: Topics) -> Router {
    Router::new()
        .route("/v1/topics/{topic}/events", get(events))
        .route("/v1/topics/{topic}/cursor", post(commit_cursor))
        .route(paths::JWKS, get(public_keys))
        .with_state(topics)
}

/// Events after an offset; waits for the first one, and answers an empty page when none came.
async fn events(
    Peer(peer): Peer,
    State(topics): State<Topics>,
    Path(topic): Path<Name>,
    Query(query): Query<EventsQuery>,
) -> Result<axum::Json<EventPage>, OrderError> {
    topics.allow(&peer, &topic, &query.group)?;
    let after = match query.after {
        Some(offset) => Offset(offset),
        None => {
            topics
                .log
                .cursor(query.group.as_str(), topic.as_str())
                .await?
        }
    };
    let wait = Duration::from_secs(query.wait.unwrap_or(0).min(MAX_WAIT_SECONDS));
    tokio::select! {
        newer = topics.log.wait(topic.as_str(), after, wait) => { newer?; }
        // A poll must not hold up the drain: the consumer asks again, elsewhere or later.
        () = topics.drain.clone() => {}
    }
    let logged = topics.log.read(topic.as_str(), after, MAX_EVENTS).await?;
    let events = logged.into_iter().map(|event| LoggedEvent {
        offset: event.offset.0,
        // Payloads are the compact JWS that the relay wrote: ASCII.
        jws: String::from_utf8_lossy(&event.payload).into_owned(),
    });
    Ok(axum::Json(EventPage {
        events: events.collect(),
    }))
}

/// Everything up to the offset is done for this group.
async fn commit_cursor(
    Peer(peer): Peer,
    State(topics): State<Topics>,
    Path(topic): Path<Name>,
    Json(commit): Json<CursorCommit>,
) -> Result<StatusCode, OrderError> {
    topics.allow(&peer, &topic, &commit.group)?;
    let offset = Offset(commit.offset);
    match topics
        .log
        .commit_cursor(commit.group.as_str(), topic.as_str(), offset)
        .await
    {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(StoreError::CursorBeyondEnd { .. }) => Err(OrderError::CursorBeyondEnd),
        Err(error) => Err(error.into()),
    }
}

/// The keys that verify the events (RFC 7517 §5).
async fn public_keys(State(topics): State<Topics>) -> axum::Json<JwkSet> {
    axum::Json(JwkSet::clone(&topics.public_keys))
}

#[cfg(test)]
mod tests;
