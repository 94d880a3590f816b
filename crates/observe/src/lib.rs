//! What passes through a proxy, or is refused by a node's kernel, for whoever looks: flows with their verdicts, and headers
//! of chosen requests.
//!
//! Owns: that nothing is computed while nobody looks (but denials, which are kept), that a slow reader loses records
//! instead of slowing requests down, and that no secret is shown. Must not: decide, or write to the access log.
//! Read next: `flow.rs`, `tap.rs`, `redact.rs`, and `routes.rs` for the operator's side.

mod filter;
mod flow;
mod redact;
mod routes;
mod tap;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::broadcast;

use self::redact::Redaction;
use self::tap::Taps;

pub use flow::{Direction, Flow, Verdict};
pub use routes::{flows, router};
pub use tap::{Seen, Tapped};

/// Records that wait for the slowest reader; more are lost to it.
const MAX_WAITING: usize = 1024;
/// Denials and errors that are kept for those who look afterwards.
const MAX_KEPT: usize = 256;
/// Readers of `/observe` at one time.
const MAX_READERS: usize = 16;

/// One for each process; all workers write to it.
pub struct Observer {
    proxy: Box<str>,
    flows: broadcast::Sender<Arc<Flow>>,
    readers: AtomicUsize,
    kept: Mutex<VecDeque<Arc<Flow>>>,
    taps: Taps,
}

/// One reader of `/observe`.
struct Reader {
    observer: Arc<Observer>,
    kept: VecDeque<Arc<Flow>>,
    live: broadcast::Receiver<Arc<Flow>>,
}

impl Observer {
    /// For the proxy of the workload `proxy`. Values of headers in `hidden` are never shown, beside those that never
    /// are.
    pub fn new(proxy: &str, hidden: &[String]) -> Arc<Self> {
        Arc::new(Self {
            proxy: proxy.into(),
            flows: broadcast::Sender::new(MAX_WAITING),
            readers: AtomicUsize::new(0),
            kept: Mutex::default(),
            taps: Taps::new(Redaction::new(hidden)),
        })
    }

    /// Records what `make` says, if anybody looks or `verdict` is one that is kept.
    pub fn record(&self, verdict: Verdict, make: impl FnOnce() -> Flow) {
        let watched = self.readers.load(Ordering::Relaxed) > 0;
        if !watched && !verdict.is_kept() {
            return;
        }
        let flow = Arc::new(make().bounded(verdict));
        if verdict.is_kept() {
            let mut kept = self.kept.lock();
            if kept.len() == MAX_KEPT {
                kept.pop_front();
            }
            kept.push_back(Arc::clone(&flow));
        }
        if watched {
            // Without readers there is nothing to send to; they may have left just now.
            let _nobody = self.flows.send(flow);
        }
    }

    /// Shows a request's head to the taps that match. Cheap while there is none. The answer takes the response's head.
    pub fn tap(&self, seen: &Seen<'_>) -> Option<Tapped> {
        self.taps.request(seen)
    }

    /// The denials and errors that are kept, the oldest first.
    pub fn kept_flows(&self) -> Vec<Flow> {
        self.kept
            .lock()
            .iter()
            .map(|flow| Flow::clone(flow))
            .collect()
    }

    /// A new reader; `None` when there are too many.
    fn reader(self: &Arc<Self>) -> Option<Reader> {
        let counted = self
            .readers
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |readers| {
                (readers < MAX_READERS).then_some(readers + 1)
            });
        counted.ok()?;
        // Subscribed before the kept ones are copied: a record may be seen twice at this seam, never not at all.
        let live = self.flows.subscribe();
        let kept = self.kept.lock().clone();
        Some(Reader {
            observer: Arc::clone(self),
            kept,
            live,
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.observer.readers.fetch_sub(1, Ordering::Relaxed);
    }
}
