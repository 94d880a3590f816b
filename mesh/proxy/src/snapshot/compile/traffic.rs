//! How a service is treated by its callers: defaults and bounds.

use std::time::Duration;

use http::Method;
use ringwall_mesh_api::v1;

use super::{Fault, at_most, brief};
use crate::snapshot::{Breaker, Outlier, Retries, RoutePolicy, TrafficPolicy};

/// Longest time of a request, a pause or an ejection.
const LONGEST: Duration = Duration::from_secs(3600);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_ATTEMPTS: u32 = 10;
const MAX_ROUTES: usize = 256;
const MAX_PREFIX: usize = 1024;
const MAX_STATUSES: usize = 32;
/// Largest count of connections or requests.
const MAX_COUNT: u32 = 1_000_000;

pub(super) fn policy(message: Option<&v1::TrafficPolicy>) -> Result<TrafficPolicy, Fault> {
    let unset = v1::TrafficPolicy::default();
    let message = message.unwrap_or(&unset);
    at_most("routes", message.routes.len(), MAX_ROUTES)?;
    Ok(TrafficPolicy {
        timeout: time("timeout_ms", message.timeout_ms)?.unwrap_or(DEFAULT_TIMEOUT),
        connect_timeout: time("connect_timeout_ms", message.connect_timeout_ms)?
            .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        retries: retries(message.retries.as_ref())?,
        outlier: outlier(message.outlier)?,
        breaker: breaker(message.breaker)?,
        hedge: hedge(message.hedge)?,
        routes: message.routes.iter().map(route).collect::<Result<_, _>>()?,
    })
}

fn route(message: &v1::Route) -> Result<RoutePolicy, Fault> {
    let method = match message.method.as_str() {
        "" => None,
        text => {
            let method = Method::from_bytes(text.as_bytes());
            Some(method.map_err(|_| format!("`{}` is not a method", brief(text)))?)
        }
    };
    if !message.prefix.starts_with('/') || message.prefix.len() > MAX_PREFIX {
        let shown = brief(&message.prefix);
        return Err(format!("the prefix `{shown}` of a route is not a path"));
    }
    Ok(RoutePolicy {
        method,
        prefix: message.prefix.clone(),
        timeout: time("timeout_ms", message.timeout_ms)?,
        retries: match &message.retries {
            Some(message) => Some(retries(Some(message))?),
            None => None,
        },
        hedge: hedge(message.hedge)?,
    })
}

fn retries(message: Option<&v1::Retries>) -> Result<Retries, Fault> {
    let unset = v1::Retries::default();
    let message = message.unwrap_or(&unset);
    at_most("statuses", message.statuses.len(), MAX_STATUSES)?;
    let statuses = message.statuses.iter().map(|status| {
        u16::try_from(*status)
            .ok()
            .filter(|status| (100..=599).contains(status))
            .ok_or_else(|| format!("{status} is not a status"))
    });
    let statuses: Vec<u16> = statuses.collect::<Result<_, _>>()?;
    Ok(Retries {
        attempts: within("attempts", or(message.attempts, 1), MAX_ATTEMPTS)?,
        per_try_timeout: time("per_try_timeout_ms", message.per_try_timeout_ms)?,
        budget_permille: within("budget_permille", or(message.budget_permille, 200), 1000)?,
        budget_floor: within("budget_floor", or(message.budget_floor, 3), MAX_COUNT)?,
        statuses: if statuses.is_empty() {
            vec![502, 503, 504]
        } else {
            statuses
        },
    })
}

fn outlier(message: Option<v1::Outlier>) -> Result<Outlier, Fault> {
    let message = message.unwrap_or_default();
    Ok(Outlier {
        consecutive_failures: or(message.consecutive_failures, 5),
        ejection: time("ejection_ms", message.ejection_ms)?.unwrap_or(Duration::from_secs(5)),
        max_ejected_percent: within(
            "max_ejected_percent",
            or(message.max_ejected_percent, 50),
            100,
        )?,
    })
}

fn breaker(message: Option<v1::Breaker>) -> Result<Breaker, Fault> {
    let message = message.unwrap_or_default();
    Ok(Breaker {
        max_connections: within(
            "max_connections",
            or(message.max_connections, 1024),
            MAX_COUNT,
        )?,
        max_requests: within("max_requests", or(message.max_requests, 1024), MAX_COUNT)?,
        max_pending: within("max_pending", or(message.max_pending, 1024), MAX_COUNT)?,
        failure_permille: within("failure_permille", or(message.failure_permille, 500), 1000)?,
        min_requests: or(message.min_requests, 20),
        open: time("open_ms", message.open_ms)?.unwrap_or(Duration::from_secs(5)),
    })
}

fn hedge(message: Option<v1::Hedge>) -> Result<Option<Duration>, Fault> {
    message.map_or(Ok(None), |hedge| time("after_ms", hedge.after_ms))
}

/// Milliseconds; 0 is unset.
fn time(what: &str, milliseconds: u32) -> Result<Option<Duration>, Fault> {
    let time = Duration::from_millis(u64::from(milliseconds));
    match time {
        Duration::ZERO => Ok(None),
        time if time <= LONGEST => Ok(Some(time)),
        _ => Err(format!("{what} {milliseconds}: more than {LONGEST:?}")),
    }
}

fn within(what: &str, number: u32, limit: u32) -> Result<u32, Fault> {
    if number > limit {
        return Err(format!("{what} {number}: more than {limit}"));
    }
    Ok(number)
}

const fn or(number: u32, default: u32) -> u32 {
    if number == 0 { default } else { number }
}
