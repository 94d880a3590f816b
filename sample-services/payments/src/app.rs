//! Composition root: what payments is made of, and what is wired to what.
//!
//! It must hold no decision of its own. Read next: `api.rs` for the routes, `clearance.rs` for the
//! rule.

use ringwall_proto::paths;
use ringwall_service::api_keys::ApiKeys;
use ringwall_service::{App, Shell, StartError};
use ringwall_store::{Database, StoreLimits};

use crate::api;
use crate::clearance::{AccessTokens, Clearance, SourceTokens};
use crate::config::{Config, LimitsConfig};
use crate::store::{self, Ledger};

/// Everything that a handler can reach.
#[derive(Clone)]
pub(crate) struct Payments {
    pub(crate) clearance: Clearance,
    pub(crate) ledger: Ledger,
    pub(crate) limits: LimitsConfig,
}

pub(crate) async fn start(shell: Shell, config: Config) -> Result<App, StartError> {
    let path = shell.state_dir()?.join("ledger.db");
    let database = Database::open(path, store::MIGRATIONS, StoreLimits::default())
        .map_err(|error| StartError::unavailable("the ledger", error))?;
    let ledger = Ledger::new(database);

    let keys = shell.upstream("authz-server")?.jwks(paths::AUTHZ_JWKS);
    let clearance = Clearance {
        keys: ApiKeys::open(shell.secrets.clone(), config.api_keys)
            .map_err(|error| StartError::unavailable("the API keys", error))?,
        access_tokens: AccessTokens::new(keys, &config.access_tokens),
        source_tokens: SourceTokens::new(shell.upstream("tokenizer")?),
    };

    let probe = ledger.clone();
    let payments = Payments {
        clearance,
        ledger,
        limits: config.limits,
    };
    Ok(
        App::new(api::router(payments)).ready_check("ledger", move || {
            let probe = probe.clone();
            async move { probe.ping().await.map_err(|error| error.to_string()) }
        }),
    )
}
