//! Composition root: what notifications is made of, and what is wired to what.
//!
//! It must hold no decision of its own. Read next: `consumer.rs` for the events, `api.rs` for the
//! routes.

use futures_util::FutureExt;
use ringwall_identity::SpiffeId;
use ringwall_proto::ids::Name;
use ringwall_service::user_context::UserContextVerifier;
use ringwall_service::{App, Shell, StartError};
use ringwall_store::{Database, StoreLimits};

use crate::api::{self, Notifications};
use crate::config::Config;
use crate::consumer::Consumer;
use crate::live::Live;
use crate::metrics::EventMetrics;
use crate::store::{self, NotificationStore};
use crate::verifier::Verifier;

pub(crate) async fn start(shell: Shell, config: Config) -> Result<App, StartError> {
    let path = shell.state_dir()?.join("notifications.db");
    let database = Database::open(path, store::MIGRATIONS, StoreLimits::default())
        .map_err(|error| StartError::unavailable("the database", error))?;
    let store = NotificationStore::new(database);
    let live = Live::new(config.stream.clone());

    let producer = shell.upstream(config.consumer.producer.as_str())?;
    let trusted = SpiffeId::workload(
        &shell.config.trust_domain,
        config.consumer.producer.as_str(),
    )?;
    let consumer = Consumer {
        verifier: Verifier::new(producer.jwks(ringwall_proto::paths::JWKS), trusted),
        producer,
        group: Name::parse(shell.name)?,
        config: config.consumer,
        store: store.clone(),
        live: live.clone(),
        metrics: EventMetrics::register(&shell.metrics),
    };

    let drain = shell.shutdown().boxed().shared();
    let users = UserContextVerifier::from_shell(&shell)?;
    let probe = store.clone();
    let router = api::router(Notifications {
        store,
        live,
        limits: config.stream,
        drain,
    });
    Ok(App::new(router)
        .users(users)
        .ready_check("database", move || {
            let probe = probe.clone();
            async move { probe.ping().await.map_err(|error| error.to_string()) }
        })
        .background("consumer", consumer.run()))
}
