//! R49: the decision table. Each row is one question with the policy that answers it.

use ringwall_policy::{Outcome, PolicyEngine, PolicySource, Principal, Request, Resource};
use serde_json::json;

/// Roles (RBAC) and attributes (ABAC) as the demo system uses them.
const POLICIES: &str = r#"
@id("anyone-reads-the-catalogue")
permit (principal is User, action == Action::"catalogue:read", resource)
when { resource.service == "orders" };

@id("customers-read-own-orders")
permit (
    principal is User,
    action in [Action::"order:list", Action::"order:read"],
    resource
)
when {
    resource.service == "orders" &&
    principal.roles.containsAny(["customer", "admin"]) &&
    principal.scopes.contains("orders:read")
};

@id("customers-place-orders")
permit (principal is User, action == Action::"order:place", resource)
when {
    resource.service == "orders" &&
    principal.roles.contains("customer") &&
    principal.scopes.contains("orders:write")
};

@id("partners-list-orders")
permit (principal is Client, action == Action::"order:list", resource)
when { principal.scopes.contains("orders:read") };

@id("customers-see-notifications")
permit (
    principal is User,
    action in [Action::"notification:list", Action::"notification:stream"],
    resource
)
when {
    resource.service == "notifications" &&
    principal.roles.contains("customer") &&
    principal.scopes.contains("notifications:read")
};

@id("gateway-probes")
permit (principal is Workload, action in Action::"read", resource)
when { principal.spiffe_id == "spiffe://ringwall.local/gateway" };

@id("native-clients-do-not-write-without-strong-sign-in")
forbid (principal is User, action in Action::"write", resource)
when { principal.client == "demo-native" }
unless { principal has acr && principal.acr == "urn:ringwall:acr:2" };

@id("nobody-from-the-test-network")
forbid (principal, action, resource)
when { context has source && context.source.isInRange(ip("203.0.113.0/24")) };
"#;

const ALL_SCOPES: &[&str] = &["orders:read", "orders:write", "notifications:read"];

fn user(sub: &str, roles: &[&str], scopes: &[&str]) -> Principal {
    native(sub, roles, scopes, "spa-proxy", None)
}

fn native(
    sub: &str,
    roles: &[&str],
    scopes: &[&str],
    client: &str,
    acr: Option<&str>,
) -> Principal {
    let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    Principal::User {
        sub: sub.to_owned(),
        client: client.to_owned(),
        roles: owned(roles),
        scopes: owned(scopes),
        acr: acr.map(str::to_owned),
    }
}

fn client(scopes: &[&str]) -> Principal {
    let scopes = scopes.iter().map(ToString::to_string).collect();
    Principal::Client {
        id: "demo-partner".to_owned(),
        scopes,
    }
}

fn workload(name: &str) -> Principal {
    Principal::Workload {
        spiffe_id: format!("spiffe://ringwall.local/{name}"),
    }
}

/// (principal, action, service, reasons): no reason stands for the default, which denies; a reason
/// that starts with `!` is a forbid.
type Row = (
    Principal,
    &'static str,
    &'static str,
    &'static [&'static str],
);

fn rows() -> Vec<Row> {
    let alice = || user("alice", &["customer"], ALL_SCOPES);
    let mallory = || user("mallory", &[], ALL_SCOPES);
    let admin = || user("admin", &["admin"], ALL_SCOPES);
    let native_alice = |acr| native("alice", &["customer"], ALL_SCOPES, "demo-native", acr);
    vec![
        (
            alice(),
            "catalogue:read",
            "orders",
            &["anyone-reads-the-catalogue"],
        ),
        (
            alice(),
            "order:list",
            "orders",
            &["customers-read-own-orders"],
        ),
        (
            alice(),
            "order:read",
            "orders",
            &["customers-read-own-orders"],
        ),
        (
            alice(),
            "order:place",
            "orders",
            &["customers-place-orders"],
        ),
        (
            alice(),
            "notification:list",
            "notifications",
            &["customers-see-notifications"],
        ),
        (
            alice(),
            "notification:stream",
            "notifications",
            &["customers-see-notifications"],
        ),
        // The right action at the wrong service.
        (alice(), "order:place", "payments", &[]),
        (alice(), "order:place", "notifications", &[]),
        (alice(), "notification:list", "orders", &[]),
        // A role without the scope, and a scope without the role.
        (
            user("alice", &["customer"], &["orders:read"]),
            "order:place",
            "orders",
            &[],
        ),
        (
            user("alice", &["customer"], &[]),
            "order:list",
            "orders",
            &[],
        ),
        (mallory(), "order:place", "orders", &[]),
        (mallory(), "order:list", "orders", &[]),
        (mallory(), "notification:list", "notifications", &[]),
        (
            mallory(),
            "catalogue:read",
            "orders",
            &["anyone-reads-the-catalogue"],
        ),
        // Roles are whole words.
        (
            user("x", &["customers"], ALL_SCOPES),
            "order:place",
            "orders",
            &[],
        ),
        (
            user("x", &["Customer"], ALL_SCOPES),
            "order:place",
            "orders",
            &[],
        ),
        (
            user("x", &["customer "], ALL_SCOPES),
            "order:place",
            "orders",
            &[],
        ),
        (
            admin(),
            "order:list",
            "orders",
            &["customers-read-own-orders"],
        ),
        (admin(), "order:place", "orders", &[]),
        // A client for itself is no user, whatever its scopes are.
        (
            client(&["orders:read"]),
            "order:list",
            "orders",
            &["partners-list-orders"],
        ),
        (client(&["orders:read"]), "order:read", "orders", &[]),
        (client(ALL_SCOPES), "order:place", "orders", &[]),
        (client(&[]), "order:list", "orders", &[]),
        (
            workload("gateway"),
            "order:read",
            "orders",
            &["gateway-probes"],
        ),
        (workload("gateway"), "order:place", "orders", &[]),
        (workload("payments"), "order:read", "orders", &[]),
        (Principal::Anonymous, "catalogue:read", "orders", &[]),
        (Principal::Anonymous, "order:place", "orders", &[]),
        // Attributes of the sign-in.
        (
            native_alice(Some("urn:ringwall:acr:2")),
            "order:place",
            "orders",
            &["customers-place-orders"],
        ),
        (
            native_alice(Some("urn:ringwall:acr:1")),
            "order:place",
            "orders",
            &["!native-clients-do-not-write-without-strong-sign-in"],
        ),
        (
            native_alice(None),
            "order:place",
            "orders",
            &["!native-clients-do-not-write-without-strong-sign-in"],
        ),
        (
            native_alice(None),
            "order:list",
            "orders",
            &["customers-read-own-orders"],
        ),
    ]
}

fn request((principal, action, service, _): &Row, context: serde_json::Value) -> Request {
    Request {
        principal: principal.clone(),
        action: (*action).to_owned(),
        resource: Resource::Route {
            id: format!("{service}-{action}"),
            service: (*service).to_owned(),
            host: "api.localhost".to_owned(),
        },
        context,
    }
}

fn engine() -> PolicyEngine {
    PolicyEngine::compile(&[PolicySource::new("decision_table.cedar", POLICIES)]).unwrap()
}

#[test]
fn r49_every_row_of_the_decision_table() {
    let engine = engine();
    assert!(engine.warnings().is_empty(), "{:?}", engine.warnings());
    for row in rows() {
        let decision = engine.decide(&request(&row, json!({"source": "198.51.100.7"})));
        let expected: Vec<&str> = row.3.iter().map(|id| id.trim_start_matches('!')).collect();
        let outcome = match row.3.first() {
            None => Outcome::NoPermit,
            Some(id) if id.starts_with('!') => Outcome::Forbidden,
            Some(_) => Outcome::Permitted,
        };
        assert_eq!(decision.outcome, outcome, "{row:?}: {decision:?}");
        assert_eq!(decision.reasons, expected, "{row:?}");
        assert_eq!(decision.allowed, outcome == Outcome::Permitted, "{row:?}");
        // The same question has the same answer: the gateway caches it per token.
        assert_eq!(
            decision,
            engine.decide(&request(&row, json!({"source": "198.51.100.7"})))
        );
    }
}

#[test]
fn r49_a_forbidding_attribute_turns_every_row_into_a_denial() {
    let engine = engine();
    for row in rows() {
        let decision = engine.decide(&request(&row, json!({"source": "203.0.113.9"})));
        assert!(!decision.allowed, "{row:?}");
        assert!(
            decision
                .reasons
                .contains(&"nobody-from-the-test-network".to_owned()),
            "{row:?}"
        );
    }
}
