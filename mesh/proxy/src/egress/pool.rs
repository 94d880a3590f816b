//! Connections that wait for the next request to the same host under the same rule.
//!
//! Owns: their number and age. An old connection is not used for ever, since its name may have moved. Must not: lend one
//! rule's connection to another, whose limits and networks differ.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use parking_lot::Mutex;
use ringwall_http_io::BoxBody;
use tokio::time::{Instant, timeout};

use super::dial::Sender;
use super::target::Host;

/// Idle HTTP/1.1 connections to one host, and hosts.
const MAX_IDLE: usize = 16;
const MAX_HOSTS: usize = 512;
/// Idle, and in all.
const IDLE: Duration = Duration::from_secs(30);
const OLDEST: Duration = Duration::from_secs(300);
/// From the end of a response until its connection can take the next request.
const SETTLE: Duration = Duration::from_secs(1);

/// Whose connections may be used for a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) rule: usize,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

#[derive(Default)]
pub(crate) struct Pool {
    hosts: Mutex<HashMap<Key, Waiting>>,
}

#[derive(Default)]
struct Waiting {
    http1: Vec<Idle>,
    /// Shared by requests; many streams fit on one.
    http2: Option<(http2::SendRequest<BoxBody>, Instant)>,
}

struct Idle {
    sender: http1::SendRequest<BoxBody>,
    born: Instant,
    since: Instant,
}

/// A connection for one request.
pub(crate) struct Lease {
    pub(crate) sender: Sender,
    pub(crate) born: Instant,
    /// It may have been closed by the server meanwhile.
    pub(crate) reused: bool,
}

impl Pool {
    /// A connection that waits, if there is one in good health.
    pub(crate) fn take(&self, key: &Key) -> Option<Lease> {
        let now = Instant::now();
        let mut hosts = self.hosts.lock();
        let waiting = hosts.get_mut(key)?;
        if let Some((sender, born)) = &waiting.http2 {
            if !sender.is_closed() && now.duration_since(*born) < OLDEST {
                return Some(Lease {
                    sender: Sender::Http2(sender.clone()),
                    born: *born,
                    reused: true,
                });
            }
            waiting.http2 = None;
        }
        while let Some(idle) = waiting.http1.pop() {
            if idle.sender.is_ready() && now.duration_since(idle.since) < IDLE {
                return Some(Lease {
                    sender: Sender::Http1(idle.sender),
                    born: idle.born,
                    reused: true,
                });
            }
        }
        None
    }

    /// Lets other requests share a new HTTP/2 connection.
    pub(crate) fn share(&self, key: &Key, sender: &http2::SendRequest<BoxBody>, born: Instant) {
        let mut hosts = self.hosts.lock();
        make_room(&mut hosts, key);
        let waiting = hosts.entry(key.clone()).or_default();
        waiting.http2 = Some((sender.clone(), born));
    }

    /// Takes an HTTP/1.1 connection back once its response has ended.
    pub(crate) fn give_back(
        self: &Arc<Self>,
        key: Key,
        mut sender: http1::SendRequest<BoxBody>,
        born: Instant,
    ) {
        if sender.is_ready() {
            return self.put(key, sender, born);
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let pool = Arc::clone(self);
        runtime.spawn(async move {
            let ready = timeout(SETTLE, sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) && born.elapsed() < OLDEST {
                pool.put(key, sender, born);
            }
        });
    }

    fn put(&self, key: Key, sender: http1::SendRequest<BoxBody>, born: Instant) {
        let mut hosts = self.hosts.lock();
        make_room(&mut hosts, &key);
        let waiting = hosts.entry(key).or_default();
        if waiting.http1.len() < MAX_IDLE {
            waiting.http1.push(Idle {
                sender,
                born,
                since: Instant::now(),
            });
        }
    }
}

/// Drops what is of no use any more when there are many hosts; a wildcard may have names without end.
fn make_room(hosts: &mut HashMap<Key, Waiting>, key: &Key) {
    if hosts.len() < MAX_HOSTS || hosts.contains_key(key) {
        return;
    }
    hosts.retain(|_, waiting| {
        waiting
            .http1
            .retain(|idle| idle.sender.is_ready() && idle.since.elapsed() < IDLE);
        waiting.http2 = waiting
            .http2
            .take()
            .filter(|(sender, _)| !sender.is_closed());
        !waiting.http1.is_empty() || waiting.http2.is_some()
    });
    if hosts.len() >= MAX_HOSTS {
        hosts.clear();
    }
}
