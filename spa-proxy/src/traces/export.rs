//! A copy of every accepted batch of spans, for one receiver of the operator's: `POST /v1/traces`
//! over the mesh (OTLP/HTTP with protobuf bodies, OTLP specification 1.x).
//!
//! Owns: the bounded queue, its one sender, and what a receiver that is slow or away costs: spans,
//! never a request. Must not: make the intake wait, or trace its own calls (that would never end).
//! Read next: [`SpanExport::offer`] for the way in, [`Sender::run`] for the way out.

mod deliver;

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use ringwall_http_io::Client;
use ringwall_service::Metrics;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};

use self::deliver::{Failure, deliver};
use super::MAX_EXPORT;

/// Named limits of the export.
#[derive(Debug, Clone)]
pub(crate) struct ExportLimits {
    /// Most bytes that wait, what is being sent included. The largest batch has room in an empty queue.
    pub(crate) queue_bytes: usize,
    /// Most batches that wait.
    pub(crate) queue_batches: usize,
    /// One attempt: connect, send and the whole answer.
    pub(crate) attempt: Duration,
    /// Attempts for a batch that may have arrived; one that cannot have arrived is kept.
    pub(crate) attempts: u32,
    /// Pause after the first failure; each further one doubles it.
    pub(crate) first_pause: Duration,
    pub(crate) longest_pause: Duration,
}

impl Default for ExportLimits {
    fn default() -> Self {
        Self {
            queue_bytes: MAX_EXPORT,
            queue_batches: 1_024,
            attempt: Duration::from_secs(5),
            attempts: 3,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
        }
    }
}

/// Why spans did not reach the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// No room: the receiver is away, or slower than the spans come.
    QueueFull,
    /// The receiver answered that it does not take them.
    Refused,
    /// No answer to several attempts.
    Unanswered,
    /// Still here when the process ended.
    Shutdown,
}

impl Dropped {
    const ALL: [Self; 4] = [
        Self::QueueFull,
        Self::Refused,
        Self::Unanswered,
        Self::Shutdown,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Shutdown => "shutdown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// What became of the copies. Clones share the counts.
#[derive(Clone, Default)]
pub(crate) struct ExportMetrics {
    exported: Counter,
    dropped: Family<Reason, Counter>,
    queued: Gauge,
}

impl ExportMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let new = Self::default();
        // A rate needs the zero before the first loss.
        for why in Dropped::ALL {
            new.of(why);
        }
        metrics.register(
            "spans_exported",
            "Spans that the receiver of traces has taken",
            new.exported.clone(),
        );
        metrics.register(
            "spans_dropped",
            "Spans that did not reach the receiver of traces, by reason",
            new.dropped.clone(),
        );
        metrics.register(
            "spans_queued_bytes",
            "Bytes of spans that wait for the receiver of traces",
            new.queued.clone(),
        );
        new
    }

    fn of(&self, why: Dropped) -> Counter {
        let reason = why.as_str();
        self.dropped.get_or_create(&Reason { reason }).clone()
    }

    fn dropped(&self, why: Dropped, spans: u64) {
        self.of(why).inc_by(spans);
    }

    /// The receiver took a batch, apart from `rejected` of its spans.
    fn taken(&self, spans: u64, rejected: u64) {
        let rejected = rejected.min(spans);
        self.exported.inc_by(spans - rejected);
        self.dropped(Dropped::Refused, rejected);
    }

    fn all_dropped(&self) -> u64 {
        Dropped::ALL.into_iter().map(|why| self.of(why).get()).sum()
    }

    #[cfg(test)]
    pub(crate) fn exported_total(&self) -> u64 {
        self.exported.get()
    }

    #[cfg(test)]
    pub(crate) fn dropped_total(&self, why: Dropped) -> u64 {
        self.of(why).get()
    }
}

/// One request of a component, as it came.
struct Batch {
    /// The workload that sent it, known by its certificate.
    service: String,
    bytes: Bytes,
    spans: u64,
    /// Its share of the queue, free again when the batch is gone.
    _room: OwnedSemaphorePermit,
}

/// The way in. Clones share the queue.
#[derive(Clone)]
pub(crate) struct SpanExport {
    queue: mpsc::Sender<Batch>,
    room: Arc<Semaphore>,
    limits: Arc<ExportLimits>,
    metrics: ExportMetrics,
}

/// The way out: what sends, one batch after the other.
pub(crate) struct Sender {
    queue: mpsc::Receiver<Batch>,
    room: Arc<Semaphore>,
    client: Client,
    limits: Arc<ExportLimits>,
    metrics: ExportMetrics,
    /// Spans dropped before the receiver went away; nothing while it takes them.
    away_since: Option<u64>,
    /// Whether a refusal has been reported.
    refused: bool,
}

/// A queue to the receiver behind `client`, which must be a client that does not trace.
pub(crate) fn queue(
    client: Client,
    limits: ExportLimits,
    metrics: ExportMetrics,
) -> (SpanExport, Sender) {
    let (sender, receiver) = mpsc::channel(limits.queue_batches);
    let room = Arc::new(Semaphore::new(limits.queue_bytes));
    let limits = Arc::new(limits);
    let export = SpanExport {
        queue: sender,
        room: Arc::clone(&room),
        limits: Arc::clone(&limits),
        metrics: metrics.clone(),
    };
    let sender = Sender {
        queue: receiver,
        room,
        client,
        limits,
        metrics,
        away_since: None,
        refused: false,
    };
    (export, sender)
}

impl SpanExport {
    /// Queues a copy, or counts its spans as dropped. Never waits.
    pub(crate) fn offer(&self, service: &str, bytes: &Bytes, spans: usize) {
        let spans = u64::try_from(spans).unwrap_or(u64::MAX);
        if let Err(why) = self.enqueue(service, bytes, spans) {
            self.metrics.dropped(why, spans);
        }
        queued(&self.metrics, &self.room, &self.limits);
    }

    fn enqueue(&self, service: &str, bytes: &Bytes, spans: u64) -> Result<(), Dropped> {
        let size = u32::try_from(bytes.len()).map_err(|_| Dropped::QueueFull)?;
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(size)
            .map_err(|_| Dropped::QueueFull)?;
        let batch = Batch {
            service: service.to_owned(),
            bytes: bytes.clone(),
            spans,
            _room: room,
        };
        self.queue.try_send(batch).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Dropped::QueueFull,
            mpsc::error::TrySendError::Closed(_) => Dropped::Shutdown,
        })
    }
}

impl Sender {
    /// Sends until `stop`, then what is left, for at most `drain`.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>, drain: Duration) {
        let mut stop = pin!(stop);
        let mut head: Option<Batch> = None;
        let mut attempts = 0;
        let mut pause = Duration::ZERO;
        loop {
            let ready = async {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                if head.is_none() {
                    head = self.queue.recv().await;
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = ready => {}
            }
            let Some(batch) = &head else { return };
            attempts += 1;
            // An attempt under way is not cut: the receiver would get its spans twice.
            let (result, end) = {
                let mut attempt = pin!(deliver(&self.client, batch, self.limits.attempt));
                tokio::select! {
                    biased;
                    result = &mut attempt => (result, None),
                    () = &mut stop => {
                        let end = Instant::now() + drain;
                        (attempt.await, Some(end))
                    }
                }
            };
            let spans = batch.spans;
            pause = match &result {
                Ok(_) | Err(Failure::Refused(_)) => Duration::ZERO,
                Err(Failure::Away(_) | Failure::Unanswered(_)) => self.pause_after(pause),
            };
            if self.settled(spans, attempts, result) {
                (head, attempts) = (None, 0);
                queued(&self.metrics, &self.room, &self.limits);
            }
            if let Some(end) = end {
                return self.finish(head, end).await;
            }
        }
        self.finish(head, Instant::now() + drain).await;
    }

    fn pause_after(&self, last: Duration) -> Duration {
        if last.is_zero() {
            return self.limits.first_pause;
        }
        last.saturating_mul(2).min(self.limits.longest_pause)
    }

    /// Counts and reports the outcome of an attempt; false when the batch stays for another.
    fn settled(&mut self, spans: u64, attempts: u32, result: Result<u64, Failure>) -> bool {
        let failure = match result {
            Ok(rejected) => {
                self.metrics.taken(spans, rejected);
                self.works();
                return true;
            }
            Err(failure) => failure,
        };
        let why = match &failure {
            Failure::Refused(_) => {
                self.refuses(&failure);
                Some(Dropped::Refused)
            }
            Failure::Unanswered(_) if attempts >= self.limits.attempts => Some(Dropped::Unanswered),
            Failure::Unanswered(_) | Failure::Away(_) => None,
        };
        if why != Some(Dropped::Refused) {
            self.fails(&failure);
        }
        if let Some(why) = why {
            self.metrics.dropped(why, spans);
        }
        why.is_some()
    }

    /// Sends what waits; what comes later is counted by [`SpanExport::offer`]. One failure ends it:
    /// the end of a process is no time for pauses.
    async fn finish(mut self, mut head: Option<Batch>, end: Instant) {
        self.queue.close();
        let (client, queue, metrics) = (&self.client, &mut self.queue, &self.metrics);
        let all = async {
            loop {
                if head.is_none() {
                    head = queue.recv().await;
                }
                let Some(batch) = &head else { return };
                let Ok(rejected) = deliver(client, batch, self.limits.attempt).await else {
                    return;
                };
                metrics.taken(batch.spans, rejected);
                head = None;
            }
        };
        let _over = tokio::time::timeout_at(end, all).await;
        let mut lost = head.map_or(0, |batch| batch.spans);
        while let Ok(batch) = self.queue.try_recv() {
            lost += batch.spans;
        }
        if lost > 0 {
            self.metrics.dropped(Dropped::Shutdown, lost);
            tracing::warn!(spans = lost, "spans were not exported before the end");
        }
    }

    fn works(&mut self) {
        if let Some(before) = self.away_since.take() {
            let dropped = self.metrics.all_dropped().saturating_sub(before);
            tracing::info!(dropped, "spans are exported again");
        }
    }

    fn fails(&mut self, failure: &Failure) {
        if self.away_since.is_none() {
            self.away_since = Some(self.metrics.all_dropped());
            tracing::warn!(%failure, "spans cannot be exported; requests are not affected");
        }
    }

    fn refuses(&mut self, failure: &Failure) {
        if !std::mem::replace(&mut self.refused, true) {
            tracing::warn!(%failure, "spans are refused; from here on they are only counted");
        }
    }
}

fn queued(metrics: &ExportMetrics, room: &Semaphore, limits: &ExportLimits) {
    let bytes = limits.queue_bytes.saturating_sub(room.available_permits());
    metrics.queued.set(i64::try_from(bytes).unwrap_or(i64::MAX));
}

#[cfg(test)]
#[path = "export/tests.rs"]
mod tests;
