//! Composition root: store, introspection and routes become one component.
//!
//! Owns: what is wired to what. Must not: decide. Read next: `tokens.rs`.

use std::sync::Arc;
use std::time::Duration;

use ringwall_service::{App, Shell, StartError};
use time::OffsetDateTime;

use crate::api;
use crate::audit::Audit;
use crate::config::Config;
use crate::store::TokenStore;
use crate::tokens::{Rules, Tokenizer};

/// How often rows that are no longer needed are removed.
const PURGE_EVERY: Duration = Duration::from_secs(10);

pub(crate) async fn start(shell: Shell, config: Config) -> Result<App, StartError> {
    let path = shell.state_dir()?.join("tokens.db");
    let store = TokenStore::open(&path)
        .map_err(|error| StartError::unavailable("the token store", error))?;
    let audit = Audit::default();
    audit.register(&shell.metrics);
    let tokenizer = Tokenizer::new(
        Rules::new(&config)?,
        store.clone(),
        Arc::new(shell.upstream("authz-server")?),
        audit,
        Arc::new(OffsetDateTime::now_utc),
    );
    let ready = store.clone();
    Ok(App::new(api::router(tokenizer.clone()))
        .max_body(api::MAX_BODY)
        .ready_check("token store", move || {
            let store = ready.clone();
            async move { store.ping().await.map_err(|error| error.to_string()) }
        })
        .background("purge", purge(tokenizer)))
}

async fn purge(tokenizer: Tokenizer) {
    let mut ticks = tokio::time::interval(PURGE_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = tokenizer.purge().await {
            tracing::error!(%error, "cannot purge spent tokens");
        }
    }
}
