//! Notifications out, live: one bounded broadcast that wakes the streams.
//!
//! Owns: who is listening, and the limits on that. An announcement carries only a user and a
//! sequence; a stream reads its notifications from the store, so a stream that lags behind the
//! broadcast, or resumes, misses nothing. It must not hold notifications. Read next: `api.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::Stream;
use futures_util::stream;
use ringwall_proto::ids::Subject;
use ringwall_proto::notifications::Notification;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::config::StreamConfig;
use crate::error::NotificationsError;
use crate::store::NotificationStore;

/// Announcements kept for a slow stream; one that falls further behind reads from the store.
const CAPACITY: usize = 256;
/// Notifications that a stream reads at a time.
const PAGE: u32 = 100;

/// The open streams. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Live {
    announcements: broadcast::Sender<Announcement>,
    open: Arc<Mutex<HashMap<Subject, usize>>>,
    limits: StreamConfig,
}

#[derive(Debug, Clone)]
struct Announcement {
    user: Subject,
    sequence: u64,
}

impl Live {
    pub(crate) fn new(limits: StreamConfig) -> Self {
        Self {
            announcements: broadcast::Sender::new(CAPACITY),
            open: Arc::default(),
            limits,
        }
    }

    /// Wakes the streams of `user`. It is no error that nobody listens.
    pub(crate) fn announce(&self, user: Subject, sequence: u64) {
        let _listeners = self.announcements.send(Announcement { user, sequence });
    }

    /// A seat for one stream of `user`, within the limits.
    pub(crate) fn admit(&self, user: &Subject) -> Result<Seat, NotificationsError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = open.values().sum();
        let of_user = open.get(user).copied().unwrap_or(0);
        if total >= self.limits.total || of_user >= self.limits.per_user {
            return Err(NotificationsError::TooManyStreams);
        }
        open.insert(user.clone(), of_user + 1);
        Ok(Seat {
            announcements: self.announcements.subscribe(),
            user: user.clone(),
            open: Arc::clone(&self.open),
        })
    }
}

/// One stream's place; it is free again when dropped.
pub(crate) struct Seat {
    announcements: broadcast::Receiver<Announcement>,
    user: Subject,
    open: Arc<Mutex<HashMap<Subject, usize>>>,
}

impl Seat {
    /// Every notification of the user after `sequence`, as they come, without end.
    ///
    /// The seat listened before the first read of the store, so nothing falls in between.
    pub(crate) fn follow(
        self,
        store: NotificationStore,
        sequence: u64,
    ) -> impl Stream<Item = Result<Notification, NotificationsError>> {
        let follower = Follower {
            seat: self,
            store,
            sequence,
            ready: VecDeque::new(),
            behind: true,
        };
        stream::try_unfold(follower, |mut follower| async move {
            let next = follower.next().await?;
            Ok(next.map(|notification| (notification, follower)))
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.user) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.user);
            }
        }
    }
}

struct Follower {
    seat: Seat,
    store: NotificationStore,
    /// The last one that was handed out.
    sequence: u64,
    ready: VecDeque<Notification>,
    /// The store may hold more than `ready`.
    behind: bool,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<Notification>, NotificationsError> {
        loop {
            if let Some(notification) = self.ready.pop_front() {
                self.sequence = notification.sequence;
                return Ok(Some(notification));
            }
            if self.behind {
                let found = self
                    .store
                    .after(&self.seat.user, self.sequence, PAGE)
                    .await?;
                // A full page may not be all.
                self.behind = !found.is_empty();
                self.ready = found.into();
                continue;
            }
            match self.seat.announcements.recv().await {
                Ok(told) => {
                    self.behind = told.user == self.seat.user && told.sequence > self.sequence;
                }
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests;
