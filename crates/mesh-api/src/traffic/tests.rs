use proptest::option::of;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

/// What a proxy makes of it at the other end of the wire.
fn told(config: &TrafficConfig) -> Result<TrafficPolicy, Fault> {
    let message = config.wire().map(|message| message.encode_to_vec());
    let message = message.map(|bytes| v1::TrafficPolicy::decode(bytes.as_slice()).unwrap());
    TrafficPolicy::read(message.as_ref())
}

fn declared(json: &str) -> TrafficConfig {
    serde_json::from_str(json).unwrap()
}

fn refused(json: &str) -> Fault {
    declared(json).policy().unwrap_err()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let policy = TrafficConfig::default().policy().unwrap();
    assert_eq!(policy, TrafficPolicy::read(None).unwrap());
    assert_eq!(policy.timeout, Duration::from_secs(15));
    assert_eq!(policy.connect_timeout, Duration::from_secs(1));
    assert_eq!(policy.retries.attempts, 1);
    assert_eq!(policy.retries.budget_permille, 200);
    assert_eq!(policy.retries.budget_floor, 3);
    assert_eq!(policy.retries.statuses, [502, 503, 504]);
    assert_eq!(policy.retries.per_try_timeout, None);
    assert_eq!(policy.outlier.consecutive_failures, 5);
    assert_eq!(policy.outlier.ejection, Duration::from_secs(5));
    assert_eq!(policy.outlier.max_ejected_percent, 50);
    assert_eq!(policy.breaker.max_requests, 1024);
    assert_eq!(policy.breaker.failure_permille, 500);
    assert_eq!(policy.breaker.min_requests, 20);
    assert_eq!(policy.breaker.open, Duration::from_secs(5));
    assert_eq!(policy.hedge, None);
}

#[test]
fn r30_retries_and_their_budget_can_be_switched_off() {
    let off = declared(r#"{"retries": {"attempts": 0}}"#);
    assert_eq!(told(&off).unwrap().retries.attempts, 0);
    let empty =
        declared(r#"{"retries": {"budget_permille": 0, "budget_floor": 0, "statuses": []}}"#);
    let retries = told(&empty).unwrap().retries;
    assert_eq!(retries.attempts, 1);
    assert_eq!((retries.budget_permille, retries.budget_floor), (0, 0));
    assert_eq!(retries.statuses, [0u16; 0]);
}

#[test]
fn r30_a_route_says_only_what_differs_from_its_service() {
    let config = declared(
        r#"{"retries": {"attempts": 3, "statuses": [503]}, "hedge_after": "50ms", "routes": [
            {"prefix": "/pay", "retries": {"attempts": 0}, "hedge_after": "0s"},
            {"prefix": "/items", "retries": {"per_try_timeout": "1s"}},
            {"prefix": "/"}]}"#,
    );
    let policy = told(&config).unwrap();
    let retries = |n: usize| policy.routes[n].retries.as_ref();
    assert_eq!(retries(0).unwrap().attempts, 0);
    assert_eq!(policy.routes[0].hedge, Some(Duration::ZERO));
    let items = retries(1).unwrap();
    assert_eq!((items.attempts, items.statuses.as_slice()), (3, &[503][..]));
    assert_eq!(items.per_try_timeout, Some(Duration::from_secs(1)));
    assert_eq!((retries(2), policy.routes[2].hedge), (None, None));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_fault_says_what_was_seen_what_was_expected_and_the_fix() {
    let fault = refused(r#"{"retries": {"attempts": 11}}"#);
    assert_eq!(
        fault.to_string(),
        "retries.attempts is 11, expected 0 to 10; fix: leave `attempts` out for 1, or choose a value in that range"
    );
    for (json, key, seen) in [
        (r#"{"timeout": "0s"}"#, "timeout", "0ms"),
        (r#"{"timeout": "61m"}"#, "timeout", "3660000ms"),
        (r#"{"connect_timeout": "0s"}"#, "connect_timeout", "0ms"),
        (r#"{"hedge_after": "2h"}"#, "hedge_after", "7200000ms"),
        (
            r#"{"retries": {"statuses": [99]}}"#,
            "retries.statuses",
            "99",
        ),
        (
            r#"{"retries": {"budget_permille": 1001}}"#,
            "retries.budget_permille",
            "1001",
        ),
        (
            r#"{"retries": {"budget_floor": 1000001}}"#,
            "retries.budget_floor",
            "1000001",
        ),
        (
            r#"{"retries": {"per_try_timeout": "0s"}}"#,
            "retries.per_try_timeout",
            "0ms",
        ),
        (
            r#"{"outlier": {"consecutive_failures": 0}}"#,
            "outlier.consecutive_failures",
            "0",
        ),
        (
            r#"{"outlier": {"max_ejected_percent": 101}}"#,
            "outlier.max_ejected_percent",
            "101",
        ),
        (
            r#"{"outlier": {"ejection": "0s"}}"#,
            "outlier.ejection",
            "0ms",
        ),
        (
            r#"{"breaker": {"max_requests": 0}}"#,
            "breaker.max_requests",
            "0",
        ),
        (
            r#"{"breaker": {"failure_permille": 1001}}"#,
            "breaker.failure_permille",
            "1001",
        ),
        (
            r#"{"breaker": {"open": "2h"}}"#,
            "breaker.open",
            "7200000ms",
        ),
        (
            r#"{"routes": [{"prefix": "v1"}]}"#,
            "routes[0].prefix",
            "`v1`",
        ),
        (
            r#"{"routes": [{"prefix": "/"}, {"prefix": "/a?b"}]}"#,
            "routes[1].prefix",
            "`/a?b`",
        ),
        (
            r#"{"routes": [{"prefix": "/", "method": "get"}]}"#,
            "routes[0].method",
            "`get`",
        ),
        (
            r#"{"routes": [{"prefix": "/", "method": ""}]}"#,
            "routes[0].method",
            "``",
        ),
        (
            r#"{"routes": [{"prefix": "/", "timeout": "0s"}]}"#,
            "routes[0].timeout",
            "0ms",
        ),
        (
            r#"{"routes": [{"prefix": "/", "retries": {"attempts": 11}}]}"#,
            "routes[0].retries.attempts",
            "11",
        ),
        (
            r#"{"routes": [{"prefix": "/", "retries": {"budget_floor": 0}}]}"#,
            "routes[0].retries.budget_floor",
            "0",
        ),
    ] {
        let fault = refused(json);
        assert_eq!(
            (fault.key.as_str(), fault.seen.as_str()),
            (key, seen),
            "{json}"
        );
        assert!(
            !fault.expected.is_empty() && !fault.fix.is_empty(),
            "{json}"
        );
    }
}

#[test]
fn lists_have_an_end() {
    let route = || {
        declared(r#"{"routes": [{"prefix": "/"}]}"#)
            .routes
            .remove(0)
    };
    let routes = vec![route(); 257];
    let config = TrafficConfig {
        routes,
        ..TrafficConfig::default()
    };
    assert_eq!(config.policy().unwrap_err().seen, "a list of 257");
    let statuses = Some(vec![503; 33]);
    let retries = Some(RetriesConfig {
        statuses,
        ..RetriesConfig::default()
    });
    let config = TrafficConfig {
        retries,
        ..TrafficConfig::default()
    };
    assert_eq!(config.policy().unwrap_err().key, "retries.statuses");
    let prefix = format!("/{}", "x".repeat(1024));
    let config = TrafficConfig {
        routes: vec![RouteConfig { prefix, ..route() }],
        ..TrafficConfig::default()
    };
    assert_eq!(config.policy().unwrap_err().key, "routes[0].prefix");
}

/// Mostly within the ranges, at times beyond either end.
fn time() -> impl Strategy<Value = Option<Duration>> {
    of((0u64..3_700_000).prop_map(Duration::from_millis))
}

fn retries() -> impl Strategy<Value = Option<RetriesConfig>> {
    let statuses = of(proptest::collection::vec(90u16..610, 0..4));
    let all = (
        of(0u32..12),
        time(),
        of(0u32..1100),
        of(0u32..1_000_100),
        statuses,
    );
    of(all.prop_map(
        |(attempts, per_try_timeout, budget_permille, budget_floor, statuses)| RetriesConfig {
            attempts,
            per_try_timeout,
            budget_permille,
            budget_floor,
            statuses,
        },
    ))
}

fn route() -> impl Strategy<Value = RouteConfig> {
    let method = of(prop_oneof!["GET", "POST", "get", "A B"]);
    let prefix = prop_oneof!["/[a-z0-9/]{0,12}", "[a-z/?]{0,6}"];
    (method, prefix, time(), retries(), time()).prop_map(
        |(method, prefix, timeout, retries, hedge_after)| RouteConfig {
            method,
            prefix,
            timeout,
            retries,
            hedge_after,
        },
    )
}

fn outlier() -> impl Strategy<Value = Option<OutlierConfig>> {
    let all = (of(0u32..10), time(), of(0u32..110));
    of(all.prop_map(
        |(consecutive_failures, ejection, max_ejected_percent)| OutlierConfig {
            consecutive_failures,
            ejection,
            max_ejected_percent,
        },
    ))
}

fn breaker() -> impl Strategy<Value = Option<BreakerConfig>> {
    let count = || of(0u32..1_000_100);
    let all = (count(), count(), count(), of(0u32..1100), count(), time());
    of(all.prop_map(
        |(max_connections, max_requests, max_pending, failure_permille, min_requests, open)| {
            BreakerConfig {
                max_connections,
                max_requests,
                max_pending,
                failure_permille,
                min_requests,
                open,
            }
        },
    ))
}

fn config() -> impl Strategy<Value = TrafficConfig> {
    let routes = proptest::collection::vec(route(), 0..3);
    (
        time(),
        time(),
        retries(),
        outlier(),
        breaker(),
        time(),
        routes,
    )
        .prop_map(
            |(timeout, connect_timeout, retries, outlier, breaker, hedge_after, routes)| {
                TrafficConfig {
                    timeout,
                    connect_timeout,
                    retries,
                    outlier,
                    breaker,
                    hedge_after,
                    routes,
                }
            },
        )
}

proptest! {
    /// What is declared survives the file that it is rendered to, and the wire: what is accepted where it is declared is
    /// accepted at the other end with the same meaning, and what is refused is refused for the same reason.
    #[test]
    fn a_declaration_means_the_same_at_both_ends(config in config()) {
        let text = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(&declared(&text), &config);
        let policy = config.policy();
        prop_assert_eq!(&told(&config), &policy);
        let Ok(policy) = policy else { return Ok(()) };
        prop_assert_eq!(policy.timeout, config.timeout.unwrap_or(Duration::from_secs(15)));
        let said = config.retries.clone().unwrap_or_default();
        prop_assert_eq!(policy.retries.attempts, said.attempts.unwrap_or(1));
        prop_assert_eq!(policy.retries.budget_permille, said.budget_permille.unwrap_or(200));
        prop_assert_eq!(policy.retries.budget_floor, said.budget_floor.unwrap_or(3));
        prop_assert_eq!(policy.retries.per_try_timeout, said.per_try_timeout);
        prop_assert_eq!(&policy.retries.statuses, &said.statuses.unwrap_or_else(|| vec![502, 503, 504]));
        for (route, declared) in policy.routes.iter().zip(&config.routes) {
            prop_assert_eq!(route.timeout, declared.timeout);
            prop_assert_eq!(route.hedge, declared.hedge_after);
            let attempts = declared.retries.as_ref().map(|own| own.attempts.unwrap_or(policy.retries.attempts));
            prop_assert_eq!(route.retries.as_ref().map(|own| own.attempts), attempts);
        }
    }

    /// Whatever anybody sends.
    #[test]
    fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = v1::TrafficPolicy::decode(bytes.as_slice()) {
            let _ = TrafficPolicy::read(Some(&message));
        }
    }
}
