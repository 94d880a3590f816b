//! Events in: from the producer's topic to a stored notification, effectively once.
//!
//! Owns: the loop. The cursor lives in our own database and moves in the transaction that stores
//! the notification, so a kill at any point means that the event comes again and is recognised by
//! its id. An event that cannot be believed is buried and never blocks the topic. It must not skip
//! an event because the producer's keys are away. Read next: `verifier.rs`, `store.rs`.

use std::time::Duration;

use ringwall_proto::events::{CloudEvent, OrderPlaced};
use ringwall_proto::ids::Name;
use ringwall_proto::orders::{CursorCommit, EventPage, LoggedEvent};
use ringwall_proto::paths;
use ringwall_service::{Transport, Upstream, telemetry};
use time::OffsetDateTime;
use tracing::Instrument;
use uuid::Uuid;

use crate::config::ConsumerConfig;
use crate::error::NotificationsError;
use crate::live::Live;
use crate::metrics::EventMetrics;
use crate::store::{NotificationStore, Position};
use crate::verifier::{Unverified, Verifier};

/// First pause after a failed round; doubled up to `consumer.max_backoff`.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// How much longer than its wait a poll may take.
const POLL_MARGIN: Duration = Duration::from_secs(5);

pub(crate) struct Consumer {
    pub(crate) producer: Upstream,
    pub(crate) group: Name,
    pub(crate) config: ConsumerConfig,
    pub(crate) verifier: Verifier,
    pub(crate) store: NotificationStore,
    pub(crate) live: Live,
    pub(crate) metrics: EventMetrics,
}

impl Consumer {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            match self.round().await {
                Ok(()) => backoff = FIRST_BACKOFF,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "events wait");
                    tokio::time::sleep(jittered(backoff, random_share())).await;
                    backoff = (backoff * 2).min(self.config.max_backoff);
                }
            }
        }
    }

    /// One poll and everything that it brought.
    pub(crate) async fn round(&self) -> Result<(), NotificationsError> {
        let after = self.store.cursor(self.config.topic.as_str()).await?;
        let page = self.poll(after).await?;
        let Some(last) = page.events.last().map(|event| event.offset) else {
            return Ok(());
        };
        for logged in page.events {
            self.handle(logged).await?;
        }
        self.report(last).await;
        Ok(())
    }

    async fn poll(&self, after: u64) -> Result<EventPage, NotificationsError> {
        let path = format!(
            "{}/{}/events?group={}&after={after}&wait={}",
            paths::TOPICS,
            self.config.topic,
            self.group,
            self.config.wait.as_secs(),
        );
        let call = self
            .producer
            .get(&path)
            .timeout(self.config.wait + POLL_MARGIN);
        Ok(call.receive().await.map_err(NotificationsError::Poll)?.body)
    }

    /// Brings one event to its end: delivered, recognised as seen, or buried.
    async fn handle(&self, logged: LoggedEvent) -> Result<(), NotificationsError> {
        let position = Position {
            topic: self.config.topic.to_string(),
            offset: logged.offset,
        };
        match self.verifier.verify(&logged.jws).await {
            Ok(event) => {
                let span = consume_span(&position, &event);
                self.deliver(position, event).instrument(span).await
            }
            Err(Unverified::Poison(reason)) => {
                tracing::error!(%reason, offset = position.offset, "an event was put aside");
                self.store.bury(position, logged.jws, reason).await?;
                self.metrics.buried();
                Ok(())
            }
            Err(Unverified::Later(error)) => Err(NotificationsError::Keys(error)),
        }
    }

    async fn deliver(
        &self,
        position: Position,
        event: CloudEvent<OrderPlaced>,
    ) -> Result<(), NotificationsError> {
        let user = event.data.user_sub.clone();
        let trace_id = event.traceparent.as_deref().and_then(trace_id_of);
        let now = OffsetDateTime::now_utc();
        match self.store.deliver(position, event, trace_id, now).await? {
            Some(sequence) => {
                self.metrics.delivered();
                self.live.announce(user, sequence);
            }
            None => self.metrics.seen_before(),
        }
        Ok(())
    }

    /// Tells the producer how far we are, for its operators. Our own cursor is the one that counts,
    /// so a failure only means that the next page tells it again.
    async fn report(&self, offset: u64) {
        let path = format!("{}/{}/cursor", paths::TOPICS, self.config.topic);
        let commit = CursorCommit {
            group: self.group.clone(),
            offset,
        };
        if let Err(error) = self
            .producer
            .post(&path)
            .json(&commit)
            .receive::<()>()
            .await
        {
            tracing::debug!(%error, "the producer was not told how far we are");
        }
    }
}

/// The consumer's span continues the trace of the span that published the event.
fn consume_span(position: &Position, event: &CloudEvent<OrderPlaced>) -> tracing::Span {
    let span = tracing::info_span!(
        "process",
        otel.name = format!("process {}", position.topic),
        otel.kind = "consumer",
        "messaging.system" = "ringwall",
        "messaging.operation.type" = "process",
        "messaging.destination.name" = position.topic,
        "messaging.message.id" = %event.id,
    );
    if let Some(traceparent) = &event.traceparent {
        telemetry::follow(&span, traceparent);
    }
    span
}

/// The trace id in a `traceparent` (W3C Trace Context §3.2.2): 32 hexadecimal digits, not all zero.
fn trace_id_of(traceparent: &str) -> Option<String> {
    let trace_id = traceparent.split('-').nth(1)?;
    let valid = trace_id.len() == 32
        && trace_id.bytes().all(|byte| byte.is_ascii_hexdigit())
        && trace_id.bytes().any(|byte| byte != b'0');
    valid.then(|| trace_id.to_owned())
}

/// Between half of `pause` and all of it, so that consumers do not come back in step.
fn jittered(pause: Duration, share: f64) -> Duration {
    pause.mul_f64(0.5 + 0.5 * share.clamp(0.0, 1.0))
}

/// From 0 to 1, by the randomness of a UUID.
fn random_share() -> f64 {
    let [byte, ..] = *Uuid::new_v4().as_bytes();
    f64::from(byte) / f64::from(u8::MAX)
}

#[cfg(test)]
mod tests;
