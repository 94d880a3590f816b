//! Composition: what this component is made of, and which request goes where.
//!
//! Read next: [`router`] from top to bottom; the layers around it are `peers` (who may call at all)
//! and `browser` (what every answer says, and what a foreign page cannot do).

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    extract::State,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use ringwall_http_io::{Client, ClientLimits};
use ringwall_proto::WireToken;
use ringwall_service::{App, Shell, StartError, Upstream};

use crate::{
    assets::Assets,
    auth::{self, Sealer, SeenLogoutTokens},
    authority::Authority,
    browser,
    config::{Config, SessionConfig},
    error::Error,
    forward, peers,
    sessions::{Session, Sessions},
    tokens::AccessTokens,
    traces::{self, SpanExport, Traces},
};

/// Name of the authorization server among the declared upstreams.
const AUTHZ_SERVER: &str = "authz-server";
/// How often expired things are swept out.
const SWEEP: Duration = Duration::from_secs(30);

/// The parts that handlers share.
pub(crate) struct Ringwall {
    pub(crate) authority: Arc<Authority>,
    pub(crate) sessions: Sessions,
    pub(crate) tokens: AccessTokens,
    pub(crate) sealer: Sealer,
    pub(crate) seen_logout_tokens: SeenLogoutTokens,
    pub(crate) api: Upstream,
    pub(crate) traces: Traces,
    /// Who else gets the spans.
    pub(crate) span_export: Option<SpanExport>,
    pub(crate) assets: Assets,
    pub(crate) limits: SessionConfig,
    pub(crate) origin: Arc<str>,
}

impl Ringwall {
    pub(crate) fn new(config: &Config, authority: Upstream, api: Upstream, assets: Assets) -> Self {
        let authority = Arc::new(Authority::new(authority, config));
        let audience = config.api.url.origin().ascii_serialization();
        Self {
            tokens: AccessTokens::new(
                Arc::clone(&authority),
                config.client_id.clone(),
                audience,
                config.introspection_cache,
            ),
            authority,
            sessions: Sessions::new(config.session.clone()),
            sealer: Sealer::new(),
            seen_logout_tokens: SeenLogoutTokens::default(),
            api,
            traces: Traces::new(config.traces.clone()),
            span_export: None,
            assets,
            limits: config.session.clone(),
            origin: config.origin().into(),
        }
    }

    /// A token that is good at this moment. Where there can be none any more, the session ends.
    pub(crate) async fn access_token(&self, session: &Arc<Session>) -> Result<WireToken, Error> {
        let token = self.tokens.current(session).await;
        if let Err(Error::SessionOver(why)) = &token {
            tracing::info!(why, sub = %session.user.sub, "session ended");
            self.sessions
                .end_where(|other| std::ptr::eq(other, Arc::as_ptr(session)));
        }
        token
    }

    /// Ends the session that a browser held before it signed in anew, and its refresh token.
    pub(crate) fn end_session(&self, id: &str) {
        let Some(session) = self.sessions.end(id) else {
            return;
        };
        let authority = Arc::clone(&self.authority);
        tokio::spawn(async move {
            let refresh = session.tokens.lock().await.refresh.clone();
            if let Some(token) = refresh
                && let Err(error) = authority.revoke(&token).await
            {
                tracing::warn!(%error, "the replaced session's refresh token is not revoked");
            }
        });
    }

    fn sweep(&self) {
        self.sessions.sweep(SystemTime::now());
        self.seen_logout_tokens.sweep(SystemTime::now());
        self.tokens.sweep(Instant::now());
        self.traces.sweep(Instant::now());
    }
}

pub(crate) async fn start(shell: Shell, config: Config) -> Result<App, StartError> {
    let assets = Assets::load(&config.assets).map_err(StartError::config)?;
    let authority = shell.upstream(AUTHZ_SERVER)?;
    let mut app = Ringwall::new(&config, authority, api_client(&config)?, assets);
    let (export, sending) = traces::export(&shell, &config.traces)?.unzip();
    app.span_export = export;
    let app = Arc::new(app);
    let swept = Arc::clone(&app);
    let sweeper = async move {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            swept.sweep();
        }
    };
    let app = App::new(router(app))
        .max_body(traces::MAX_EXPORT)
        .background("sweeper", sweeper);
    Ok(match sending {
        Some(sending) => app.data_path(sending),
        None => app,
    })
}

/// The gateway's API host, verified by name against the given roots, at a fixed address.
fn api_client(config: &Config) -> Result<Upstream, StartError> {
    let tls = ringwall_tls::edge_client_config(&config.api.roots)?;
    let host = config.api.url.host_str().unwrap_or_default();
    let client = Client::edge(
        config.api.address.clone(),
        host,
        tls,
        ClientLimits::default(),
    )?;
    Ok(Upstream::over(client, "gateway"))
}

/// All routes. The order of layers matters: the peer is checked first, and even its refusal
/// carries the security headers.
pub(crate) fn router(app: Arc<Ringwall>) -> Router {
    let page_api = Router::new()
        .merge(auth::page_api())
        .merge(forward::router())
        .merge(traces::page_api())
        .layer(from_fn_with_state(
            Arc::clone(&app.origin),
            browser::same_origin_only,
        ));
    let pages = Router::new()
        .route("/", get(index))
        .route("/orders", get(index))
        .route("/orders/{id}", get(index))
        .route("/what-happened", get(index))
        .route("/what-happened/{trace_id}", get(index))
        .route("/assets/{name}", get(asset));
    Router::new()
        .merge(pages)
        .merge(auth::navigation())
        .merge(page_api)
        .merge(auth::mesh())
        .merge(traces::mesh())
        .fallback(missing)
        .layer(from_fn(peers::guard))
        .layer(from_fn(browser::protect))
        .with_state(app)
}

async fn index(State(app): State<Arc<Ringwall>>, headers: HeaderMap) -> Response {
    app.assets.index(&headers)
}

async fn asset(State(app): State<Arc<Ringwall>>, uri: Uri, headers: HeaderMap) -> Response {
    app.assets.get(uri.path(), &headers)
}

/// A person gets the page, which says that nothing is here; a program gets a problem.
async fn missing(
    State(app): State<Arc<Ringwall>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let wants_page = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    let is_page = !["/api/", "/auth/", "/assets/", "/v1/"]
        .iter()
        .any(|p| uri.path().starts_with(p));
    if method != Method::GET || !wants_page || !is_page {
        return Error::NotFound.into_response();
    }
    let mut response = app.assets.index(&HeaderMap::new());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
