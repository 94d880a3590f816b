//! Configuration of payments.
//!
//! Owns: the component's own keys and their checks. It must not read secrets or the environment.
//! Read next: `app.rs`.

use std::time::Duration;

use ringwall_proto::ids::Currency;
use ringwall_proto::payments::PaymentTerms;
use ringwall_service::api_keys::ApiKeysConfig;
use ringwall_service::config::{ComponentConfig, ConfigError, ServiceConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::PaymentError;

/// The whole configuration file of `ringwall-payments`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: ServiceConfig,
    /// Where the accepted API keys (hashes) and their pepper are found.
    #[serde(default)]
    pub(crate) api_keys: ApiKeysConfig,
    pub(crate) access_tokens: AccessTokensConfig,
    #[serde(default)]
    pub(crate) limits: LimitsConfig,
}

/// Which access tokens are accepted.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccessTokensConfig {
    /// The authorization server's issuer, exactly as its tokens carry it.
    pub(crate) issuer: String,
    /// The one audience that is accepted.
    #[serde(default = "payments")]
    pub(crate) audience: String,
    /// Who must act for the user: the `sub` of the token's `act` claim (RFC 8693 §4.1).
    #[serde(default = "orders")]
    pub(crate) actor: String,
    /// Tolerated difference of clocks.
    #[serde(default = "leeway", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) leeway: Duration,
}

/// What a single payment may be.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsConfig {
    /// Highest amount of one payment, in minor units; more is declined.
    pub(crate) max_amount_minor: i64,
    /// The only currency (ISO 4217) of the ledger; another is declined.
    pub(crate) currency: Currency,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_amount_minor: 500_000,
            currency: Currency::EUR,
        }
    }
}

impl LimitsConfig {
    /// The rule by which a payment is declined.
    pub(crate) fn check(&self, terms: &PaymentTerms) -> Result<(), PaymentError> {
        if terms.currency != self.currency {
            return Err(PaymentError::Declined("another currency than the ledger's"));
        }
        if terms.amount_minor.get() == 0 {
            return Err(PaymentError::Declined("there is nothing to pay"));
        }
        if terms.amount_minor.get() > self.max_amount_minor {
            return Err(PaymentError::Declined("more than one payment may be"));
        }
        Ok(())
    }
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if !self.access_tokens.issuer.starts_with("https://") {
            return Err(ConfigError::invalid(
                "access_tokens.issuer",
                &self.access_tokens.issuer,
                "an https URL",
                "copy `issuer` from the authorization server's configuration",
            ));
        }
        if self.access_tokens.leeway > MAX_LEEWAY {
            return Err(ConfigError::invalid(
                "access_tokens.leeway",
                &format!("{:?}", self.access_tokens.leeway),
                "at most 60s",
                "synchronise the clocks instead",
            ));
        }
        if self.limits.max_amount_minor <= 0 {
            return Err(ConfigError::invalid(
                "limits.max_amount_minor",
                &self.limits.max_amount_minor.to_string(),
                "more than 0",
                "state the highest amount of one payment in cents",
            ));
        }
        Ok(())
    }
}

const MAX_LEEWAY: Duration = Duration::from_secs(60);

fn payments() -> String {
    "payments".to_owned()
}

fn orders() -> String {
    "orders".to_owned()
}

fn leeway() -> Duration {
    Duration::from_secs(5)
}
