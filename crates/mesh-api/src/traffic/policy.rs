//! From what the wire says of a service's traffic to what holds: every value within its range, every default filled in.
//!
//! Owns: the ranges and the defaults, once for those who declare (`ringwall check`, the control plane) and those who apply
//! (proxies). Must not: correct a value silently.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::Method;

use crate::v1;

/// Of a request, a pause or an ejection, in milliseconds.
const TIME: RangeInclusive<u32> = 1..=3_600_000;
/// Attempts beyond the first.
const ATTEMPTS: RangeInclusive<u32> = 0..=10;
/// Thousandths of the requests that may be retries.
const BUDGET: RangeInclusive<u32> = 0..=1000;
/// Retries per second.
const FLOOR: RangeInclusive<u32> = 0..=1_000_000;
const PERCENT: RangeInclusive<u32> = 0..=100;
/// Thousandths of the requests that must have failed.
const FAILURES: RangeInclusive<u32> = 1..=1000;
/// Connections or requests.
const COUNT: RangeInclusive<u32> = 1..=1_000_000;
const STATUS: RangeInclusive<u32> = 100..=599;
const MAX_STATUSES: usize = 32;
const MAX_ROUTES: usize = 256;
/// Longest prefix of a route, in bytes.
const MAX_PREFIX: usize = 1024;
/// Characters of a refused text that are quoted.
const QUOTED: usize = 60;

/// How a service is treated by its callers.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficPolicy {
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub retries: Retries,
    pub outlier: Outlier,
    pub breaker: Breaker,
    /// A second attempt of an idempotent request after this time; off by default.
    pub hedge: Option<Duration>,
    pub routes: Vec<RoutePolicy>,
}

/// Which failed attempts are made again, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// Beyond the first.
    pub attempts: u32,
    pub per_try_timeout: Option<Duration>,
    pub budget_permille: u32,
    pub budget_floor: u32,
    pub statuses: Vec<u16>,
}

/// When an endpoint is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlier {
    pub consecutive_failures: u32,
    pub ejection: Duration,
    pub max_ejected_percent: u32,
}

/// When a service is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    pub max_connections: u32,
    pub max_requests: u32,
    pub max_pending: u32,
    pub failure_permille: u32,
    pub min_requests: u32,
    pub open: Duration,
}

/// Overrides for requests whose method and path prefix match; the first match counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePolicy {
    pub method: Option<Method>,
    pub prefix: String,
    pub timeout: Option<Duration>,
    pub retries: Option<Retries>,
    /// Zero: none, whatever the service has.
    pub hedge: Option<Duration>,
}

/// A value that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {seen}, expected {expected}; fix: {fix}")]
pub struct Fault {
    /// Where it stands below `traffic`, such as `routes[0].prefix`.
    pub key: String,
    pub seen: String,
    pub expected: String,
    pub fix: String,
}

impl TrafficPolicy {
    /// Checks what the wire says; absent values have their defaults.
    ///
    /// # Errors
    /// The first value out of its range.
    pub fn read(message: Option<&v1::TrafficPolicy>) -> Result<Self, Fault> {
        let unset = v1::TrafficPolicy::default();
        let message = message.unwrap_or(&unset);
        let here = Place("");
        let retries = message.retries.clone().unwrap_or_default();
        let retries = Retries::read(Place("retries."), &retries, &Retries::default())?;
        if message.routes.len() > MAX_ROUTES {
            let seen = format!("a list of {}", message.routes.len());
            let expected = format!("at most {MAX_ROUTES}");
            return Err(here.fault("routes", seen, expected, "join routes by their prefixes"));
        }
        let routes = message.routes.iter().enumerate();
        let routes = routes.map(|(n, route)| RoutePolicy::read(n, route, &retries));
        Ok(Self {
            timeout: here.time("timeout", message.timeout_ms, 15_000)?,
            connect_timeout: here.time("connect_timeout", message.connect_timeout_ms, 1000)?,
            outlier: Outlier::read(message.outlier.unwrap_or_default())?,
            breaker: Breaker::read(message.breaker.unwrap_or_default())?,
            hedge: here.hedge(message.hedge)?.filter(|after| !after.is_zero()),
            routes: routes.collect::<Result<_, _>>()?,
            retries,
        })
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 1,
            per_try_timeout: None,
            budget_permille: 200,
            budget_floor: 3,
            statuses: vec![502, 503, 504],
        }
    }
}

impl Retries {
    /// What is absent is as in `base`.
    fn read(at: Place<'_>, message: &v1::Retries, base: &Self) -> Result<Self, Fault> {
        let per_try_timeout = match message.per_try_timeout_ms {
            None => base.per_try_timeout,
            set => Some(at.time("per_try_timeout", set, 0)?),
        };
        let statuses = match &message.statuses {
            None => base.statuses.clone(),
            Some(statuses) => self::statuses(at, &statuses.codes)?,
        };
        let (permille, floor) = (message.budget_permille, message.budget_floor);
        Ok(Self {
            attempts: at.number("attempts", message.attempts, ATTEMPTS, base.attempts)?,
            per_try_timeout,
            budget_permille: at.number(
                "budget_permille",
                permille,
                BUDGET,
                base.budget_permille,
            )?,
            budget_floor: at.number("budget_floor", floor, FLOOR, base.budget_floor)?,
            statuses,
        })
    }
}

fn statuses(at: Place<'_>, codes: &[u32]) -> Result<Vec<u16>, Fault> {
    if codes.len() > MAX_STATUSES {
        let seen = format!("a list of {}", codes.len());
        let expected = format!("at most {MAX_STATUSES}");
        return Err(at.fault(
            "statuses",
            seen,
            expected,
            "name those that a retry may heal",
        ));
    }
    let status = |code: &u32| {
        let status = u16::try_from(*code).ok();
        let status = status.filter(|_| STATUS.contains(code));
        status.ok_or_else(|| {
            let fix = "remove it, or write a status of HTTP such as 503";
            at.fault("statuses", code.to_string(), range(&STATUS), fix)
        })
    };
    codes.iter().map(status).collect()
}

impl Outlier {
    fn read(message: v1::Outlier) -> Result<Self, Fault> {
        let at = Place("outlier.");
        let (failures, percent) = (message.consecutive_failures, message.max_ejected_percent);
        Ok(Self {
            consecutive_failures: at.number("consecutive_failures", failures, COUNT, 5)?,
            ejection: at.time("ejection", message.ejection_ms, 5000)?,
            max_ejected_percent: at.number("max_ejected_percent", percent, PERCENT, 50)?,
        })
    }
}

impl Breaker {
    fn read(message: v1::Breaker) -> Result<Self, Fault> {
        let at = Place("breaker.");
        let count =
            |key: &str, value: Option<u32>, default: u32| at.number(key, value, COUNT, default);
        let permille = message.failure_permille;
        Ok(Self {
            max_connections: count("max_connections", message.max_connections, 1024)?,
            max_requests: count("max_requests", message.max_requests, 1024)?,
            max_pending: count("max_pending", message.max_pending, 1024)?,
            failure_permille: at.number("failure_permille", permille, FAILURES, 500)?,
            min_requests: count("min_requests", message.min_requests, 20)?,
            open: at.time("open", message.open_ms, 5000)?,
        })
    }
}

impl RoutePolicy {
    fn read(number: usize, message: &v1::Route, service_s: &Retries) -> Result<Self, Fault> {
        let place = format!("routes[{number}].");
        let at = Place(&place);
        let deeper = format!("{place}retries.");
        let retries = message.retries.as_ref().map(|retries| {
            let at = Place(&deeper);
            at.no_budget("budget_permille", retries.budget_permille)?;
            at.no_budget("budget_floor", retries.budget_floor)?;
            Retries::read(at, retries, service_s)
        });
        let timeout = message
            .timeout_ms
            .map(|set| at.time("timeout", Some(set), 0));
        Ok(Self {
            method: message
                .method
                .as_deref()
                .map(|text| at.method(text))
                .transpose()?,
            prefix: at.prefix(&message.prefix)?,
            timeout: timeout.transpose()?,
            retries: retries.transpose()?,
            hedge: at.hedge(message.hedge)?,
        })
    }
}

/// What stands before a key.
#[derive(Debug, Clone, Copy)]
struct Place<'a>(&'a str);

impl Place<'_> {
    fn fault(
        self,
        key: &str,
        seen: impl Into<String>,
        expected: impl Into<String>,
        fix: impl Into<String>,
    ) -> Fault {
        Fault {
            key: format!("{}{key}", self.0),
            seen: seen.into(),
            expected: expected.into(),
            fix: fix.into(),
        }
    }

    fn number(
        self,
        key: &str,
        value: Option<u32>,
        within: RangeInclusive<u32>,
        default: u32,
    ) -> Result<u32, Fault> {
        match value {
            None => Ok(default),
            Some(value) if within.contains(&value) => Ok(value),
            Some(value) => {
                let fix =
                    format!("leave `{key}` out for {default}, or choose a value in that range");
                Err(self.fault(key, value.to_string(), range(&within), fix))
            }
        }
    }

    fn time(self, key: &str, value: Option<u32>, default: u32) -> Result<Duration, Fault> {
        let millis = value.unwrap_or(default);
        if value.is_none() || TIME.contains(&millis) {
            return Ok(Duration::from_millis(millis.into()));
        }
        let fix = format!("leave `{key}` out for the default, or choose a time in that range");
        Err(self.fault(key, format!("{millis}ms"), "1ms to 1h", fix))
    }

    fn hedge(self, message: Option<v1::Hedge>) -> Result<Option<Duration>, Fault> {
        let Some(v1::Hedge { after_ms }) = message else {
            return Ok(None);
        };
        if after_ms > *TIME.end() {
            let fix = "leave `hedge_after` out, or choose a time in that range";
            return Err(self.fault("hedge_after", format!("{after_ms}ms"), "0s to 1h", fix));
        }
        Ok(Some(Duration::from_millis(after_ms.into())))
    }

    fn no_budget(self, key: &str, value: Option<u32>) -> Result<(), Fault> {
        let Some(value) = value else {
            return Ok(());
        };
        let expected = "nothing: all routes of a service share its budget";
        let fix = format!(
            "move it to `retries.{key}` of the service; `attempts: 0` switches a route's retries off"
        );
        Err(self.fault(key, value.to_string(), expected, fix))
    }

    /// RFC 9110 §9.1: methods are case-sensitive, and those that exist are in upper case.
    fn method(self, text: &str) -> Result<Method, Fault> {
        let method = Method::from_bytes(text.as_bytes()).ok();
        let method = method.filter(|_| !text.bytes().any(|byte| byte.is_ascii_lowercase()));
        method.ok_or_else(|| {
            let fix = "write it as it is sent, such as GET, or leave `method` out for all";
            self.fault(
                "method",
                format!("`{}`", brief(text)),
                "a method in upper case",
                fix,
            )
        })
    }

    fn prefix(self, text: &str) -> Result<String, Fault> {
        let stray = |byte: u8| byte <= b' ' || byte == 0x7f || byte == b'?' || byte == b'#';
        if text.starts_with('/') && text.len() <= MAX_PREFIX && !text.bytes().any(stray) {
            return Ok(text.to_owned());
        }
        let expected = format!("the begin of a path: a `/`, at most {MAX_PREFIX} bytes, no query");
        let fix = "write it like `/v1/items`";
        Err(self.fault("prefix", format!("`{}`", brief(text)), expected, fix))
    }
}

fn range(range: &RangeInclusive<u32>) -> String {
    format!("{} to {}", range.start(), range.end())
}

/// What is quoted of a text that is refused.
fn brief(text: &str) -> String {
    let quoted: String = text
        .chars()
        .take(QUOTED)
        .flat_map(char::escape_default)
        .collect();
    match text.chars().nth(QUOTED) {
        Some(_) => format!("{quoted}…"),
        None => quoted,
    }
}
