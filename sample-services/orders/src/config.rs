//! Configuration of orders.
//!
//! Owns: the component's own keys and their checks. It must not read secrets or the environment.
//! Read next: `app.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringwall_proto::ids::Name;
use ringwall_service::config::{ComponentConfig, ConfigError, ServiceConfig};
use ringwall_store::postgres::PostgresConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The whole configuration file of `ringwall-orders`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: ServiceConfig,
    /// The database of the orders: client certificate and SCRAM, both.
    pub(crate) postgres: PostgresConfig,
    /// Who may read which topic: workload names per topic. A topic that is not listed does not
    /// exist.
    pub(crate) topics: BTreeMap<Name, TopicConfig>,
    #[serde(default)]
    pub(crate) recovery: RecoveryConfig,
    #[serde(default)]
    pub(crate) relay: RelayConfig,
}

/// Access to one topic.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopicConfig {
    /// Workloads that may read; each under the consumer group of its own name.
    pub(crate) consumers: BTreeSet<Name>,
}

/// When an interrupted order is looked at again.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RecoveryConfig {
    /// Age at which a pending order that was not paid is given up. Must be longer than the longest
    /// order and the life of a source token together, so that nothing can be captured any more.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) give_up_after: Duration,
    /// Pause between two rounds.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) every: Duration,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self {
            give_up_after: Duration::from_secs(120),
            every: Duration::from_secs(15),
        }
    }
}

/// How events travel from the outbox to the log.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RelayConfig {
    /// Longest pause between two looks; a placed order wakes the relay at once.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) poll: Duration,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(2),
        }
    }
}

/// Least `recovery.give_up_after`: four calls at their longest, and 30 s of a source token's life.
const MIN_GIVE_UP_AFTER: Duration = Duration::from_secs(90);

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if let Err(error) = self.postgres.validate() {
            return Err(ConfigError::invalid(
                "postgres",
                &error.to_string(),
                "a usable connection",
                "correct the named key",
            ));
        }
        if self.recovery.give_up_after < MIN_GIVE_UP_AFTER {
            return Err(ConfigError::invalid(
                "recovery.give_up_after",
                &format!("{:?}", self.recovery.give_up_after),
                "at least 90s",
                "leave the key out: the default is safe",
            ));
        }
        for (key, value) in [
            ("recovery.every", self.recovery.every),
            ("relay.poll", self.relay.poll),
        ] {
            if value < Duration::from_millis(100) || value > Duration::from_secs(600) {
                return Err(ConfigError::invalid(
                    key,
                    &format!("{value:?}"),
                    "100ms to 10m",
                    "leave the key out: the default suits most",
                ));
            }
        }
        let topic = ringwall_proto::orders::TOPIC_ORDER_PLACED;
        if !self.topics.keys().any(|name| name.as_str() == topic) {
            return Err(ConfigError::invalid(
                "topics",
                "no `order.placed`",
                "the topic that this service writes",
                "add `order.placed: { consumers: [notifications] }`",
            ));
        }
        Ok(())
    }
}
