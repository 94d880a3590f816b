//! Step 4: may they?
//!
//! Owns: [`Authorized`], which nothing else can make, and the question put to the policy engine. A decision depends
//! on principal, route and method alone, so that it is made once per token, route, method and snapshot.
//! Must not: let a policy see what varies per request (path parameters, addresses): the cache would lie.

use http::Method;
use ringwall_policy::{Principal, Request, Resource};
use serde_json::json;

use super::authenticate::Authenticated;
use crate::refusal::Refusal;
use crate::snapshot::{PolicyVerdict, Route};
use crate::token_cache::VerifiedToken;

/// Evidence: the route's policy permits this principal. `forward` takes nothing less.
#[derive(Debug)]
pub(crate) struct Authorized {
    authenticated: Authenticated,
}

impl Authorized {
    pub(crate) fn route(&self) -> &Route {
        self.authenticated.routed.route()
    }

    pub(crate) fn token(&self) -> Option<&VerifiedToken> {
        self.authenticated.token.as_deref()
    }
}

pub(crate) fn authorize(authenticated: Authenticated) -> Result<Authorized, Refusal> {
    let routed = &authenticated.routed;
    let verdict = match (&authenticated.token, &routed.anonymous) {
        (Some(token), _) => token.decision(routed.decision_key, || {
            let kind = token.kind.as_str();
            decide(
                routed.route(),
                &authenticated.method,
                token.principal.clone(),
                kind,
            )
        }),
        (None, Some(anonymous)) => anonymous.clone(),
        (None, None) => return Err(Refusal::TokenMissing),
    };
    if verdict.allowed {
        Ok(Authorized { authenticated })
    } else {
        Err(Refusal::Denied(verdict.reason))
    }
}

/// The decision on a request without a token; made when the route is compiled.
pub(crate) fn decide_anonymous(route: &Route, method: &Method) -> PolicyVerdict {
    decide(route, method, Principal::Anonymous, "none")
}

fn decide(
    route: &Route,
    method: &Method,
    principal: Principal,
    authentication: &str,
) -> PolicyVerdict {
    let decision = route.policy.decide(&Request {
        principal,
        action: route.action.to_string(),
        resource: Resource::Route {
            id: route.id.to_string(),
            service: route.cluster.name.to_string(),
            host: route.host.to_string(),
        },
        context: json!({ "method": method.as_str(), "authentication": authentication }),
    });
    let reasons = if decision.errors.is_empty() {
        decision.reasons
    } else {
        decision.errors
    };
    let reason = if reasons.is_empty() {
        "no policy permits".to_owned()
    } else {
        reasons.join(", ")
    };
    PolicyVerdict {
        allowed: decision.allowed,
        reason: reason.into(),
    }
}
