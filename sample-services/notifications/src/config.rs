//! Configuration of notifications.
//!
//! Owns: the component's own keys and their checks. It must not read secrets or the environment.
//! Read next: `app.rs`.

use std::time::Duration;

use ringwall_proto::ids::Name;
use ringwall_service::config::{ComponentConfig, ConfigError, ServiceConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The whole configuration file of `ringwall-notifications`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: ServiceConfig,
    pub(crate) consumer: ConsumerConfig,
    #[serde(default)]
    pub(crate) stream: StreamConfig,
}

/// Where events come from.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConsumerConfig {
    /// The upstream that serves the topic, and the only workload whose events are believed.
    pub(crate) producer: Name,
    pub(crate) topic: Name,
    /// How long one poll waits for an event; at most 25s.
    #[serde(default = "wait", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) wait: Duration,
    /// Longest pause between two attempts while the producer is away.
    #[serde(default = "max_backoff", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) max_backoff: Duration,
}

/// Limits of the live streams.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StreamConfig {
    /// Pause between two heartbeats, which keep idle connections open.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) heartbeat: Duration,
    /// Age at which a stream ends; the client resumes with a fresh proof of who the user is.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) max_age: Duration,
    /// Open streams of one user.
    pub(crate) per_user: usize,
    /// Open streams in all.
    pub(crate) total: usize,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            max_age: Duration::from_secs(300),
            per_user: 8,
            total: 2_000,
        }
    }
}

/// Longest poll that the producer serves.
const MAX_WAIT: Duration = Duration::from_secs(ringwall_proto::orders::MAX_WAIT_SECONDS);

fn wait() -> Duration {
    Duration::from_secs(20)
}

fn max_backoff() -> Duration {
    Duration::from_secs(10)
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let second = Duration::from_secs(1);
        let hour = Duration::from_secs(3600);
        for (key, value, least, most) in [
            (
                "consumer.wait",
                self.consumer.wait,
                Duration::ZERO,
                MAX_WAIT,
            ),
            (
                "consumer.max_backoff",
                self.consumer.max_backoff,
                second,
                hour,
            ),
            ("stream.heartbeat", self.stream.heartbeat, second, hour),
            ("stream.max_age", self.stream.max_age, second, hour),
        ] {
            if value < least || value > most {
                return Err(ConfigError::invalid(
                    key,
                    &format!("{value:?}"),
                    &format!("{least:?} to {most:?}"),
                    "leave the key out: the default suits most",
                ));
            }
        }
        if self.stream.per_user == 0 || self.stream.total == 0 {
            return Err(ConfigError::invalid(
                "stream.per_user, stream.total",
                "0",
                "at least 1",
                "leave the keys out: the defaults suit most",
            ));
        }
        Ok(())
    }
}
