//! The callbacks of an HTTP stream.
//!
//! Owns: what a verdict means. Parts of a message lie in the context while the plugin may look at them, and come back
//! with the [`Outcome`]. Must not: wait; `http/stage.rs` does.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use crate::http::Ended;
use crate::http::fields::{Fields, Head};
use crate::http::shared::StreamShared;
use crate::instance::call::run;
use crate::instance::create::length;
use crate::instance::guest::OnHeaders;
use crate::instance::host::ROOT;
use crate::instance::{
    Context, ContextKind, Failure, FailureKind, Inner, Instance, Outcome, Released, Way,
};
use crate::spec::{BodyAccess, HeadersPause};

/// Contexts that have put off their end; the oldest promise is not waited for beyond that.
const MAX_UNFINISHED: usize = 1024;

/// What the guest has said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Continue,
    Pause { whole: bool },
}

impl Instance {
    /// Whether body callbacks of this direction would do anything.
    pub(crate) fn sees_body(&self, way: Way) -> bool {
        let [request, response] = self.sees_body;
        let exports = match way {
            Way::Request => request,
            Way::Response => response,
        };
        exports && self.version.spec.capabilities.body != BodyAccess::None
    }

    /// `proxy_on_context_create` for a new stream.
    pub(crate) fn open(
        &self,
        kind: ContextKind,
        shared: &Arc<StreamShared>,
    ) -> Result<u32, Failure> {
        let mut inner = self.inner.lock();
        if let Some(failure) = self.failure() {
            return Err(failure.clone());
        }
        let context = Context::new(kind, Some(Arc::clone(shared)));
        let id = inner.host().add_context(context);
        self.version.metrics.streams.add(1);
        self.invoke(
            &mut inner,
            "proxy_on_context_create",
            |Inner { store, guest }| {
                let name = "proxy_on_context_create";
                run(store, name, id, &guest.context_create, (id, ROOT), ())
            },
        )?;
        Ok(id)
    }

    /// `proxy_on_request_headers` or `proxy_on_response_headers`.
    pub(crate) fn on_headers(&self, id: u32, way: Way, head: Head, end: bool) -> Outcome {
        let given_back = |head| Released {
            head: Some(head),
            end,
            ..Released::default()
        };
        let mut inner = self.inner.lock();
        if let Some(failure) = self.failure() {
            return Outcome::Failed(failure.clone(), given_back(head));
        }
        let Some(context) = inner.host().contexts.get_mut(&id) else {
            return Outcome::Continue(given_back(head));
        };
        let count = match &head {
            Head::Request(head) => Fields::Request(head, false).count(),
            Head::Response(head) => Fields::Response(head).count(),
        };
        let side = context.side(way);
        side.head = Some(head);
        side.head_bytes = None;
        side.resume = false;
        side.end = end;
        let name = match way {
            Way::Request => "proxy_on_request_headers",
            Way::Response => "proxy_on_response_headers",
        };
        let params = (id, length(count), u32::from(end));
        let verdict = self.invoke(&mut inner, name, |Inner { store, guest }| {
            let function = match way {
                Way::Request => &guest.request_headers,
                Way::Response => &guest.response_headers,
            };
            match function {
                OnHeaders::New(function) => run(store, name, id, function, params, 0),
                OnHeaders::Old(function) => run(store, name, id, function, (params.0, params.1), 0),
            }
        });
        let verdict = verdict.map(|answer| {
            let delivers = !end && self.sees_body(way);
            self.headers_verdict(&mut inner, id, delivers, answer)
        });
        self.outcome(&mut inner, id, way, verdict)
    }

    /// 0 goes on; 1 is a pause; Envoy's other values hold the whole stream. `delivers`: there is a body, and it wants it.
    fn headers_verdict(&self, inner: &mut Inner, id: u32, delivers: bool, answer: u32) -> Verdict {
        if answer == 0 {
            return Verdict::Continue;
        }
        let calls = inner
            .host()
            .contexts
            .get(&id)
            .map_or(0, |context| context.calls);
        let whole = match self.version.spec.headers_pause {
            _ if answer != 1 || !delivers => true,
            HeadersPause::Stream => true,
            HeadersPause::Headers => false,
            HeadersPause::Auto => calls > 0,
        };
        Verdict::Pause { whole }
    }

    /// `proxy_on_request_body` or `proxy_on_response_body`, with everything that is held.
    pub(crate) fn on_body(&self, id: u32, way: Way, chunk: Bytes, end: bool) -> Outcome {
        let mut inner = self.inner.lock();
        let Some(context) = inner.host().contexts.get_mut(&id) else {
            return Outcome::Continue(Released {
                body: [chunk].into(),
                end,
                ..Released::default()
            });
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
            Way::Request => "proxy_on_request_body",
            Way::Response => "proxy_on_response_body",
        };
        let params = (id, length(size), u32::from(end));
        let verdict = self.invoke(&mut inner, name, |Inner { store, guest }| {
            let function = match way {
                Way::Request => &guest.request_body,
                Way::Response => &guest.response_body,
            };
            run(store, name, id, function, params, 0)
        });
        self.outcome(&mut inner, id, way, verdict.map(Verdict::from))
    }

    /// `proxy_on_request_trailers` or `proxy_on_response_trailers`.
    pub(crate) fn on_trailers(&self, id: u32, way: Way, trailers: HeaderMap) -> Outcome {
        let mut inner = self.inner.lock();
        let Some(context) = inner.host().contexts.get_mut(&id) else {
            return Outcome::Continue(Released {
                trailers: Some(trailers),
                end: true,
                ..Released::default()
            });
        };
        let side = context.side(way);
        let count = trailers.len();
        side.trailers = Some(trailers);
        side.body_open = true;
        side.resume = false;
        side.end = true;
        if let Some(failure) = self.failure() {
            return Outcome::Failed(failure.clone(), side.release());
        }
        let name = match way {
            Way::Request => "proxy_on_request_trailers",
            Way::Response => "proxy_on_response_trailers",
        };
        let verdict = self.invoke(&mut inner, name, |Inner { store, guest }| {
            let function = match way {
                Way::Request => &guest.request_trailers,
                Way::Response => &guest.response_trailers,
            };
            run(store, name, id, function, (id, length(count)), 0)
        });
        self.outcome(&mut inner, id, way, verdict.map(Verdict::from))
    }

    /// What has happened to a paused stream meanwhile. `None`: nothing.
    pub(crate) fn events(&self, id: u32, way: Way) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        let context = inner.host().contexts.get_mut(&id)?;
        if let Some(failure) = self.failure() {
            let held = context.side(way).release();
            return Some(Outcome::Failed(failure.clone(), held));
        }
        if context.closed {
            return Some(Outcome::Closed);
        }
        if let Some(local) = context.local.take() {
            return Some(Outcome::Local(local));
        }
        let side = context.side(way);
        (side.paused && side.resume).then(|| Outcome::Continue(self.released(context, way)))
    }

    /// Whether a plugin wants the stream to end, by a callback of another context.
    pub(crate) fn wish(&self, id: u32) -> Option<Ended> {
        let mut inner = self.inner.lock();
        let context = inner.host().contexts.get_mut(&id)?;
        if context.closed {
            return Some(Ended::Closed);
        }
        context.local.take().map(Ended::Local)
    }

    /// Gives back what a stream has held for longer than it may.
    pub(crate) fn paused_too_long(&self, id: u32, way: Way) -> Outcome {
        let failure = Failure::new(FailureKind::PausedTooLong, "pause");
        self.version.metrics.failure(failure.kind);
        tracing::warn!(plugin = %self.version.spec.name, failure = %failure.id, "a plugin has paused a stream for too long");
        let mut inner = self.inner.lock();
        let context = inner.host().contexts.get_mut(&id);
        let held = context.map(|context| context.side(way).release());
        Outcome::Failed(failure, held.unwrap_or_default())
    }

    fn released(&self, context: &mut Context, way: Way) -> Released {
        let released = context.side(way).release();
        if way == Way::Response && released.head.is_some() {
            context.can_respond = false;
        }
        released
    }

    fn outcome(
        &self,
        inner: &mut Inner,
        id: u32,
        way: Way,
        verdict: Result<Verdict, Failure>,
    ) -> Outcome {
        let limit = self.version.spec.limits.buffered_body;
        let Some(context) = inner.host().contexts.get_mut(&id) else {
            return Outcome::Closed;
        };
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(failure) => return Outcome::Failed(failure, context.side(way).release()),
        };
        if context.closed {
            return Outcome::Closed;
        }
        if let Some(local) = context.local.take() {
            return Outcome::Local(local);
        }
        let side = context.side(way);
        match verdict {
            Verdict::Pause { whole } if !side.resume => {
                side.paused = true;
                if side.body.len() > limit {
                    return Outcome::Overflow;
                }
                Outcome::Paused { whole }
            }
            Verdict::Pause { .. } | Verdict::Continue => {
                Outcome::Continue(self.released(context, way))
            }
        }
    }

    /// The end of a stream: `proxy_on_done`, and the rest when the plugin agrees.
    pub(crate) fn finish(&self, id: u32) {
        let mut inner = self.inner.lock();
        if self.has_failed() {
            inner.host().contexts.remove(&id);
            return;
        }
        // A failure is noted where it belongs; the stream has ended anyway.
        let _ = self.invoke(&mut inner, "proxy_on_done", |inner| {
            let Inner { store, guest } = inner;
            let done = run(store, "proxy_on_done", id, &guest.done, id, 1)?;
            let host = store.data_mut();
            let may_wait = done == 0 && host.unfinished < MAX_UNFINISHED;
            match host.contexts.get_mut(&id) {
                Some(context) if may_wait => {
                    context.is_finishing = true;
                    host.unfinished += 1;
                    Ok(())
                }
                _ => inner.finalize(id),
            }
        });
    }
}

impl From<u32> for Verdict {
    /// Of a body or of trailers: whatever is not 0 holds.
    fn from(answer: u32) -> Self {
        match answer {
            0 => Self::Continue,
            _ => Self::Pause { whole: false },
        }
    }
}
