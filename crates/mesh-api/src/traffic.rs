//! How callers treat a service: times, retries, outliers, breaker, hedging, as operators declare it.
//!
//! Owns: the shape of a declaration and its form on the wire. What is left out has the default that `config.proto` names; 0 is
//! a value like any other. Must not: apply any of it; proxies do. Read next: `traffic/policy.rs`, which has the ranges.

mod policy;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::policy::{Breaker, Fault, Outlier, Retries, RoutePolicy, TrafficPolicy};
use crate::v1;

/// `traffic` of a service. Everything is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficConfig {
    /// Whole request, with all attempts: 1ms to 1h. Default 15s.
    #[serde(
        with = "humantime_serde::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub timeout: Option<Duration>,
    /// 1ms to 1h. Default 1s.
    #[serde(
        with = "humantime_serde::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub connect_timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<RetriesConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier: Option<OutlierConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerConfig>,
    /// A second attempt of an idempotent request after this time, at most 1h; `0s` and absent: never.
    #[serde(
        with = "humantime_serde::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub hedge_after: Option<Duration>,
    /// Overrides; the first one that matches counts. At most 256.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteConfig>,
}

/// Which failed attempts are made again, and how often.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetriesConfig {
    /// Beyond the first attempt, 0 to 10; 0 switches retries off. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// 1ms to 1h. Default: none but the request's own.
    #[serde(
        with = "humantime_serde::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub per_try_timeout: Option<Duration>,
    /// Retries for 1000 requests, 0 to 1000. Default 200. The budget is the service's: not in a route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_permille: Option<u32>,
    /// Retries per second that are always allowed, 0 to 1000000. Default 3. Not in a route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_floor: Option<u32>,
    /// Statuses from 100 to 599, at most 32, none in an empty list. Default 502, 503, 504.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statuses: Option<Vec<u16>>,
}

/// When an endpoint is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutlierConfig {
    /// 1 to 1000000. Default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<u32>,
    /// The first ejection; doubles. 1ms to 1h. Default 5s.
    #[serde(
        with = "humantime_serde::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub ejection: Option<Duration>,
    /// 0 to 100; 0 switches ejection off. Default 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejected_percent: Option<u32>,
}

/// When a service is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// Of one endpoint, 1 to 1000000. Default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Of the service, 1 to 1000000. Default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// 1 to 1000000. Default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// Failures in 1000 requests that open it, 1 to 1000. Default 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_permille: Option<u32>,
    /// 1 to 1000000. Default 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u32>,
    /// 1ms to 1h. Default 5s.
    #[serde(
        with = "humantime_serde::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub open: Option<Duration>,
}

/// What matches has the method (absent: any) and a path that begins with `prefix`. What is left out is the service's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// In upper case, as methods are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Begins with `/`; at most 1024 bytes.
    pub prefix: String,
    #[serde(
        default,
        with = "humantime_serde::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub timeout: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<RetriesConfig>,
    #[serde(
        default,
        with = "humantime_serde::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub hedge_after: Option<Duration>,
}

impl TrafficConfig {
    /// Whether nothing differs from the defaults.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What proxies make of it.
    ///
    /// # Errors
    /// The first value that a proxy would refuse.
    pub fn policy(&self) -> Result<TrafficPolicy, Fault> {
        TrafficPolicy::read(self.wire().as_ref())
    }

    /// What proxies are told; absent when nothing differs from the defaults.
    pub fn wire(&self) -> Option<v1::TrafficPolicy> {
        if self.is_default() {
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
            method: route.method.clone(),
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
        let codes = |list: &Vec<u16>| list.iter().map(|status| u32::from(*status)).collect();
        v1::Retries {
            attempts: self.attempts,
            per_try_timeout_ms: millis(self.per_try_timeout),
            budget_permille: self.budget_permille,
            budget_floor: self.budget_floor,
            statuses: self
                .statuses
                .as_ref()
                .map(|list| v1::Statuses { codes: codes(list) }),
        }
    }
}

fn hedge(after: Option<Duration>) -> Option<v1::Hedge> {
    millis(after).map(|after_ms| v1::Hedge { after_ms })
}

/// Rounded up: what is shorter than a millisecond is not nothing.
fn millis(time: Option<Duration>) -> Option<u32> {
    time.map(|time| u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
