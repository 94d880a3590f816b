//! From a version to a configured instance.
//!
//! Owns: the order of the first callbacks (0.2.1, sections Integration and Configuration): the module's own start, then
//! the plugin's context, `proxy_on_vm_start`, `proxy_on_configure`. A guest that refuses or fails here takes no traffic.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use wasmtime::Store;

use crate::error::Error;
use crate::instance::call::{begin, run};
use crate::instance::guest::Guest;
use crate::instance::host::ROOT;
use crate::instance::{Configuring, Context, ContextKind, Host, Inner, Instance, deadline};
use crate::plugin::Version;
use crate::runtime::text;
use crate::worker::WorkerInner;

impl Instance {
    /// Makes and configures one.
    pub(crate) fn create(
        version: &Arc<Version>,
        worker: &Arc<WorkerInner>,
    ) -> Result<Arc<Self>, Error> {
        let refuse = |problem: String| Error::Instantiate {
            plugin: version.spec.name.to_string(),
            problem,
        };
        let begun = deadline::processor_time();
        let module = &version.module.inner;
        let mut store = Store::new(&module.runtime.engine, Host::new(version, worker));
        store.limiter(|host| &mut host.meter);
        deadline::watch(&mut store);
        store.data_mut().configuring = Configuring::Vm;
        begin(&mut store, ROOT);
        let instance = module.pre.instantiate(&mut store);
        let instance = instance.map_err(|error| refuse(text(&error)))?;
        let memory = instance.get_memory(&mut store, "memory");
        let allocate = ["proxy_on_memory_allocate", "malloc"]
            .into_iter()
            .find_map(|name| instance.get_typed_func(&mut store, name).ok());
        let guest = Guest::new(&mut store, &instance);
        let host = store.data_mut();
        host.memory = memory;
        host.allocate = allocate;
        version.metrics.instances.fetch_add(1, Ordering::Relaxed);
        let made = Arc::new(Self {
            version: Arc::clone(version),
            worker: Arc::downgrade(worker),
            failed: OnceLock::new(),
            sees_body: [
                guest.request_body.is_some() || guest.request_trailers.is_some(),
                guest.response_body.is_some() || guest.response_trailers.is_some(),
            ],
            sees_stream: guest.downstream_data.is_some() || guest.upstream_data.is_some(),
            looks_back: guest.log.is_some(),
            start_time: OnceLock::new(),
            inner: Mutex::new(Inner { store, guest }),
        });
        let taken = || deadline::processor_time().saturating_sub(begun);
        let instantiated = taken();
        made.configure()?;
        let took = taken();
        made.start_time.get_or_init(|| took);
        version.metrics.started(instantiated, took);
        Ok(made)
    }

    fn configure(self: &Arc<Self>) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.host().instance = Arc::downgrade(self);
        self.first("_initialize", inner, start)?;
        inner
            .host()
            .add_context(Context::new(ContextKind::Root, None));
        let spec = &self.version.spec;
        let started = self.first("proxy_on_vm_start", inner, |Inner { store, guest }| {
            run(
                store,
                "proxy_on_context_create",
                ROOT,
                &guest.context_create,
                (ROOT, 0),
                (),
            )?;
            let size = length(spec.vm_configuration.len());
            run(
                store,
                "proxy_on_vm_start",
                ROOT,
                &guest.vm_start,
                (ROOT, size),
                1,
            )
        })?;
        self.accepted(started, "VM configuration")?;
        inner.host().configuring = Configuring::Plugin;
        let configured = self.first("proxy_on_configure", inner, |Inner { store, guest }| {
            let size = length(spec.configuration.len());
            run(
                store,
                "proxy_on_configure",
                ROOT,
                &guest.configure,
                (ROOT, size),
                1,
            )
        })?;
        inner.host().configuring = Configuring::No;
        self.accepted(configured, "configuration")
    }

    fn accepted(&self, answer: u32, what: &'static str) -> Result<(), Error> {
        if answer != 0 {
            return Ok(());
        }
        Err(Error::Configuration {
            plugin: self.version.spec.name.to_string(),
            what,
        })
    }

    fn first<R>(
        &self,
        callback: &'static str,
        inner: &mut Inner,
        act: impl FnOnce(&mut Inner) -> wasmtime::Result<R>,
    ) -> Result<R, Error> {
        let mut problem = String::new();
        let act = |inner: &mut Inner| act(inner).inspect_err(|error| problem = text(error));
        self.invoke(inner, callback, act)
            .map_err(|failure| Error::Callback {
                plugin: self.version.spec.name.to_string(),
                callback,
                kind: failure.kind,
                id: failure.id.to_string(),
                problem,
            })
    }
}

/// `_initialize` and then `main`, or `_start` where there is no `_initialize`.
fn start(Inner { store, guest }: &mut Inner) -> wasmtime::Result<()> {
    if guest.initialize.is_some() {
        run(store, "_initialize", ROOT, &guest.initialize, (), ())?;
        run(store, "main", ROOT, &guest.main, (0, 0), 0)?;
        return Ok(());
    }
    run(store, "_start", ROOT, &guest.start, (), ())
}

/// A length as the ABI counts it.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
