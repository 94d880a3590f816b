//! One callback: its limits before, its time after, and what it has asked for.
//!
//! Owns: the only place where a guest's function is called, and the carrying out of actions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;
use wasmtime::{Store, Trap, TypedFunc, WasmParams, WasmResults};

use crate::callouts;
use crate::instance::deadline::processor_time;
use crate::instance::host::ROOT;
use crate::instance::{Action, Configuring, Failure, FailureKind, Host, Inner, Instance};
use crate::worker::{Callback, WorkerInner};

/// Why the host ends a guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestFault {
    #[error("more calls into the host than one callback may make")]
    Flood,
    #[error("the guest has ended itself with code {0}")]
    Exit(u32),
}

pub(crate) fn classify(error: &wasmtime::Error, host: &Host) -> FailureKind {
    if let Some(fault) = error.downcast_ref::<GuestFault>() {
        return match fault {
            GuestFault::Flood => FailureKind::HostcallFlood,
            GuestFault::Exit(_) => FailureKind::Exit,
        };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => FailureKind::StackOverflow,
        Some(Trap::Interrupt) => FailureKind::Timeout,
        _ if host.deadline.is_over => FailureKind::Timeout,
        _ => FailureKind::Trap,
    }
}

/// Calls `function` for `context`. `absent` is the answer of a guest that does not export it.
pub(crate) fn run<P: WasmParams, R: WasmResults>(
    store: &mut Store<Host>,
    name: &'static str,
    context: u32,
    function: &Option<TypedFunc<P, R>>,
    params: P,
    absent: R,
) -> wasmtime::Result<R> {
    let Some(function) = function else {
        return Ok(absent);
    };
    begin(store, context);
    let used = store.data().observer.is_some().then(processor_time);
    let started = store.data_mut().returned.take();
    let started = started.unwrap_or_else(Instant::now);
    let result = function.call(&mut *store, params);
    let ended = Instant::now();
    let took = ended.saturating_duration_since(started);
    let host = store.data_mut();
    host.returned = Some(ended);
    host.effective = None;
    if result.is_err() {
        host.deadline.fail(took);
    }
    host.version.metrics.callback(took);
    if let Some(observer) = &host.observer {
        let callback = Callback {
            name,
            took,
            used: processor_time().saturating_sub(used.unwrap_or_default()),
            hostcalls: host.hostcalls,
            memory: host.meter.used(),
        };
        observer.callback(&host.version.spec.name, &callback);
    }
    result
}

/// The limits of the next callback, or of a start function.
pub(crate) fn begin(store: &mut Store<Host>, context: u32) {
    let host = store.data_mut();
    host.current = context;
    host.effective = None;
    host.hostcalls = 0;
    let limits = &host.version.spec.limits;
    let budget = match host.configuring {
        Configuring::No => limits.callback_time,
        Configuring::Vm | Configuring::Plugin => limits.start_time,
    };
    host.deadline.begin(budget);
    store.set_epoch_deadline(1);
}

impl Instance {
    /// Runs callbacks, then does what they have asked for.
    pub(super) fn invoke<R>(
        &self,
        inner: &mut Inner,
        name: &'static str,
        act: impl FnOnce(&mut Inner) -> wasmtime::Result<R>,
    ) -> Result<R, Failure> {
        inner.host().returned = None;
        let result = act(inner).and_then(|result| {
            self.settle(inner)?;
            Ok(result)
        });
        result.map_err(|error| self.fail(inner, name, &error))
    }

    fn settle(&self, inner: &mut Inner) -> wasmtime::Result<()> {
        while !inner.host().actions.is_empty() {
            let worker = self.worker.upgrade();
            for action in std::mem::take(&mut inner.host().actions) {
                match action {
                    Action::Finish(context) => inner.finalize(context)?,
                    other => {
                        if let Some(worker) = &worker {
                            start(inner.host(), worker, other);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Starts what goes on outside the guest, on the worker's own runtime.
fn start(host: &mut Host, worker: &Arc<WorkerInner>, action: Action) {
    let Some(handle) = &worker.handle else {
        return; // a trial instance, which goes no further than its configuration
    };
    let instance = host.instance.clone();
    let limits = &host.version.spec.limits;
    let (limit, longest) = (limits.call_body, limits.grpc_stream_time);
    let callouts = Arc::clone(&worker.callouts);
    match action {
        Action::HttpCall {
            id,
            cluster,
            request,
            trailers,
            timeout,
        } => {
            let call = callouts::http(callouts, cluster, request, trailers, limit);
            let task = handle.spawn(async move {
                let response = tokio::time::timeout(timeout, call).await;
                if let Some(instance) = instance.upgrade() {
                    instance.on_http_call_response(id, response.ok().flatten());
                }
            });
            note(host, id, &task);
        }
        Action::GrpcCall {
            id,
            cluster,
            request,
            timeout,
        } => {
            let call = callouts::grpc_call(callouts, cluster, request, limit);
            let task = handle.spawn(async move {
                let answer = tokio::time::timeout(timeout, call).await;
                if let Some(instance) = instance.upgrade() {
                    instance.on_grpc(id, callouts::in_time(answer));
                }
            });
            note(host, id, &task);
        }
        Action::GrpcStream {
            id,
            cluster,
            request,
            messages,
        } => {
            let deliver = move |message| match instance.upgrade() {
                Some(instance) => instance.on_grpc(id, message),
                None => false,
            };
            let task = handle.spawn(callouts::grpc_stream(
                callouts, cluster, request, messages, limit, longest, deliver,
            ));
            note(host, id, &task);
        }
        Action::Timer => start_timer(host, handle),
        Action::QueueReady { instance, queue } => instance.notify(queue),
        Action::Finish(_) => {}
    }
}

/// One timer at most; without a period, none.
fn start_timer(host: &mut Host, handle: &Handle) {
    if let Some(timer) = host.timer.take() {
        timer.abort();
    }
    let Some(period) = host.tick else { return };
    let instance = host.instance.clone();
    let task = handle.spawn(async move {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await; // the first is at once
        loop {
            ticks.tick().await;
            match instance.upgrade() {
                Some(instance) if instance.on_tick() => {}
                _ => return,
            }
        }
    });
    host.timer = Some(task.abort_handle());
}

fn note(host: &mut Host, call: u32, task: &tokio::task::JoinHandle<()>) {
    match host.calls.get_mut(&call) {
        Some(call) => call.task = Some(task.abort_handle()),
        None => task.abort(), // cancelled in the callback that began it
    }
}

impl Inner {
    /// The end of a context's life, after its plugin has agreed.
    pub(super) fn finalize(&mut self, id: u32) -> wasmtime::Result<()> {
        let Self { store, guest } = self;
        let host = store.data_mut();
        let Some(context) = host.contexts.get_mut(&id) else {
            return Ok(());
        };
        context.is_logging = true;
        if std::mem::take(&mut context.is_finishing) {
            host.unfinished = host.unfinished.saturating_sub(1);
        }
        run(store, "proxy_on_log", id, &guest.log, id, ())?;
        run(store, "proxy_on_delete", id, &guest.delete, id, ())?;
        store.data_mut().contexts.remove(&id);
        Ok(())
    }

    /// The plugin itself ends. It is not asked whether it agrees to that.
    pub(super) fn shut_down(&mut self) {
        let Self { store, guest } = self;
        store.data_mut().returned = None;
        let ended = run(store, "proxy_on_done", ROOT, &guest.done, ROOT, 1)
            .and_then(|_| run(store, "proxy_on_delete", ROOT, &guest.delete, ROOT, ()));
        if let Err(error) = ended {
            let plugin = &store.data().version.spec.name;
            tracing::warn!(%plugin, error = format!("{error:#}"), "a plugin has failed at its end");
        }
    }
}

/// A period as a guest asks for it, within the plugin's limit. Zero is none.
pub(crate) fn period(milliseconds: u32, least: Duration) -> Option<Duration> {
    let asked = Duration::from_millis(u64::from(milliseconds));
    (milliseconds > 0).then(|| asked.max(least))
}
