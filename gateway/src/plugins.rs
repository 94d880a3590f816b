//! The plugins of this gateway: loaded once, served to all workers, replaced while requests are under way.
//!
//! Owns: which plugins run, by name, and the way out of their calls. A configuration's plugins are all read, verified and
//! tried before the first of them serves: with any fault the last good ones go on. Must not: know a request.
//! Next: `pipeline/filter.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use ringwall_plugin_host::config::{PluginConfig, Prepared, public_keys};
use ringwall_plugin_host::{
    BoxError, CalloutBody, CalloutFuture, Callouts, Error, Plugin, Runtime, RuntimeOptions,
};

use crate::config::Config;
use crate::pipeline::body::UpstreamBody;
use crate::upstream::Lease;
use crate::worker::Worker;

/// Plugins that serve, by name.
#[derive(Clone, Default)]
pub(crate) struct Loaded(BTreeMap<String, Arc<Plugin>>);

impl Loaded {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Plugin>> {
        self.0.get(name).cloned()
    }
}

/// The engine and what runs in it. Without plugins there is no engine.
pub(crate) struct Plugins {
    cache: Option<PathBuf>,
    runtime: OnceLock<Runtime>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// With the digests of their modules.
    configs: Vec<(PluginConfig, Vec<String>)>,
    loaded: Loaded,
}

/// The plugins of a configuration, ready to serve.
pub(crate) struct Changes {
    /// In their order; `None` is as before.
    plugins: Vec<(PluginConfig, Vec<String>, Option<Prepared>)>,
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugins").finish_non_exhaustive()
    }
}

impl Plugins {
    /// `state`: where compiled modules are kept over restarts.
    pub(crate) fn new(state: Option<PathBuf>) -> Self {
        Self {
            cache: state.map(|folder| folder.join("plugins")),
            runtime: OnceLock::new(),
            current: Mutex::default(),
        }
    }

    /// Reads, verifies and tries what has changed, including files behind unchanged lines. Nothing serves differently yet.
    pub(crate) fn prepare(&self, config: &Config) -> Result<Changes, Error> {
        let mut plugins = Vec::new();
        if !config.plugins.is_empty() {
            let runtime = self.runtime()?;
            let keys = public_keys(&config.plugin_keys)?;
            for plugin in &config.plugins {
                let prepared = plugin.prepare(&runtime, &keys)?;
                let digests = prepared.digests();
                let serves = self.serves(plugin, &digests);
                plugins.push((plugin.clone(), digests, (!serves).then_some(prepared)));
            }
        }
        Ok(Changes { plugins })
    }

    /// Serves them from now on. Requests under way keep the version that they began with.
    pub(crate) fn serve(&self, changes: Changes) -> Result<Loaded, Error> {
        let mut current = self.current.lock();
        let mut loaded = BTreeMap::new();
        let mut configs = Vec::new();
        for (config, digests, prepared) in changes.plugins {
            let before = current.loaded.get(&config.name);
            let plugin = match (prepared, before) {
                (Some(prepared), before) => prepared.serve(before.as_ref())?,
                (None, Some(before)) => before,
                (None, None) => continue,
            };
            loaded.insert(config.name.clone(), plugin);
            configs.push((config, digests));
        }
        *current = Current {
            configs,
            loaded: Loaded(loaded),
        };
        Ok(current.loaded.clone())
    }

    /// What plugins count, and what is counted about them.
    pub(crate) fn metrics(&self) -> String {
        self.runtime.get().map(Runtime::metrics).unwrap_or_default()
    }

    /// The plugins of one worker; to be called on its thread.
    pub(crate) fn worker(&self, worker: &Arc<Worker>) -> Option<ringwall_plugin_host::Worker> {
        let runtime = self.runtime.get()?;
        let way_out = WayOut(Arc::downgrade(worker));
        Some(ringwall_plugin_host::Worker::new(
            runtime,
            Arc::new(way_out),
        ))
    }

    /// Whether this very plugin, with these modules, is what serves.
    fn serves(&self, config: &PluginConfig, digests: &[String]) -> bool {
        let current = self.current.lock();
        let mut known = current.configs.iter();
        known.any(|(known, with)| known == config && with == digests)
    }

    fn runtime(&self) -> Result<Runtime, Error> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime.clone());
        }
        let runtime = Runtime::new(RuntimeOptions {
            cache: self.cache.clone(),
            ..RuntimeOptions::default()
        })?;
        Ok(self.runtime.get_or_init(|| runtime).clone())
    }
}

/// Plugins' calls leave through the worker's own pools, with the gateway's identity, to declared clusters alone.
struct WayOut(Weak<Worker>);

impl Callouts for WayOut {
    fn knows(&self, cluster: &str) -> bool {
        self.0.upgrade().is_some_and(|worker| {
            let snapshot = worker.shared.snapshot.load();
            snapshot.clusters.contains_key(cluster)
        })
    }

    fn send(&self, cluster: &str, request: Request<CalloutBody>) -> CalloutFuture {
        let (worker, cluster) = (self.0.upgrade(), cluster.to_owned());
        Box::pin(async move {
            let worker = worker.ok_or("the worker has ended")?;
            let known = worker
                .shared
                .snapshot
                .load()
                .clusters
                .get(&*cluster)
                .cloned();
            let known = known.ok_or("there is no such cluster")?;
            let pool = worker.pools.of(&known)?;
            let lease = pool.lease().await;
            let mut lease = lease.map_err(|error| format!("no connection: {error:?}"))?;
            let request = request.map(UpstreamBody::Call);
            let response = lease.sender.send_request(request).await?;
            Ok(response.map(|body| Answer::new(body, lease).boxed_unsync()))
        })
    }
}

/// The body of an answer, whose connection goes back to its pool at the end.
struct Answer {
    body: Incoming,
    lease: Option<Lease>,
}

impl Answer {
    fn new(body: Incoming, lease: Lease) -> Self {
        let mut answer = Self {
            body,
            lease: Some(lease),
        };
        answer.give_back_at_end();
        answer
    }

    fn give_back_at_end(&mut self) {
        if let Some(lease) = self.lease.take_if(|_| self.body.is_end_stream()) {
            lease.give_back();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            if let Some(lease) = self.lease.take() {
                lease.give_back();
            }
        } else {
            self.give_back_at_end();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
