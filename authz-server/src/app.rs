//! Composition root: configuration in, running server out; and the router.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use ringwall_identity::SpiffeId;
use ringwall_secret::{SealKey, SecretProvider, SecretsConfig};
use ringwall_service::{App, Profile, Shell, StartError, Transport, Upstream};
use serde::de::IgnoredAny;
use tokio::sync::Notify;

use crate::clients::{Client, ClientRegistry};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Error;
use crate::grants::GrantRegistry;
use crate::keys::{self, Keys};
use crate::logout::backchannel;
use crate::passwords::Passwords;
use crate::scopes::Scopes;
use crate::server::{Server, Settings};
use crate::store::Store;
use crate::throttle::Throttle;
use crate::{
    authorize, consent, demo, discovery, grants, introspect, login, logout, pages, par, revoke,
    userinfo,
};

/// Requests here are forms of a few hundred bytes; the largest part is an assertion.
const MAX_BODY_BYTES: usize = 64 * 1024;
const PURGE_EVERY: Duration = Duration::from_secs(5 * 60);

/// Starts the server inside the shell.
pub(crate) async fn start(shell: Shell, config: Config) -> Result<App, StartError> {
    let state = shell.state_dir()?;
    let send = backchannel_sender(&shell, &config)?;
    let server = build(&config, &state, Arc::clone(&shell.secrets), Clock::system())
        .await
        .map_err(start_error)?;
    if config.service.profile == Profile::Production {
        refuse_demo_state(&server).await?;
    }
    let ready = Arc::clone(&server);
    Ok(App::new(router(Arc::clone(&server)))
        .max_body(MAX_BODY_BYTES)
        .ready_check("database", move || {
            let server = Arc::clone(&ready);
            async move { server.store.ping().await.map_err(|error| error.to_string()) }
        })
        .background("signing-keys", keys::tend_forever(Arc::clone(&server)))
        .background(
            "logout-tokens",
            backchannel::deliver_forever(Arc::clone(&server), send),
        )
        .background("purge", purge_forever(server)))
}

fn start_error(error: Error) -> StartError {
    match error {
        Error::SealKeyMissing | Error::WeakSecret { .. } => StartError::config(error),
        other => other.into(),
    }
}

/// Makes the server from its configuration; also what the tests start.
pub(crate) async fn build(
    config: &Config,
    state: &Path,
    secrets: Arc<SecretProvider>,
    clock: Clock,
) -> Result<Arc<Server>, Error> {
    let now = clock.now();
    let store = Store::open(&state.join("authz.db"))?;
    let passwords = Passwords::new(&config.passwords)?;
    store.declare_groups(config.groups.clone()).await?;
    if let Some(demo) = &config.demo {
        demo::seed(demo, &store, &secrets, &passwords, now).await?;
    }
    let clients = registry(config, &store, &secrets).await?;
    let keys = Keys::open(state, seal_key(config)?, config.keys.clone(), now)?;
    Ok(Arc::new(Server {
        settings: settings(config, &clients)?,
        clock,
        store,
        clients,
        secrets,
        keys,
        grants: GrantRegistry::standard(),
        passwords,
        throttle: Throttle::new(config.login_limits.clone()),
        logout_wake: Notify::new(),
    }))
}

/// Every endpoint.
pub(crate) fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route(
            "/.well-known/openid-configuration",
            get(discovery::metadata),
        )
        .route(
            "/.well-known/oauth-authorization-server",
            get(discovery::metadata),
        )
        .route("/jwks", get(discovery::jwks))
        .route("/authorize", get(authorize::get).post(authorize::post))
        .route("/par", post(par::push))
        .route("/token", post(grants::token))
        .route("/introspect", post(introspect::introspect))
        .route("/revoke", post(revoke::revoke))
        .route(
            "/userinfo",
            get(userinfo::userinfo).post(userinfo::userinfo),
        )
        .route("/login", get(login::get).post(login::post))
        .route("/consent", post(consent::post))
        .route("/logout", get(logout::get).post(logout::post))
        .route("/assets/{name}", get(pages::asset))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(server)
}

fn settings(config: &Config, clients: &ClientRegistry) -> Result<Settings, Error> {
    let issuer = config.issuer.as_str().trim_end_matches('/').to_owned();
    let ingress = SpiffeId::workload(&config.service.trust_domain, &config.ingress)?;
    let scopes = clients.iter().fold(Scopes::default(), |all, client| {
        all.union(&client.declaration.scopes)
    });
    Ok(Settings {
        origin: config.issuer.origin().ascii_serialization(),
        issuer,
        ingress,
        lifetimes: config.lifetimes.clone(),
        scopes,
    })
}

async fn registry(
    config: &Config,
    store: &Store,
    secrets: &SecretProvider,
) -> Result<ClientRegistry, Error> {
    let mut registry = ClientRegistry::default();
    for declaration in &config.clients {
        let client = Client::configured(declaration.clone())?;
        // A missing secret is an error of today, not of the first request that needs it.
        client.check_secret(secrets)?;
        registry.add(client);
    }
    for stored in store.stored_clients().await? {
        let client = Client::stored(stored.declaration, stored.secret_sha256)?;
        if registry.find(client.id().as_str()).is_none() {
            registry.add(client);
        }
    }
    Ok(registry)
}

fn seal_key(config: &Config) -> Result<SealKey, Error> {
    let file = match (&config.keys.seal_key_file, &config.service.secrets) {
        (Some(file), _) => file,
        (None, SecretsConfig::Sealed { key_file, .. }) => key_file,
        (None, _) => return Err(Error::SealKeyMissing),
    };
    Ok(SealKey::from_file(file)?)
}

/// A database that has seen the demo profile keeps its users and clients; production does not
/// start on it.
async fn refuse_demo_state(server: &Server) -> Result<(), StartError> {
    let found = server.store.demo_identities().await?;
    if found == 0 {
        return Ok(());
    }
    Err(StartError::config(format!(
        "the database holds {found} identities of the demo profile\n  fix: give the production \
         profile a state directory of its own"
    )))
}

/// Logout tokens go through declared upstreams only; one that is missing shows at start.
fn backchannel_sender(shell: &Shell, config: &Config) -> Result<backchannel::Send, StartError> {
    let demo = config.demo.iter().flat_map(|demo| &demo.clients);
    let mut upstreams: HashMap<String, Upstream> = HashMap::new();
    for place in config
        .clients
        .iter()
        .chain(demo)
        .filter_map(|c| c.backchannel_logout.as_ref())
    {
        upstreams.insert(place.upstream.clone(), shell.upstream(&place.upstream)?);
    }
    let upstreams = Arc::new(upstreams);
    Ok(Arc::new(move |place, token| {
        let upstreams = Arc::clone(&upstreams);
        Box::pin(async move {
            let upstream = upstreams.get(&place.upstream).ok_or("no such upstream")?;
            upstream
                .post(&place.path)
                .form(&[("logout_token", token.as_str())])
                .receive::<IgnoredAny>()
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        })
    }))
}

async fn purge_forever(server: Arc<Server>) {
    let mut tick = tokio::time::interval(PURGE_EVERY);
    loop {
        tick.tick().await;
        match server.store.purge(server.now()).await {
            Ok(rows) => tracing::debug!(rows, "expired rows purged"),
            Err(error) => tracing::error!(%error, "expired rows could not be purged"),
        }
    }
}
