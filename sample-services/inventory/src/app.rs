//! Composition root: what inventory is made of, and what is wired to what.
//!
//! It must hold no decision of its own. Read next: `api.rs` for the routes, `store.rs` for the data.

use ringwall_service::api_keys::ApiKeys;
use ringwall_service::{App, Shell, StartError};
use ringwall_store::{Database, StoreLimits};

use crate::api;
use crate::catalogue::RANGE;
use crate::config::Config;
use crate::store::{self, Stock};

/// Everything that a handler can reach.
#[derive(Clone)]
pub(crate) struct Inventory {
    pub(crate) keys: ApiKeys,
    pub(crate) stock: Stock,
}

pub(crate) async fn start(shell: Shell, config: Config) -> Result<App, StartError> {
    let path = shell.state_dir()?.join("inventory.db");
    let database = Database::open(path, store::MIGRATIONS, StoreLimits::default())
        .map_err(|error| StartError::unavailable("inventory's database", error))?;
    let stock = Stock::new(database);
    stock.seed(&RANGE, config.catalogue.opening_stock).await?;

    let keys = ApiKeys::open(shell.secrets.clone(), config.api_keys)
        .map_err(|error| StartError::unavailable("the API keys", error))?;

    let probe = stock.clone();
    Ok(
        App::new(api::router(Inventory { keys, stock })).ready_check("database", move || {
            let probe = probe.clone();
            async move { probe.ping().await.map_err(|error| error.to_string()) }
        }),
    )
}
