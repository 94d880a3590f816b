//! The callbacks of a TCP stream.
//!
//! Owns: the same rules as for bodies, on bytes without an end in sight. Must not: wait; `tcp.rs` does.

use bytes::Bytes;

use crate::abi::Peer;
use crate::instance::call::run;
use crate::instance::create::length;
use crate::instance::{Inner, Instance, Outcome, Released, Way};

impl Instance {
    /// `proxy_on_new_connection`.
    pub(crate) fn on_new_connection(&self, id: u32) -> Outcome {
        let mut inner = self.inner.lock();
        if let Some(failure) = self.failure() {
            return Outcome::Failed(failure.clone(), Released::default());
        }
        let name = "proxy_on_new_connection";
        let answer = self.invoke(&mut inner, name, |Inner { store, guest }| {
            run(store, name, id, &guest.new_connection, id, 0)
        });
        self.stream_outcome(&mut inner, id, Way::Request, answer)
    }

    /// `proxy_on_downstream_data` or `proxy_on_upstream_data`, with everything that is held.
    pub(crate) fn on_data(&self, id: u32, way: Way, chunk: Bytes, end: bool) -> Outcome {
        let mut inner = self.inner.lock();
        let Some(context) = inner.host().contexts.get_mut(&id) else {
            return Outcome::Closed;
        };
        let side = context.side(way);
        side.body.push(chunk);
        side.body_open = true;
        side.resume = false;
        side.end = end;
        let size = side.body.len();
        if let Some(failure) = self.failure() {
            return Outcome::Failed(failure.clone(), side.release());
        }
        let name = match way {
            Way::Request => "proxy_on_downstream_data",
            Way::Response => "proxy_on_upstream_data",
        };
        let params = (id, length(size), u32::from(end));
        let answer = self.invoke(&mut inner, name, |Inner { store, guest }| {
            let function = match way {
                Way::Request => &guest.downstream_data,
                Way::Response => &guest.upstream_data,
            };
            run(store, name, id, function, params, 0)
        });
        self.stream_outcome(&mut inner, id, way, answer)
    }

    /// `proxy_on_downstream_connection_close` or `proxy_on_upstream_connection_close`.
    pub(crate) fn on_connection_close(&self, id: u32, way: Way, peer: Peer) {
        let mut inner = self.inner.lock();
        if self.has_failed() {
            return;
        }
        let name = match way {
            Way::Request => "proxy_on_downstream_connection_close",
            Way::Response => "proxy_on_upstream_connection_close",
        };
        let _ = self.invoke(&mut inner, name, |Inner { store, guest }| {
            let function = match way {
                Way::Request => &guest.downstream_close,
                Way::Response => &guest.upstream_close,
            };
            run(store, name, id, function, (id, peer as u32), ())
        });
    }

    fn stream_outcome(
        &self,
        inner: &mut Inner,
        id: u32,
        way: Way,
        answer: Result<u32, crate::instance::Failure>,
    ) -> Outcome {
        let limit = self.version.spec.limits.buffered_body;
        let Some(context) = inner.host().contexts.get_mut(&id) else {
            return Outcome::Closed;
        };
        let closed = context.closed;
        let side = context.side(way);
        match answer {
            Err(failure) => Outcome::Failed(failure, side.release()),
            Ok(_) if closed => Outcome::Closed,
            Ok(answer) if answer != 0 && !side.resume => {
                side.paused = true;
                if side.body.len() > limit {
                    return Outcome::Overflow;
                }
                Outcome::Paused { whole: false }
            }
            Ok(_) => Outcome::Continue(side.release()),
        }
    }
}
