//! What a component hands back to the shell: routes, checks and the work beside them.

use std::sync::Arc;

use axum::Router;
use futures_util::future::BoxFuture;

use crate::{health::Check, user_context::UserContextVerifier};

/// Largest request body unless [`App::max_body`] says otherwise, in bytes.
pub(crate) const DEFAULT_MAX_BODY: usize = 1024 * 1024;

/// A started component.
pub struct App {
    pub(crate) router: Option<Router>,
    pub(crate) admin: Option<Router>,
    pub(crate) users: Option<Arc<UserContextVerifier>>,
    pub(crate) checks: Vec<(&'static str, Check)>,
    pub(crate) background: Vec<(&'static str, BoxFuture<'static, ()>)>,
    pub(crate) data_paths: Vec<BoxFuture<'static, ()>>,
    pub(crate) max_body: usize,
    pub(crate) admin_socket: Option<std::net::TcpListener>,
    pub(crate) any_workload: bool,
}

impl App {
    /// Serves `router` on the mesh listener.
    pub fn new(router: Router) -> Self {
        Self {
            router: Some(router),
            ..Self::bare()
        }
    }

    /// Serves no mesh listener: `data_path` is the component's whole work. See [`Self::data_path`].
    pub fn custom(data_path: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::bare().data_path(data_path)
    }

    fn bare() -> Self {
        Self {
            router: None,
            admin: None,
            users: None,
            checks: Vec::new(),
            background: Vec::new(),
            data_paths: Vec::new(),
            max_body: DEFAULT_MAX_BODY,
            admin_socket: None,
            any_workload: false,
        }
    }

    /// Adds routes to the admin listener, for the operator alone: every other admin caller gets `403`.
    pub fn admin(mut self, router: Router) -> Self {
        self.admin = Some(router);
        self
    }

    /// Lets handlers use the [`crate::User`] extractor.
    pub fn users(mut self, verifier: Arc<UserContextVerifier>) -> Self {
        self.users = Some(verifier);
        self
    }

    /// Adds a check to `/readyz`. It runs at each probe, within 2 s; the error text is shown to operators.
    pub fn ready_check<F, Fut>(mut self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.checks
            .push((name, Arc::new(move || Box::pin(check()))));
        self
    }

    /// Runs work beside the routes. It may end by itself; it is dropped once the listeners have
    /// drained; when it panics, the process drains and ends with exit code 70.
    pub fn background(
        mut self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.background.push((name, Box::pin(work)));
        self
    }

    /// Runs a data path of the component's own, such as the gateway's. It must end by itself after
    /// [`crate::Shell::shutdown`], within the drain time; ending earlier ends the process.
    pub fn data_path(mut self, work: impl Future<Output = ()> + Send + 'static) -> Self {
        self.data_paths.push(Box::pin(work));
        self
    }

    /// Lets every workload of the trust domain connect to the mesh listener, whatever
    /// `service.callers` says: for a component that knows by itself, at each request, whom it serves.
    pub fn any_workload(mut self) -> Self {
        self.any_workload = true;
        self
    }

    /// Serves the admin listener on a socket that is bound already, such as one that a supervisor has
    /// handed over, instead of `service.admin`.
    pub fn admin_socket(mut self, socket: std::net::TcpListener) -> Self {
        self.admin_socket = Some(socket);
        self
    }

    /// Largest request body in bytes; more is `413`.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }
}
