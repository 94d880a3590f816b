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

/// principal · action · service · decision · the policy that made it.
/// `+` permitted, `!` forbidden by a policy, `-` denied because no policy permits.
const TABLE: &str = "
alice            catalogue:read       orders         + anyone-reads-the-catalogue
alice            order:list           orders         + customers-read-own-orders
alice            order:read           orders         + customers-read-own-orders
alice            order:place          orders         + customers-place-orders
alice            notification:list    notifications  + customers-see-notifications
alice            notification:stream  notifications  + customers-see-notifications

# the right action at the wrong service
alice            order:place          payments       -
alice            order:place          notifications  -
alice            notification:list    orders         -

# a role without the scope, and a scope without the role
alice-reads      order:place          orders         -
alice-no-scope   order:list           orders         -
mallory          order:place          orders         -
mallory          order:list           orders         -
mallory          notification:list    notifications  -
mallory          catalogue:read       orders         + anyone-reads-the-catalogue

# roles are whole words
role-customers   order:place          orders         -
role-Customer    order:place          orders         -
admin            order:list           orders         + customers-read-own-orders
admin            order:place          orders         -

# a client for itself is no user, whatever its scopes are
client-reads     order:list           orders         + partners-list-orders
client-reads     order:read           orders         -
client-all       order:place          orders         -
client-none      order:list           orders         -
gateway          order:read           orders         + gateway-probes
gateway          order:place          orders         -
payments         order:read           orders         -
anonymous        catalogue:read       orders         -
anonymous        order:place          orders         -

# attributes of the sign-in
native-strong    order:place          orders         + customers-place-orders
native-weak      order:place          orders         ! native-clients-do-not-write-without-strong-sign-in
native-unknown   order:place          orders         ! native-clients-do-not-write-without-strong-sign-in
native-unknown   order:list           orders         + customers-read-own-orders
";

const ALL: &[&str] = &["orders:read", "orders:write", "notifications:read"];

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn user(role: &str, scopes: &[&str]) -> Principal {
    Principal::User {
        sub: "1f0c".to_owned(),
        client: "spa-proxy".to_owned(),
        roles: vec![role.to_owned()],
        scopes: owned(scopes),
        acr: None,
    }
}

fn native(acr: Option<&str>) -> Principal {
    Principal::User {
        sub: "1f0c".to_owned(),
        client: "demo-native".to_owned(),
        roles: owned(&["customer"]),
        scopes: owned(ALL),
        acr: acr.map(str::to_owned),
    }
}

fn client(scopes: &[&str]) -> Principal {
    Principal::Client {
        id: "demo-partner".to_owned(),
        scopes: owned(scopes),
    }
}

fn principal(name: &str) -> Principal {
    match name {
        "alice" => user("customer", ALL),
        "alice-reads" => user("customer", &["orders:read"]),
        "alice-no-scope" => user("customer", &[]),
        "mallory" => user("", ALL),
        "role-customers" => user("customers", ALL),
        "role-Customer" => user("Customer", ALL),
        "admin" => user("admin", ALL),
        "client-reads" => client(&["orders:read"]),
        "client-all" => client(ALL),
        "client-none" => client(&[]),
        "native-strong" => native(Some("urn:ringwall:acr:2")),
        "native-weak" => native(Some("urn:ringwall:acr:1")),
        "native-unknown" => native(None),
        "anonymous" => Principal::Anonymous,
        workload => Principal::Workload {
            spiffe_id: format!("spiffe://ringwall.local/{workload}"),
        },
    }
}

struct Row {
    line: &'static str,
    request: Request,
    outcome: Outcome,
    reasons: Vec<&'static str>,
}

fn rows(source: &str) -> Vec<Row> {
    let lines = TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &'static str| {
        let mut columns = line.split_whitespace();
        let mut next = || columns.next().expect("a row has at least four columns");
        let (name, action, service, decision) = (next(), next(), next(), next());
        let outcome = match decision {
            "+" => Outcome::Permitted,
            "!" => Outcome::Forbidden,
            _ => Outcome::NoPermit,
        };
        let resource = Resource::Route {
            id: format!("{service}-{action}"),
            service: service.to_owned(),
            host: "api.localhost".to_owned(),
        };
        let request = Request {
            principal: principal(name),
            action: action.to_owned(),
            resource,
            context: json!({ "source": source }),
        };
        Row {
            line,
            request,
            outcome,
            reasons: columns.collect(),
        }
    };
    lines.map(row).collect()
}

fn engine() -> PolicyEngine {
    PolicyEngine::compile(&[PolicySource::new("decision_table.cedar", POLICIES)])
        .expect("the policies of the table are valid")
}

#[test]
fn r49_every_row_of_the_decision_table() {
    let engine = engine();
    assert!(engine.warnings().is_empty(), "{:?}", engine.warnings());
    for row in rows("198.51.100.7") {
        let decision = engine.decide(&row.request);
        assert_eq!(decision.outcome, row.outcome, "{}: {decision:?}", row.line);
        assert_eq!(decision.reasons, row.reasons, "{}", row.line);
        assert_eq!(
            decision.allowed,
            row.outcome == Outcome::Permitted,
            "{}",
            row.line
        );
        // The same question has the same answer: the gateway caches it per token.
        assert_eq!(decision, engine.decide(&row.request), "{}", row.line);
    }
}

#[test]
fn r49_a_forbidding_attribute_turns_every_row_into_a_denial() {
    let engine = engine();
    for row in rows("203.0.113.9") {
        let decision = engine.decide(&row.request);
        assert_eq!(decision.outcome, Outcome::Forbidden, "{}", row.line);
        let reason = "nobody-from-the-test-network".to_owned();
        assert!(decision.reasons.contains(&reason), "{}", row.line);
    }
}
