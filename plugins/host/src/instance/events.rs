//! Callbacks that come from elsewhere than a stream: timers, queues, answers to calls.
//!
//! Owns: that each finds its call still under way, and that what it delivers can be read in it only.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::{HeaderMap, response};

use crate::http::fields::{Fields, Head};
use crate::instance::call::run;
use crate::instance::create::length;
use crate::instance::host::{Delivery, ROOT};
use crate::instance::{CallKind, Inner, Instance};

/// `BROKEN_CONNECTION`, as Envoy gives it where a call has failed.
const BROKEN: u32 = 11;

/// The answer to an HTTP call.
pub(crate) struct CallResponse {
    pub(crate) head: response::Parts,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// What a gRPC call or stream receives.
pub(crate) enum Message {
    InitialMetadata(HeaderMap),
    Data(Bytes),
    TrailingMetadata(HeaderMap),
    Close { status: u32, message: String },
}

impl Instance {
    /// False when there is nobody to tick for.
    pub(crate) fn on_tick(&self) -> bool {
        let mut inner = self.inner.lock();
        if self.has_failed() {
            return false;
        }
        let ticked = self.invoke(&mut inner, "proxy_on_tick", |Inner { store, guest }| {
            run(store, "proxy_on_tick", ROOT, &guest.tick, ROOT, ())
        });
        ticked.is_ok()
    }

    /// Tells the guest of an item, on its own worker.
    pub(crate) fn notify(self: Arc<Self>, queue: u32) {
        let handle = self
            .worker
            .upgrade()
            .and_then(|worker| worker.handle.clone());
        let Some(handle) = handle else { return };
        let instance: Weak<Self> = Arc::downgrade(&self);
        drop(handle.spawn(async move {
            if let Some(instance) = instance.upgrade() {
                instance.on_queue_ready(queue);
            }
        }));
    }

    pub(crate) fn on_queue_ready(&self, queue: u32) {
        let mut inner = self.inner.lock();
        if self.has_failed() {
            return;
        }
        let name = "proxy_on_queue_ready";
        let _ = self.invoke(&mut inner, name, |Inner { store, guest }| {
            run(store, name, ROOT, &guest.queue_ready, (ROOT, queue), ())
        });
    }

    /// `None`: it has failed, or timed out.
    pub(crate) fn on_http_call_response(&self, id: u32, response: Option<CallResponse>) {
        let mut inner = self.inner.lock();
        if self.has_failed() {
            return;
        }
        let host = inner.host();
        let Some(mut call) = host.end_call(id) else {
            return;
        };
        call.task = None; // it is this task
        let mut params = (ROOT, id, 0, 0, 0);
        match response {
            Some(response) => {
                params.2 = length(Fields::Response(&response.head).count());
                params.3 = length(response.body.len());
                params.4 = length(response.trailers.as_ref().map_or(0, HeaderMap::len));
                let status = u32::from(response.head.status.as_u16());
                host.delivery = Delivery {
                    call_head: Some(Head::Response(Box::new(response.head))),
                    call_body: Some(response.body),
                    call_trailers: response.trailers,
                    status: (status, String::new()),
                    ..Delivery::default()
                };
            }
            None => {
                host.version.metrics.callouts_failed.add(1);
                host.delivery.has_failed = true;
                host.delivery.status = (BROKEN, "reset".to_owned());
            }
        }
        let name = "proxy_on_http_call_response";
        let _ = self.invoke(&mut inner, name, |Inner { store, guest }| {
            run(store, name, ROOT, &guest.http_call_response, params, ())
        });
        inner.host().delivery = Delivery::default();
    }

    /// False when nobody listens any more.
    pub(crate) fn on_grpc(&self, id: u32, message: Message) -> bool {
        let mut inner = self.inner.lock();
        let host = inner.host();
        if self.has_failed() || !host.calls.contains_key(&id) {
            return false;
        }
        let mut goes_on = host
            .calls
            .get(&id)
            .is_some_and(|call| call.kind == CallKind::GrpcStream);
        if matches!(message, Message::Close { .. }) {
            goes_on = false;
        }
        if !goes_on && let Some(mut call) = host.end_call(id) {
            call.task = None; // it is this task
        }
        let (name, value) = host.deliver(message);
        let params = (ROOT, id, value);
        let result = self.invoke(&mut inner, name, |Inner { store, guest }| {
            let function = match name {
                "proxy_on_grpc_receive_initial_metadata" => &guest.grpc_initial_metadata,
                "proxy_on_grpc_receive" => &guest.grpc_receive,
                "proxy_on_grpc_receive_trailing_metadata" => &guest.grpc_trailing_metadata,
                _ => &guest.grpc_close,
            };
            run(store, name, ROOT, function, params, ())
        });
        inner.host().delivery = Delivery::default();
        goes_on && result.is_ok()
    }
}

impl crate::instance::Host {
    /// Makes a message readable; names the callback and its last parameter.
    fn deliver(&mut self, message: Message) -> (&'static str, u32) {
        let delivery = &mut self.delivery;
        match message {
            Message::InitialMetadata(metadata) => {
                let count = length(metadata.len());
                delivery.grpc_initial = Some(metadata);
                ("proxy_on_grpc_receive_initial_metadata", count)
            }
            Message::Data(bytes) => {
                let size = length(bytes.len());
                delivery.grpc_message = Some(bytes);
                ("proxy_on_grpc_receive", size)
            }
            Message::TrailingMetadata(metadata) => {
                let count = length(metadata.len());
                delivery.grpc_trailing = Some(metadata);
                ("proxy_on_grpc_receive_trailing_metadata", count)
            }
            Message::Close { status, message } => {
                if status != 0 {
                    self.version.metrics.callouts_failed.add(1);
                }
                delivery.status = (status, message);
                ("proxy_on_grpc_close", status)
            }
        }
    }
}
