//! Configuration of inventory.
//!
//! Owns: the component's own keys and their checks. It must not read secrets or the environment.
//! Read next: `app.rs`.

use ringwall_service::api_keys::ApiKeysConfig;
use ringwall_service::config::{ComponentConfig, ServiceConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The whole configuration file of `ringwall-inventory`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: ServiceConfig,
    /// Where the accepted API keys (hashes) and their pepper are found.
    #[serde(default)]
    pub(crate) api_keys: ApiKeysConfig,
    /// What a new, empty store is filled with.
    #[serde(default)]
    pub(crate) catalogue: CatalogueConfig,
}

/// What a new, empty store is filled with; without effect once items exist.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogueConfig {
    /// Opening stock of every item, instead of the range's own figures (for load tests).
    #[serde(default)]
    pub(crate) opening_stock: Option<u32>,
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }
}
