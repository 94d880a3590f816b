//! Composition root: what orders is made of, and what is wired to what.
//!
//! It must hold no decision of its own. Read next: `place_order.rs` for the main job, `api.rs` and
//! `topics.rs` for the routes, `relay.rs` and `recovery.rs` for what runs beside them.

use std::sync::Arc;

use axum::Router;
use futures_util::FutureExt;
use ringwall_service::user_context::UserContextVerifier;
use ringwall_service::{App, Shell, StartError};
use ringwall_store::postgres::Postgres;
use ringwall_store::{EventLog, LogLimits};
use tokio::sync::Notify;

use crate::config::Config;
use crate::credentials::Credentials;
use crate::event_key;
use crate::events::Events;
use crate::inventory::Inventory;
use crate::metrics::OrderMetrics;
use crate::payments::Payments;
use crate::place_order::Shop;
use crate::recovery::Recovery;
use crate::relay::Relay;
use crate::store::OrderStore;
use crate::topics::Topics;
use crate::{api, topics};

pub(crate) async fn start(shell: Shell, config: Config) -> Result<App, StartError> {
    let state = shell.state_dir()?;
    let key = event_key::load_or_create(&state, &shell.config.secrets)?;
    let log = EventLog::open(state.join("events.db"), LogLimits::default())
        .map_err(|error| StartError::unavailable("the event log", error))?;
    let store = OrderStore::new(connect_postgres(&shell, &config).await?);
    store
        .migrate()
        .await
        .map_err(|error| StartError::unavailable("PostgreSQL", error))?;

    let shop = Shop {
        store: store.clone(),
        inventory: Inventory::new(shell.upstream("inventory")?, shell.secrets.clone()),
        credentials: Credentials::new(
            shell.upstream("tokenizer")?,
            shell.upstream("authz-server")?,
        ),
        payments: Payments::new(shell.upstream("payments")?, shell.secrets.clone()),
        outbox: Arc::new(Notify::new()),
        metrics: OrderMetrics::register(&shell.metrics),
    };
    let events = Events::new(key, shell.spiffe_id());
    let drain = shell.shutdown().boxed().shared();
    let topics = Topics::new(log.clone(), &config.topics, events.public_keys(), drain);
    let relay = Relay::new(
        store.clone(),
        log,
        events,
        Arc::clone(&shop.outbox),
        config.relay,
    );
    let recovery = Recovery::new(shop.clone(), config.recovery);

    let router = Router::new()
        .merge(api::router(shop))
        .merge(topics::router(topics));
    Ok(App::new(router)
        .users(UserContextVerifier::from_shell(&shell)?)
        .ready_check("postgres", move || {
            let store = store.clone();
            async move { store.ping().await.map_err(|error| error.to_string()) }
        })
        .background("relay", relay.run())
        .background("recovery", recovery.run()))
}

async fn connect_postgres(shell: &Shell, config: &Config) -> Result<Postgres, StartError> {
    let secrets = shell.secrets.clone();
    let name = config.postgres.password_secret.clone();
    // Read again at each connect, so that a rotated password is used without a restart.
    Postgres::connect(&config.postgres, move || Ok(secrets.get_string(&name)?))
        .await
        .map_err(|error| StartError::unavailable("PostgreSQL", error))
}
