//! Composition root: authority, registry, store and leadership become one component.
//!
//! Owns: what is wired to what, and the order of the start: intermediate → own SVID → store →
//! leadership → keys and revocations → policy → listeners. Must not: decide.
//! Read next: `authority.rs`, `attestation.rs`, `leader.rs`.
//!
//! Whoever adds a gRPC service or routes adds them in [`router`], work beside them in [`start`];
//! [`ControlPlane`] has what they need.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use ringwall_mesh_api::v1::authority_server::AuthorityServer;
use ringwall_mesh_api::v1::configuration_server::ConfigurationServer;
use ringwall_mesh_api::v1::identity_server::IdentityServer;
use ringwall_secret::{SealKey, SecretProvider};
use ringwall_service::{App, Seed, ServiceConfig, Shell, StartError, bind};
use ringwall_store::postgres::Postgres;
use ringwall_tls::IdentitySource;
use time::OffsetDateTime;
use tonic::service::Routes;
use uuid::Uuid;

use crate::Clock;
use crate::attestation::api::JoinApi;
use crate::attestation::bootstrap::Bootstrap;
use crate::attestation::limit::JoinLimit;
use crate::attestation::tokens::JoinTokens;
use crate::authority::audit::Audit;
use crate::authority::audit_api;
use crate::authority::database_client::DatabaseClient;
use crate::authority::identity_api::IdentityApi;
use crate::authority::issuer::Issuer;
use crate::authority::jwt_keys::JwtKeys;
use crate::authority::operator_api::OperatorApi;
use crate::authority::own::OwnSvid;
use crate::authority::revocation::Revocations;
use crate::authority::trust::Trust;
use crate::authority::{Authority, Lives};
use crate::config::{Config, StoreConfig};
use crate::discovery::{Discovery, Hub};
use crate::leader::Leadership;
use crate::policy::{self, PolicyAdmin};
use crate::registry::reload::ConfigFile;
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::store::postgres::Postgresql;

/// Largest message of the identity services, in bytes: a request for a certificate and some names.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Largest message of a proxy, in bytes: a report of uses.
const MAX_REPORT_BYTES: usize = 512 * 1024;
/// How often rows that nobody needs are removed.
const PURGE_EVERY: Duration = Duration::from_secs(30);
/// What the key that seals the store's documents is derived for.
const STORE_KEY: &str = "control-plane store";

/// What is there before the shell: an authority, and who we are by it.
pub(crate) struct Begun {
    config: Config,
    file: ConfigFile,
    issuer: Arc<Issuer>,
    own: OwnSvid,
    database_client: Option<DatabaseClient>,
}

/// What every part of the component shares.
#[derive(Clone)]
pub(crate) struct ControlPlane {
    pub(crate) authority: Authority,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) tokens: JoinTokens,
}

/// Opens the intermediate and issues our own SVID.
pub(crate) async fn identify(
    seed: Seed,
    config: Config,
) -> Result<(Arc<IdentitySource>, Begun), StartError> {
    let file = ConfigFile::new(seed.file.clone(), config.clone())?;
    let begun = begin(
        &seed.config,
        &seed.secrets,
        config,
        file,
        OffsetDateTime::now_utc(),
    )?;
    Ok((begun.own.source(), begun))
}

/// [`identify`] at a given time.
pub(crate) fn begin(
    service: &ServiceConfig,
    secrets: &Arc<SecretProvider>,
    config: Config,
    file: ConfigFile,
    now: OffsetDateTime,
) -> Result<Begun, StartError> {
    let issuer = Issuer::open(
        &config.authority,
        service.trust_domain.clone(),
        Arc::clone(secrets),
        now,
    )
    .map_err(|error| StartError::config(format!("the authority cannot be opened: {error}")))?;
    let (material, life) = (issuer.current(), config.authority.svid_ttl);
    let state = service
        .state
        .as_ref()
        .ok_or_else(|| StartError::software("service.state was validated"))?;
    let own = OwnSvid::first(service.own_id()?, &material, life, state, now)?;
    let database_client = match &config.store {
        StoreConfig::Embedded(_) => None,
        StoreConfig::Postgres(postgres) => Some(DatabaseClient::first(
            postgres,
            &material,
            config.authority.database_ttl,
            now,
        )?),
    };
    Ok(Begun {
        config,
        file,
        issuer: Arc::new(issuer),
        own,
        database_client,
    })
}

#[cfg(test)]
impl Begun {
    pub(crate) fn identity(&self) -> Arc<IdentitySource> {
        self.own.source()
    }
}

/// Makes the component.
pub(crate) async fn start(shell: Shell, begun: Begun) -> Result<App, StartError> {
    Box::pin(assemble(shell, begun, Arc::new(OffsetDateTime::now_utc))).await
}

/// [`start`] by a given clock.
pub(crate) async fn assemble(shell: Shell, begun: Begun, clock: Clock) -> Result<App, StartError> {
    shell.state_dir()?;
    let store = open_store(&shell, &begun.config).await?;
    let control_plane = open(&shell, &begun, Arc::clone(&store), &clock).await?;
    let authority = control_plane.authority.clone();
    let join = JoinApi {
        authority: authority.clone(),
        tokens: control_plane.tokens.clone(),
        limit: Arc::new(JoinLimit::new(begun.config.join.burst)),
    };
    let listener = bind(begun.config.bootstrap).await?;
    let bootstrap = Bootstrap::new(listener, &begun.own.source(), join)?;

    let ready = Arc::clone(&store);
    let alive = Arc::clone(&authority.issuer);
    let own_id = shell.spiffe_id();
    let leadership = Arc::clone(&control_plane.leadership);
    let (hub, policy) = policy(&shell, &control_plane, &begun, &clock).await?;
    let routes = router(&shell, &control_plane, &begun.config, (&hub, &policy));
    let revocations = authority.revocations.subscribe();
    let revoked = Arc::clone(&revocations.borrow());
    let serving = policy.start(&revoked).await;
    let served = policy.clone();
    let mut app = App::new(routes)
        .any_workload()
        // Streams last as long as proxies do; each message has its own limit.
        .max_body(usize::MAX)
        .ready_check("store", move || {
            let store = Arc::clone(&ready);
            async move { store.ping().await.map_err(|error| error.to_string()) }
        })
        .ready_check("intermediate", move || {
            let end = alive.current().intermediate.not_after();
            async move {
                if OffsetDateTime::now_utc() < end {
                    return Ok(());
                }
                Err(format!(
                    "the intermediate ended at {end}; put a new one into the secrets"
                ))
            }
        })
        .ready_check("policy", move || {
            let serving = served.ensure_serving();
            async move { serving }
        })
        .background("registry", begun.file.follow())
        .background(
            "intermediate",
            Arc::clone(&authority.issuer).follow(Arc::clone(&clock)),
        )
        .background("own SVID", begun.own.follow(authority.clone()))
        .background("revocations", Arc::clone(&authority.revocations).follow())
        .background(
            "keys",
            Arc::clone(&authority.jwt_keys).follow(Arc::clone(&leadership), Arc::clone(&clock)),
        )
        .background(
            "purge",
            purge(Arc::clone(&store), begun.config.authority.audit_keep, clock),
        )
        .background("gauges", gauges(control_plane.clone()))
        .background("leases", hub.clone().keep_time())
        .background("names", hub.follow_names())
        .data_path(policy.follow(serving, revocations, shell.shutdown()))
        .data_path(leadership.run(store, shell.shutdown()))
        .data_path(bootstrap.run(shell.clone()));
    if let Some(client) = begun.database_client {
        app = app.background("database client", client.follow(authority, own_id));
    }
    Ok(app)
}

/// Discovery, and the policy that it pushes.
async fn policy(
    shell: &Shell,
    control_plane: &ControlPlane,
    begun: &Begun,
    clock: &Clock,
) -> Result<(Hub, PolicyAdmin), StartError> {
    let hub = Hub::new();
    hub.register(&shell.metrics);
    let policy = PolicyAdmin::new(
        Arc::clone(&control_plane.authority.store),
        Arc::clone(&control_plane.authority.jwt_keys),
        Arc::clone(&control_plane.leadership),
        hub.clone(),
        begun.file.subscribe(),
        Arc::clone(clock),
    );
    policy.register(&shell.metrics);
    policy.ensure_startable().await.map_err(|refusal| {
        StartError::config(format!(
            "the policy is refused, and there is none from before:\n{refusal}"
        ))
    })?;
    Ok((hub, policy))
}

fn configuration(hub: &Hub, policy: &PolicyAdmin) -> ConfigurationServer<Discovery> {
    ConfigurationServer::new(Discovery::new(hub.clone(), policy.usage_sink()))
        .max_decoding_message_size(MAX_REPORT_BYTES)
}

/// The one place where services and routes are added.
fn router(
    shell: &Shell,
    control_plane: &ControlPlane,
    config: &Config,
    (hub, policy): (&Hub, &PolicyAdmin),
) -> Router {
    let authority = control_plane.authority.clone();
    let identity = IdentityApi {
        trust: Trust::new(shell.clone(), authority.now()),
        authority: authority.clone(),
        hub: hub.clone(),
    };
    let operator = OperatorApi {
        authority,
        tokens: control_plane.tokens.clone(),
        leadership: Arc::clone(&control_plane.leadership),
        external_root: config.authority.external_root,
    };
    Routes::new(IdentityServer::new(identity).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(AuthorityServer::new(operator).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(configuration(hub, policy))
        .into_axum_router()
        .merge(audit_api::router(Arc::clone(
            &control_plane.authority.store,
        )))
        .merge(policy::router(policy.clone()))
}

async fn open_store(shell: &Shell, config: &Config) -> Result<Arc<dyn Store>, StartError> {
    let unavailable = |error| StartError::unavailable("the store", error);
    match &config.store {
        StoreConfig::Embedded(path) => {
            let store = Embedded::open(path).map_err(unavailable)?;
            Ok(Arc::new(store))
        }
        StoreConfig::Postgres(postgres) => {
            let secrets = Arc::clone(&shell.secrets);
            let name = postgres.password_secret.clone();
            let password = move || Ok(secrets.get_string(&name)?);
            let postgres = Postgres::connect(postgres, password)
                .await
                .map_err(unavailable)?;
            let store = Postgresql::open(postgres).await.map_err(unavailable)?;
            Ok(Arc::new(store))
        }
    }
}

async fn open(
    shell: &Shell,
    begun: &Begun,
    store: Arc<dyn Store>,
    clock: &Clock,
) -> Result<ControlPlane, StartError> {
    let audit = Audit::default();
    audit.register(&shell.metrics);
    let config = &begun.config;
    // Unique to this process: after a restart we are somebody else, and wait for our own lease.
    let holder = format!("{} {}", config.service.listen, Uuid::new_v4());
    let leadership = Leadership::new(holder, Arc::clone(clock));
    leadership.ask(&*store).await;
    let seal = SealKey::derive(&shell.secrets.get(&config.authority.store_key)?, STORE_KEY)?;
    let life = config.authority.jwt_key_life;
    let jwt_keys = JwtKeys::open(Arc::clone(&store), seal, life, clock()).await?;
    let revocations = Revocations::open(
        Arc::clone(&store),
        Arc::clone(&begun.issuer),
        audit.clone(),
        Arc::clone(clock),
    )
    .await?;
    let tokens = JoinTokens::new(
        Arc::clone(&store),
        Arc::clone(&shell.secrets),
        config.join.tokens.clone(),
    );
    let authority = Authority {
        lives: Lives::from(&config.authority),
        issuer: Arc::clone(&begun.issuer),
        jwt_keys: Arc::new(jwt_keys),
        revocations,
        declared: begun.file.subscribe(),
        store,
        audit,
        clock: Arc::clone(clock),
    };
    Ok(ControlPlane {
        authority,
        leadership,
        tokens,
    })
}

async fn purge(store: Arc<dyn Store>, audit_keep: Duration, clock: Clock) {
    let mut ticks = tokio::time::interval(PURGE_EVERY);
    loop {
        ticks.tick().await;
        let now = clock();
        loop {
            match store.purge(now, now - audit_keep).await {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, "cannot remove old rows");
                    break;
                }
            }
        }
    }
}

/// Gauges that follow a value.
async fn gauges(control_plane: ControlPlane) {
    let mut standing = control_plane.leadership.subscribe();
    let mut issuer = control_plane.authority.issuer.subscribe();
    let audit = control_plane.authority.audit;
    loop {
        audit.leads(standing.borrow_and_update().is_leader);
        audit.intermediate_ends(issuer.borrow_and_update().intermediate.not_after());
        tokio::select! {
            Ok(()) = standing.changed() => {}
            Ok(()) = issuer.changed() => {}
            else => return,
        }
    }
}
