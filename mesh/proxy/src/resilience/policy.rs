//! Which of a service's rules hold for one request.

use std::time::Duration;

use http::Method;
use ringwall_mesh_api::traffic::RoutePolicy;

use crate::snapshot::{Retries, TrafficPolicy};

/// The rules of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// Until the head of the answer, over all attempts.
    pub(crate) timeout: Duration,
    pub(crate) retries: &'a Retries,
    pub(crate) hedge: Option<Duration>,
}

impl<'a> Rules<'a> {
    /// Those of the first route that matches, completed by the service's own. `path` is without the query.
    pub(crate) fn of(traffic: &'a TrafficPolicy, method: &Method, path: &str) -> Self {
        let matches = |route: &&RoutePolicy| {
            route.method.as_ref().is_none_or(|named| named == method)
                && path.starts_with(&route.prefix)
        };
        let route = traffic.routes.iter().find(matches);
        Self {
            timeout: route
                .and_then(|route| route.timeout)
                .unwrap_or(traffic.timeout),
            retries: route
                .and_then(|route| route.retries.as_ref())
                .unwrap_or(&traffic.retries),
            hedge: route
                .and_then(|route| route.hedge)
                .or(traffic.hedge)
                // A route's zero says that there is none.
                .filter(|after| !after.is_zero()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::fixture::traffic;

    #[test]
    fn r30_a_route_can_do_without_what_its_service_has() {
        let mut policy = traffic();
        policy.hedge = Some(Duration::from_millis(50));
        let none = Retries {
            attempts: 0,
            ..policy.retries.clone()
        };
        policy.routes = vec![RoutePolicy {
            method: None,
            prefix: "/pay".to_owned(),
            timeout: None,
            retries: Some(none),
            hedge: Some(Duration::ZERO),
        }];
        let pay = Rules::of(&policy, &Method::GET, "/pay/7");
        assert_eq!((pay.retries.attempts, pay.hedge), (0, None));
        let items = Rules::of(&policy, &Method::GET, "/items");
        assert_eq!((items.retries.attempts, items.hedge), (1, policy.hedge));
    }

    #[test]
    fn r30_the_first_route_that_matches_counts() {
        let mut policy = traffic();
        let route = |method: Option<Method>, prefix: &str, millis: u64| RoutePolicy {
            method,
            prefix: prefix.to_owned(),
            timeout: Some(Duration::from_millis(millis)),
            retries: None,
            hedge: None,
        };
        policy.routes = vec![
            route(Some(Method::GET), "/items", 1),
            route(None, "/items/7", 2),
            route(None, "/pay", 3),
        ];
        let timeout = |method: Method, path| Rules::of(&policy, &method, path).timeout;
        assert_eq!(timeout(Method::GET, "/items/7"), Duration::from_millis(1));
        assert_eq!(timeout(Method::POST, "/items/7"), Duration::from_millis(2));
        assert_eq!(timeout(Method::POST, "/items/8"), policy.timeout);
        assert_eq!(timeout(Method::PUT, "/pay"), Duration::from_millis(3));
        let rules = Rules::of(&policy, &Method::PUT, "/pay");
        assert_eq!(rules.retries, &policy.retries);
    }
}
