//! From the outbox in PostgreSQL to the event log: at least once, and once in the log.
//!
//! Owns: the order of the two writes. An event is removed from the outbox only after the log has
//! stored it durably; after a crash in between it is appended again, and the log, which knows its
//! id, keeps the first. It must not drop an event. Read next: `topics.rs` (who reads the log).

use std::sync::Arc;
use std::time::Duration;

use ringwall_proto::ids::EventId;
use ringwall_service::telemetry;
use ringwall_store::EventLog;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tracing::Instrument;

use crate::config::RelayConfig;
use crate::error::OrderError;
use crate::events::Events;
use crate::store::{OrderStore, OutboxEntry};

/// Events of one round.
const BATCH: i64 = 100;
/// Pause after a failed round.
const BACKOFF: Duration = Duration::from_secs(1);
/// Pause between two cuts of the log to its retention.
const TRIM_EVERY: Duration = Duration::from_secs(3600);

pub(crate) struct Relay {
    store: OrderStore,
    log: EventLog,
    events: Events,
    placed: Arc<Notify>,
    config: RelayConfig,
}

impl Relay {
    pub(crate) fn new(
        store: OrderStore,
        log: EventLog,
        events: Events,
        placed: Arc<Notify>,
        config: RelayConfig,
    ) -> Self {
        Self {
            store,
            log,
            events,
            placed,
            config,
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut trim = tokio::time::interval(TRIM_EVERY);
        loop {
            let pause = match self.empty_outbox().await {
                Ok(()) => self.config.poll,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "events wait");
                    BACKOFF
                }
            };
            tokio::select! {
                () = self.placed.notified() => {}
                () = tokio::time::sleep(pause) => {}
                _ = trim.tick() => {
                    if let Err(error) = self.log.trim().await {
                        tracing::warn!(%error, "the event log was not trimmed");
                    }
                }
            }
        }
    }

    /// Moves everything that waits, oldest first.
    pub(crate) async fn empty_outbox(&self) -> Result<(), OrderError> {
        loop {
            let batch = self.store.outbox(BATCH).await?;
            if batch.is_empty() {
                return Ok(());
            }
            let mut sent: Vec<EventId> = Vec::with_capacity(batch.len());
            for entry in &batch {
                self.send(entry).await?;
                sent.push(entry.event_id);
            }
            self.store.sent(&sent).await?;
        }
    }

    async fn send(&self, entry: &OutboxEntry) -> Result<(), OrderError> {
        let span = tracing::info_span!(
            "publish",
            otel.name = format!("publish {}", entry.topic),
            otel.kind = "producer",
            "messaging.system" = "ringwall",
            "messaging.operation.type" = "send",
            "messaging.destination.name" = entry.topic,
            "messaging.message.id" = %entry.event_id,
        );
        if let Some(traceparent) = &entry.traceparent {
            telemetry::follow(&span, traceparent);
        }
        async {
            let now = OffsetDateTime::now_utc();
            let jws = self
                .events
                .order_placed(entry, telemetry::current_traceparent(), now)?;
            let id = entry.event_id.to_string();
            self.log.append(&entry.topic, &id, jws.into_bytes()).await?;
            Ok(())
        }
        .instrument(span)
        .await
    }
}
