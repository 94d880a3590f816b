//! How callers treat a service: times, retries, outliers, breaker, hedging.
//!
//! Owns: the shape, and its form on the wire. What is left out has the default that `config.proto` names. Must not: apply
//! any of it; proxies do.

use std::time::Duration;

use ringwall_mesh_api::v1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TrafficConfig {
    /// Whole request, with all attempts. Default 15s.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<String>")]
    pub(crate) timeout: Option<Duration>,
    /// Default 1s.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<String>")]
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) retries: Option<RetriesConfig>,
    pub(crate) outlier: Option<OutlierConfig>,
    pub(crate) breaker: Option<BreakerConfig>,
    /// A second attempt of an idempotent request after this time; off by default.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<String>")]
    pub(crate) hedge_after: Option<Duration>,
    /// Overrides; the first one that matches counts.
    pub(crate) routes: Vec<RouteConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetriesConfig {
    /// Beyond the first attempt. Default 1.
    pub(crate) attempts: u32,
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<String>")]
    pub(crate) per_try_timeout: Option<Duration>,
    /// Retries for 1000 requests. Default 200.
    pub(crate) budget_permille: u32,
    /// Retries per second that are always allowed. Default 3.
    pub(crate) budget_floor: u32,
    /// Default 502, 503, 504.
    pub(crate) statuses: Vec<u16>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OutlierConfig {
    /// Default 5.
    pub(crate) consecutive_failures: u32,
    /// The first ejection; doubles. Default 5s.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<String>")]
    pub(crate) ejection: Option<Duration>,
    /// Default 50.
    pub(crate) max_ejected_percent: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BreakerConfig {
    /// Of one endpoint. Default 1024.
    pub(crate) max_connections: u32,
    /// Of the service. Default 1024.
    pub(crate) max_requests: u32,
    /// Default 1024.
    pub(crate) max_pending: u32,
    /// Failures in 1000 requests that open it. Default 500.
    pub(crate) failure_permille: u32,
    /// Default 20.
    pub(crate) min_requests: u32,
    /// Default 5s.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<String>")]
    pub(crate) open: Option<Duration>,
}

/// What matches has the method (absent: any) and a path that begins with `prefix`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteConfig {
    #[serde(default)]
    pub(crate) method: Option<String>,
    pub(crate) prefix: String,
    #[serde(default, with = "humantime_serde::option")]
    #[schemars(with = "Option<String>")]
    pub(crate) timeout: Option<Duration>,
    #[serde(default)]
    pub(crate) retries: Option<RetriesConfig>,
    #[serde(default, with = "humantime_serde::option")]
    #[schemars(with = "Option<String>")]
    pub(crate) hedge_after: Option<Duration>,
}

impl TrafficConfig {
    /// What proxies are told; absent when nothing differs from the defaults.
    pub(crate) fn wire(&self) -> Option<v1::TrafficPolicy> {
        if *self == Self::default() {
            return None;
        }
        let outlier = self.outlier.as_ref().map(|outlier| v1::Outlier {
            consecutive_failures: outlier.consecutive_failures,
            ejection_ms: millis(outlier.ejection),
            max_ejected_percent: outlier.max_ejected_percent,
        });
        let breaker = self.breaker.as_ref().map(|breaker| v1::Breaker {
            max_connections: breaker.max_connections,
            max_requests: breaker.max_requests,
            max_pending: breaker.max_pending,
            failure_permille: breaker.failure_permille,
            min_requests: breaker.min_requests,
            open_ms: millis(breaker.open),
        });
        let routes = self.routes.iter().map(|route| v1::Route {
            method: route.method.clone().unwrap_or_default(),
            prefix: route.prefix.clone(),
            timeout_ms: millis(route.timeout),
            retries: route.retries.as_ref().map(RetriesConfig::wire),
            hedge: hedge(route.hedge_after),
        });
        Some(v1::TrafficPolicy {
            timeout_ms: millis(self.timeout),
            connect_timeout_ms: millis(self.connect_timeout),
            retries: self.retries.as_ref().map(RetriesConfig::wire),
            outlier,
            breaker,
            hedge: hedge(self.hedge_after),
            routes: routes.collect(),
        })
    }
}

impl RetriesConfig {
    fn wire(&self) -> v1::Retries {
        v1::Retries {
            attempts: self.attempts,
            per_try_timeout_ms: millis(self.per_try_timeout),
            budget_permille: self.budget_permille,
            budget_floor: self.budget_floor,
            statuses: self
                .statuses
                .iter()
                .map(|status| u32::from(*status))
                .collect(),
        }
    }
}

fn hedge(after: Option<Duration>) -> Option<v1::Hedge> {
    after.map(|after| v1::Hedge {
        after_ms: millis(Some(after)),
    })
}

/// 0 is "not said".
fn millis(time: Option<Duration>) -> u32 {
    time.map_or(0, |time| {
        u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
    })
}
