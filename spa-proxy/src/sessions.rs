//! Who is signed in: the tokens of each session, behind an id that only the browser's cookie holds.
//!
//! Owns: the bounded store, its expiry (idle and absolute), and the end of a session, which its open
//! streams see at once. Ids are kept as SHA-256, so that a memory dump of the table opens nothing.
//! Must not: talk to the authorization server; `tokens` does that.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use ringwall_proto::{WireToken, session::SessionUser};
use tokio::sync::{Semaphore, watch};

use crate::{config::SessionConfig, random};

/// Event streams that one session may hold open: several tabs, no flood.
const MAX_STREAMS: usize = 8;

/// The tokens of a session. They never leave this process except towards authz-server and the API.
pub(crate) struct Tokens {
    pub(crate) access: WireToken,
    pub(crate) access_expires: SystemTime,
    pub(crate) refresh: Option<WireToken>,
    pub(crate) id_token: WireToken,
    /// After a refresh that got no answer: nobody tries again before this.
    pub(crate) retry_after: Option<Instant>,
}

/// What is known when somebody has signed in.
pub(crate) struct SignedIn {
    pub(crate) user: SessionUser,
    /// The authorization server's own session (OpenID Connect Back-Channel Logout 1.0 §2.1).
    pub(crate) sid: Option<String>,
    pub(crate) tokens: Tokens,
}

/// One session. Handlers hold it by `Arc`; whether it has ended is asked of `ended`.
pub(crate) struct Session {
    pub(crate) user: SessionUser,
    pub(crate) sid: Option<String>,
    /// Held across a refresh: one flight per session.
    pub(crate) tokens: Arc<tokio::sync::Mutex<Tokens>>,
    pub(crate) streams: Arc<Semaphore>,
    ended: watch::Sender<bool>,
    created: SystemTime,
    last_used: Mutex<SystemTime>,
}

impl Session {
    fn new(signed_in: SignedIn, now: SystemTime) -> Self {
        Self {
            user: signed_in.user,
            sid: signed_in.sid,
            tokens: Arc::new(tokio::sync::Mutex::new(signed_in.tokens)),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            ended: watch::Sender::new(false),
            created: now,
            last_used: Mutex::new(now),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Completes when the session ends; open streams end with it.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.subscribe();
        async move {
            // An error means that the session is gone altogether: that is an end too.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    fn end(&self) {
        self.ended.send_replace(true);
    }

    fn is_over(&self, limits: &SessionConfig, now: SystemTime) -> bool {
        let since = |then: SystemTime| now.duration_since(then).unwrap_or(Duration::ZERO);
        since(self.created) >= limits.absolute || since(*self.last_used.lock()) >= limits.idle
    }
}

type Key = [u8; 32];

/// All sessions of this process.
pub(crate) struct Sessions {
    limits: SessionConfig,
    by_key: Mutex<HashMap<Key, Arc<Session>>>,
}

impl Sessions {
    pub(crate) fn new(limits: SessionConfig) -> Self {
        Self {
            limits,
            by_key: Mutex::default(),
        }
    }

    /// Starts a session under a new id, which is the answer. An id that the browser brought along
    /// is never taken over (session fixation).
    pub(crate) fn start(&self, signed_in: SignedIn, now: SystemTime) -> String {
        let id = random::token();
        let mut sessions = self.by_key.lock();
        if sessions.len() >= self.limits.max {
            make_room(&mut sessions, &self.limits, now);
        }
        sessions.insert(random::sha256(&id), Arc::new(Session::new(signed_in, now)));
        id
    }

    /// The live session with this id; using it moves its idle end.
    pub(crate) fn find(&self, id: &str, now: SystemTime) -> Option<Arc<Session>> {
        let key = random::sha256(id);
        let mut sessions = self.by_key.lock();
        let session = sessions.get(&key)?;
        if session.is_over(&self.limits, now) {
            session.end();
            sessions.remove(&key);
            return None;
        }
        *session.last_used.lock() = now;
        Some(Arc::clone(session))
    }

    /// Ends the session with this id and hands it back, so that its tokens can be revoked.
    pub(crate) fn end(&self, id: &str) -> Option<Arc<Session>> {
        let session = self.by_key.lock().remove(&random::sha256(id))?;
        session.end();
        Some(session)
    }

    /// Ends every session that `matches`; the answer is how many.
    pub(crate) fn end_where(&self, matches: impl Fn(&Session) -> bool) -> usize {
        let mut sessions = self.by_key.lock();
        let before = sessions.len();
        sessions.retain(|_, session| {
            let ends = matches(session);
            if ends {
                session.end();
            }
            !ends
        });
        before - sessions.len()
    }

    /// Forgets sessions whose time is over; called every now and then.
    pub(crate) fn sweep(&self, now: SystemTime) -> usize {
        self.end_where(|session| session.is_over(&self.limits, now))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_key.lock().len()
    }
}

/// Drops what is over; if nothing is, the session that was not used for the longest time.
fn make_room(sessions: &mut HashMap<Key, Arc<Session>>, limits: &SessionConfig, now: SystemTime) {
    let before = sessions.len();
    sessions.retain(|_, session| {
        let over = session.is_over(limits, now);
        if over {
            session.end();
        }
        !over
    });
    if sessions.len() < before {
        return;
    }
    let oldest = sessions
        .iter()
        .min_by_key(|(_, session)| *session.last_used.lock());
    if let Some(key) = oldest.map(|(key, _)| *key)
        && let Some(session) = sessions.remove(&key)
    {
        session.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::signed_in;

    fn sessions(max: usize) -> Sessions {
        Sessions::new(SessionConfig {
            max,
            ..SessionConfig::default()
        })
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    #[test]
    fn r18_every_sign_in_gets_a_new_id() {
        let sessions = sessions(10);
        let now = SystemTime::now();
        let first = sessions.start(signed_in("alice"), now);
        let second = sessions.start(signed_in("alice"), now);
        assert_ne!(first, second);
        assert!(
            sessions
                .find("an-id-that-an-attacker-planted", now)
                .is_none()
        );
    }

    #[test]
    fn r18_an_idle_session_ends_and_a_used_one_does_not() {
        let sessions = sessions(10);
        let start = SystemTime::now();
        let id = sessions.start(signed_in("alice"), start);
        assert!(sessions.find(&id, start + minutes(29)).is_some());
        assert!(sessions.find(&id, start + minutes(58)).is_some());
        assert!(sessions.find(&id, start + minutes(88)).is_none());
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn r18_a_busy_session_ends_at_its_absolute_limit() {
        let sessions = sessions(10);
        let start = SystemTime::now();
        let id = sessions.start(signed_in("alice"), start);
        for step in 1..48 {
            assert!(
                sessions.find(&id, start + minutes(15 * step)).is_some(),
                "{step}"
            );
        }
        assert!(sessions.find(&id, start + minutes(12 * 60)).is_none());
    }

    #[test]
    fn the_store_is_bounded_and_drops_the_least_recently_used() {
        let sessions = sessions(2);
        let now = SystemTime::now();
        let first = sessions.start(signed_in("alice"), now);
        let second = sessions.start(signed_in("bob"), now + minutes(1));
        sessions.find(&first, now + minutes(2)).unwrap();
        let third = sessions.start(signed_in("carol"), now + minutes(3));
        assert_eq!(sessions.len(), 2);
        assert!(sessions.find(&second, now + minutes(4)).is_none());
        assert!(sessions.find(&first, now + minutes(4)).is_some());
        assert!(sessions.find(&third, now + minutes(4)).is_some());
    }

    #[tokio::test]
    async fn an_end_reaches_those_who_hold_the_session() {
        let sessions = sessions(2);
        let now = SystemTime::now();
        let id = sessions.start(signed_in("alice"), now);
        let held = sessions.find(&id, now).unwrap();
        let ended = held.ended();
        assert!(!held.has_ended());
        assert!(sessions.end(&id).is_some());
        ended.await;
        assert!(held.has_ended());
        assert!(sessions.end(&id).is_none());
    }
}
