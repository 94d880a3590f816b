//! Serving an [`App`] until the end: listeners, background work, drain.
//!
//! Owns: the order of the end. Stop accepting → finish open requests and data paths within the
//! drain time → drop background work → close the admin listener.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Router, extract::DefaultBodyLimit, middleware as axum_middleware};
use futures_util::future::BoxFuture;
use http::StatusCode;
use ringwall_http_io::Problem;
use ringwall_proto::problems;
use ringwall_tls::{PeerPolicy, mesh_server_config};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin,
    app::App,
    error::StartError,
    listen::bind,
    loopback::Door,
    middleware,
    server::{Entrance, Server, ServerLimits},
    shell::Shell,
};

/// Connections of the admin listener: a few probes and a scraper.
const MAX_ADMIN_CONNECTIONS: usize = 64;
/// After which the start is over, and then the start of what runs in the background.
const STARTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Serves `app` until [`Shell::shutdown`], then drains. An error is a failed bind or a defect of the
/// component: background work that panicked, or a data path that ended by itself.
pub async fn serve(shell: Shell, mut app: App) -> Result<(), StartError> {
    let admin = match app.admin_socket.take() {
        Some(socket) => {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)?
        }
        None => bind(shell.config.admin).await?,
    };
    let mesh = match &app.router {
        Some(_) => Some(bind(shell.config.listen).await?),
        None => None,
    };
    Box::pin(serve_on(shell, app, mesh, admin)).await
}

/// [`serve`] on sockets that are already bound.
pub(crate) async fn serve_on(
    shell: Shell,
    app: App,
    mesh: Option<TcpListener>,
    admin: TcpListener,
) -> Result<(), StartError> {
    for (name, check) in app.checks {
        shell.health.add_check(name, check);
    }
    let kill = CancellationToken::new();
    let open = TaskTracker::new();
    let mut listeners = JoinSet::new();

    let admin_address = admin.local_addr()?;
    let admin_stop = CancellationToken::new();
    let admin_limits = ServerLimits {
        max_connections: MAX_ADMIN_CONNECTIONS,
        ..ServerLimits::default()
    };
    let admin_server = Server {
        listener: admin,
        entrance: entrance(&shell, &shell.config.admin_callers, false)?,
        router: admin::router(shell.clone(), app.admin),
        limits: admin_limits,
        metrics: shell.metrics.clone(),
        stop: admin_stop.clone(),
        kill: admin_stop.clone(),
        open: TaskTracker::new(),
    };
    listeners.spawn(admin_server.run());

    let mut mesh_address = None;
    if let (Some(listener), Some(router)) = (mesh, app.router) {
        mesh_address = Some(listener.local_addr()?);
        let server = Server {
            listener,
            entrance: entrance(&shell, &shell.config.callers, app.any_workload)?,
            router: observed(&shell, router, app.users, app.max_body),
            limits: ServerLimits {
                max_body: app.max_body,
                ..ServerLimits::default()
            },
            metrics: shell.metrics.clone(),
            stop: shell.shutdown.clone(),
            kill: kill.clone(),
            open: open.clone(),
        };
        listeners.spawn(server.run());
    }

    let mesh_text = mesh_address
        .map(|address| address.to_string())
        .unwrap_or_default();
    tracing::info!(listen = mesh_text, admin = %admin_address, identity = %shell.spiffe_id(), "ready");

    let mut work = Work::start(app.background, app.data_paths);
    tokio::spawn(shed_what_the_start_took());
    let outcome = tokio::select! {
        // First: a data path that ends because of it has not ended by itself.
        biased;
        () = shell.shutdown() => Ok(()),
        failure = work.failure() => Err(failure),
    };
    shell.begin_shutdown();
    drain(&shell, &open, &mut work, &kill).await;
    drop(work);
    admin_stop.cancel();
    while listeners.join_next().await.is_some() {}
    outcome
}

/// Gives back the code that only a start runs through: the listeners', and then that of what begins in the background.
async fn shed_what_the_start_took() {
    for pause in STARTS {
        tokio::time::sleep(pause).await;
        match ringwall_resident::shed_program() {
            Ok(bytes) => tracing::debug!(bytes, "the program's pages are given back"),
            Err(error) => tracing::debug!(%error, "the program's pages cannot be given back"),
        }
    }
}

async fn drain(shell: &Shell, open: &TaskTracker, work: &mut Work, kill: &CancellationToken) {
    open.close();
    let limit = shell.config.drain;
    tracing::info!(connections = open.len(), ?limit, "draining");
    let all = async { tokio::join!(open.wait(), work.data_paths()) };
    if tokio::time::timeout(limit, all).await.is_err() {
        tracing::warn!(
            connections = open.len(),
            "the drain time is over; what is open is cut"
        );
        kill.cancel();
    }
}

/// The component's router inside what the shell adds around every request.
fn observed(
    shell: &Shell,
    router: Router,
    users: Option<Arc<crate::UserContextVerifier>>,
    max_body: usize,
) -> Router {
    let mut router = router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(max_body))
        .layer(axum_middleware::from_fn_with_state(
            shell.metrics.clone(),
            middleware::observe,
        ));
    if let Some(users) = users {
        router = router.layer(Extension(users));
    }
    router
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, problems::NOT_FOUND, "Not found")
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        problems::METHOD_NOT_ALLOWED,
        "Method not allowed",
    )
}

/// How those in `callers` (or `any_workload` of the trust domain) come in: by mTLS, or by way of the
/// service proxy.
fn entrance(shell: &Shell, callers: &[String], any_workload: bool) -> Result<Entrance, StartError> {
    if let Some(token) = &shell.loopback_token {
        let door = Door::new(&shell.config, shell.spiffe_id(), token.clone(), callers)?;
        return Ok(Entrance::Loopback(Arc::new(door)));
    }
    let ids: Result<Vec<_>, _> = callers
        .iter()
        .map(|name| shell.config.workload(name))
        .collect();
    let policy = if any_workload {
        PeerPolicy::AnyInTrustDomain(shell.config.trust_domain.clone())
    } else {
        PeerPolicy::AnyOf(ids?)
    };
    let identity = Arc::clone(shell.identity()?);
    let config = mesh_server_config(&identity, policy)?;
    Ok(Entrance::Mesh { config, identity })
}

/// Work beside the routes. Dropping it aborts all of it.
struct Work {
    background: JoinSet<&'static str>,
    data_paths: JoinSet<()>,
}

impl Work {
    fn start(
        background: Vec<(&'static str, BoxFuture<'static, ()>)>,
        data_paths: Vec<BoxFuture<'static, ()>>,
    ) -> Self {
        let mut work = Self {
            background: JoinSet::new(),
            data_paths: JoinSet::new(),
        };
        for (name, future) in background {
            work.background.spawn(async move {
                future.await;
                name
            });
        }
        for future in data_paths {
            work.data_paths.spawn(future);
        }
        work
    }

    /// Resolves when something ends that must not.
    async fn failure(&mut self) -> StartError {
        loop {
            tokio::select! {
                Some(ended) = self.background.join_next() => match ended {
                    Ok(task) => tracing::debug!(task, "background work has ended"),
                    Err(error) => {
                        return StartError::software(format!("background work failed: {error}"));
                    }
                },
                Some(ended) = self.data_paths.join_next() => {
                    let why = ended.err().map_or_else(|| "it returned".into(), |e| e.to_string());
                    return StartError::software(format!("the data path ended by itself: {why}"));
                }
                else => std::future::pending::<()>().await,
            }
        }
    }

    async fn data_paths(&mut self) {
        while self.data_paths.join_next().await.is_some() {}
    }
}

#[cfg(test)]
#[path = "serve/tests.rs"]
mod tests;
