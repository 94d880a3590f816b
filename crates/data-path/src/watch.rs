//! Deadlines of connections without a timer per request.
//!
//! Owns: for each connection a few atomic deadlines that its I/O sets and clears, and one sweep per worker
//! (twice a second) that ends the connections whose deadline has passed. A timer armed and dropped for every
//! request head costs about as much as parsing it; a store does not. Deadlines are therefore half a second coarse.
//! Must not: know HTTP. Next: `io.rs`, which arms the deadlines.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

/// How often connections are looked at.
pub const SWEEP: Duration = Duration::from_millis(500);

/// No deadline.
const NEVER: u64 = u64::MAX;

/// A clock that moves with the sweep: milliseconds since the worker began.
#[derive(Debug)]
pub struct CoarseClock {
    began: Instant,
    millis: AtomicU64,
}

impl Default for CoarseClock {
    /// Begins now.
    fn default() -> Self {
        Self {
            began: Instant::now(),
            millis: AtomicU64::new(0),
        }
    }
}

impl CoarseClock {
    pub fn now(&self) -> u64 {
        self.millis.load(Ordering::Relaxed)
    }

    fn advance(&self) -> u64 {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(NEVER - 1);
        self.millis.store(now, Ordering::Relaxed);
        now
    }
}

/// Why a connection was ended by the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// Nothing, or half a request head, for too long; or a request body that trickled.
    Read,
    /// The client does not take its response.
    Write,
    /// A request in flight without a byte in either direction.
    Stall,
}

/// What the sweep watches of one connection.
#[derive(Debug)]
pub struct Watch {
    pub clock: Arc<CoarseClock>,
    read_by: AtomicU64,
    write_by: AtomicU64,
    moved_at: AtomicU64,
    in_flight: AtomicU32,
    /// The connection has left HTTP (RFC 6455): bytes are no longer messages.
    upgraded: AtomicBool,
    idle: Duration,
    stall: Duration,
}

impl Watch {
    pub fn new(
        clock: Arc<CoarseClock>,
        handshake: Duration,
        idle: Duration,
        stall: Duration,
    ) -> Self {
        let now = clock.now();
        Self {
            read_by: AtomicU64::new(now + millis(handshake)),
            write_by: AtomicU64::new(NEVER),
            moved_at: AtomicU64::new(now),
            in_flight: AtomicU32::new(0),
            upgraded: AtomicBool::new(false),
            clock,
            idle,
            stall,
        }
    }

    pub fn read_within(&self, limit: Duration) {
        self.read_by
            .store(self.clock.now() + millis(limit), Ordering::Relaxed);
    }

    pub fn read_until(&self, at: u64) {
        self.read_by.store(at, Ordering::Relaxed);
    }

    pub fn read_whenever(&self) {
        self.read_by.store(NEVER, Ordering::Relaxed);
    }

    pub fn write_within(&self, limit: Duration) {
        self.write_by
            .store(self.clock.now() + millis(limit), Ordering::Relaxed);
    }

    pub fn write_whenever(&self) {
        self.write_by.store(NEVER, Ordering::Relaxed);
    }

    pub fn moved(&self) {
        self.moved_at.store(self.clock.now(), Ordering::Relaxed);
    }

    /// One request more in flight. With the first one the wait for a head is over: an HTTP/2 connection
    /// hands the request to a task of its own, and may read nothing more until the answer is there.
    pub fn begin(&self) {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            self.read_whenever();
        }
    }

    /// One request less in flight; with the last one the keep-alive time begins.
    pub fn end(&self) {
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.read_within(self.idle);
        }
    }

    pub fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    pub fn set_upgraded(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
        self.read_whenever();
    }

    pub fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    fn expired(&self, now: u64) -> Option<Expired> {
        // An upgraded connection has no heads and bodies to wait for.
        if now > self.read_by.load(Ordering::Relaxed) && !self.is_upgraded() {
            return Some(Expired::Read);
        }
        if now > self.write_by.load(Ordering::Relaxed) {
            return Some(Expired::Write);
        }
        let busy = self.is_busy() || self.is_upgraded();
        let stalled = now
            > self
                .moved_at
                .load(Ordering::Relaxed)
                .saturating_add(millis(self.stall));
        (busy && stalled).then_some(Expired::Stall)
    }
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER / 2)
}

/// The connections of one worker.
#[derive(Debug, Default)]
pub struct Watches {
    open: Mutex<HashMap<u64, (Arc<Watch>, AbortHandle), foldhash::fast::RandomState>>,
}

impl Watches {
    pub fn add(&self, id: u64, watch: Arc<Watch>, task: AbortHandle) {
        self.open.lock().insert(id, (watch, task));
    }

    pub fn remove(&self, id: u64) {
        self.open.lock().remove(&id);
    }

    /// The task of a connection, for others who may have to end it.
    #[must_use]
    pub fn task(&self, id: u64) -> Option<AbortHandle> {
        let open = self.open.lock();
        open.get(&id).map(|(_, task)| task.clone())
    }

    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.lock().is_empty()
    }

    /// Ends what has expired; `told` hears of each.
    pub fn sweep(&self, clock: &CoarseClock, mut told: impl FnMut(Expired)) {
        let now = clock.advance();
        self.open
            .lock()
            .retain(|_, (watch, task)| match watch.expired(now) {
                Some(expired) => {
                    told(expired);
                    task.abort();
                    false
                }
                None => true,
            });
    }

    /// Ends connections without a request in flight: the drain has begun.
    pub fn end_idle(&self) {
        self.open.lock().retain(|_, (watch, task)| {
            let busy = watch.is_busy();
            if !busy {
                task.abort();
            }
            busy
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        let second = Duration::from_secs(1);
        Watch::new(
            Arc::new(CoarseClock::default()),
            second,
            5 * second,
            20 * second,
        )
    }

    #[test]
    fn a_silent_handshake_expires() {
        let watch = watch();
        assert_eq!(watch.expired(1000), None);
        assert_eq!(watch.expired(1001), Some(Expired::Read));
    }

    #[test]
    fn a_request_in_flight_is_not_idle_and_keep_alive_begins_after_it() {
        let watch = watch();
        watch.begin();
        assert_eq!(watch.expired(19_000), None);
        watch.end();
        assert_eq!(watch.expired(5000), None);
        assert_eq!(watch.expired(5001), Some(Expired::Read));
    }

    #[test]
    fn a_request_on_which_nothing_moves_expires() {
        let watch = watch();
        watch.begin();
        assert_eq!(watch.expired(20_001), Some(Expired::Stall));
    }

    #[test]
    fn a_client_that_takes_nothing_expires() {
        let watch = watch();
        watch.begin();
        watch.write_within(Duration::from_secs(2));
        assert_eq!(watch.expired(2001), Some(Expired::Write));
        watch.write_whenever();
        assert_eq!(watch.expired(2001), None);
    }
}
