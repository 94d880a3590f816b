//! A plugin before an upstream, on loopback: what `ringwall plugin run` serves.
//!
//! Owns: one thread with a listener, plain HTTP to the upstream and to the clusters, and an upstream of its own that says what
//! it has got. The plugin may be replaced while requests are under way: those end with the version that they began with.
//! Must not: be reachable from elsewhere, or be taken for a proxy: it has no TLS, no policy and no limits but the plugin's.

mod forward;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ringwall_plugin_host::{
    Callback, Chain, Error, LogLevel, Module, Observer, Plugin, PluginSpec, Runtime, Worker,
};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::LocalSet;

use self::forward::{Clusters, Exchange, OutBody};

/// Connections of clients at once; more wait.
const MAX_CONNECTIONS: usize = 1024;
/// After a failed accept: what is missing then, such as descriptors, does not come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where requests go that the plugin lets pass.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// Answers with what it has got, as JSON.
    Echo,
    Http(Authority),
}

/// What whoever started the server may want to see.
#[derive(Debug)]
pub enum Event<'a> {
    Answered {
        method: &'a Method,
        path: &'a str,
        /// 0: the stream was reset.
        status: u16,
        /// The plugin has answered, not the upstream.
        by_plugin: bool,
        took: Duration,
    },
    Logged {
        level: LogLevel,
        line: &'a str,
    },
    /// Something that the plugin may not do, as it is not declared or beyond a limit.
    Refused {
        what: &'a str,
    },
}

/// Is called from the thread that serves.
pub type Tell = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// What is served, and where.
pub struct Options {
    pub listener: TcpListener,
    pub upstream: Upstream,
    /// What the plugin may call, if its capabilities name it.
    pub clusters: BTreeMap<String, Authority>,
    pub tell: Tell,
}

/// Why nothing is served.
#[derive(Debug)]
pub enum StartError {
    Plugin(Error),
    Io(std::io::Error),
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::Plugin(error)
    }
}

impl From<std::io::Error> for StartError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// A server that runs until this is dropped.
pub struct Server {
    plugin: Arc<Plugin>,
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// Configures the plugin, then serves on a thread of its own.
    ///
    /// # Errors
    /// Where the plugin does not take its configuration, or there is no thread.
    pub fn start(
        runtime: &Runtime,
        module: &Module,
        spec: PluginSpec,
        options: Options,
    ) -> Result<Self, StartError> {
        let Options {
            listener,
            upstream,
            clusters,
            tell,
        } = options;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let in_tokio = tokio.enter();
        let observer = Arc::new(Telling(Arc::clone(&tell)));
        let callouts = Arc::new(Clusters::new(clusters));
        let worker = Worker::observed(runtime, callouts, Some(observer));
        let plugin = Plugin::new(module, spec)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let exchange = Exchange::new(worker, Chain::new([Arc::clone(&plugin)]), upstream, address);
        drop(in_tokio);
        let (stop, stopped) = oneshot::channel();
        std::thread::Builder::new()
            .name("plugin".to_owned())
            .spawn(move || {
                let local = LocalSet::new();
                local.block_on(&tokio, async {
                    tokio::select! {
                        _ = stopped => {}
                        () = accept(&listener, Arc::new(exchange), tell) => {}
                    }
                });
            })?;
        Ok(Self {
            plugin,
            address,
            _stop: stop,
        })
    }

    /// To be replaced, from another thread than the one that serves.
    #[must_use]
    pub const fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The authority of `http://HOST[:PORT]`.
///
/// # Errors
/// What is wrong with it.
pub fn origin(text: &str) -> Result<Authority, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    let is_bare = uri
        .path_and_query()
        .is_none_or(|path| path.as_str() == PathAndQuery::from_static("/").as_str());
    match (uri.scheme(), uri.authority()) {
        (Some(scheme), Some(authority))
            if *scheme == Scheme::HTTP && is_bare && !authority.as_str().contains('@') =>
        {
            Ok(authority.clone())
        }
        _ => Err(format!("{text:?} is not of the form http://HOST:PORT")),
    }
}

async fn accept(listener: &tokio::net::TcpListener, exchange: Arc<Exchange>, tell: Tell) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, source)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Small answers at once; where that cannot be set they come a little later.
        let _ = stream.set_nodelay(true);
        let (exchange, tell) = (Arc::clone(&exchange), Arc::clone(&tell));
        let service = service_fn(move |request| {
            let (exchange, tell) = (Arc::clone(&exchange), Arc::clone(&tell));
            async move { answer(&exchange, &tell, source, request).await }
        });
        tokio::task::spawn_local(async move {
            let mut server = auto::Builder::new(OnThisThread);
            server.http1().timer(TokioTimer::new());
            // A client that goes, or an answer that fails, ends the connection and nothing else.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

async fn answer(
    exchange: &Exchange,
    tell: &Tell,
    source: SocketAddr,
    request: Request<Incoming>,
) -> Result<http::Response<OutBody>, std::io::Error> {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request
        .uri()
        .path_and_query()
        .map_or_else(|| "/".to_owned(), ToString::to_string);
    let (response, by_plugin) = exchange.run(source, request).await;
    tell(&Event::Answered {
        method: &method,
        path: &path,
        status: response
            .as_ref()
            .map_or(0, |response| response.status().as_u16()),
        by_plugin,
        took: started.elapsed(),
    });
    response.ok_or_else(|| std::io::Error::other("the plugin has reset the stream"))
}

/// Streams of HTTP/2 stay on the thread of their connection: there is only one.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// What a plugin says goes to whoever started the server.
struct Telling(Tell);

impl Observer for Telling {
    fn hostcall(&self, _: &str, _: &'static str, _: Option<u32>) {}

    fn refused(&self, _: &str, what: &str) {
        (self.0)(&Event::Refused { what });
    }

    fn callback(&self, _: &str, _: &Callback) {}

    fn log(&self, _: &str, level: LogLevel, line: &str) {
        (self.0)(&Event::Logged { level, line });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_and_an_authority() {
        assert_eq!(
            origin("http://127.0.0.1:81").unwrap().as_str(),
            "127.0.0.1:81"
        );
        assert_eq!(origin("http://a.example/").unwrap().as_str(), "a.example");
        for wrong in [
            "",
            "a.example",
            "https://a.example",
            "http://a.example/b",
            "http://u@a.example",
            "http://a.example/?b",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
