//! Denial by default, errors as denials, and what the schema refuses.

use serde_json::json;

use super::*;
use crate::{ActionClass, ActionDecl, Principal, Resource};

fn engine(policies: &str) -> PolicyEngine {
    PolicyEngine::compile(&[PolicySource::new("test.cedar", policies)]).unwrap()
}

fn faults(policies: &str) -> Vec<Fault> {
    match PolicyEngine::compile(&[PolicySource::new("test.cedar", policies)]) {
        Ok(_) => panic!("compiled: {policies}"),
        Err(error) => error.faults().to_vec(),
    }
}

fn user(roles: &[&str]) -> Principal {
    Principal::User {
        sub: "alice".to_owned(),
        client: "spa-proxy".to_owned(),
        roles: roles.iter().map(ToString::to_string).collect(),
        scopes: vec!["orders:write".to_owned()],
        acr: None,
    }
}

fn ask(principal: Principal, action: &str, context: serde_json::Value) -> Request {
    Request {
        principal,
        action: action.to_owned(),
        resource: Resource::Route {
            id: "orders".to_owned(),
            service: "orders".to_owned(),
            host: "api.localhost".to_owned(),
        },
        context,
    }
}

const PERMIT_ALL: &str = r#"@id("all") permit (principal, action, resource);"#;

#[test]
fn r56_without_a_policy_everything_is_denied() {
    let none = PolicyEngine::compile(&[]).unwrap();
    for action in ["order:place", "order:read", "catalogue:read"] {
        let decision = none.decide(&ask(user(&["admin"]), action, json!({})));
        assert!(!decision.allowed);
        assert_eq!(decision.outcome, Outcome::NoPermit);
        assert!(decision.reasons.is_empty());
    }
}

#[test]
fn r56_an_undeclared_action_is_denied_even_when_everything_is_permitted() {
    let engine = engine(PERMIT_ALL);
    for action in [
        "order:destroy",
        "",
        "Action::\"order:place\"",
        "read",
        "write",
    ] {
        let decision = engine.decide(&ask(user(&[]), action, json!({})));
        assert!(!decision.allowed, "{action}");
        assert_eq!(decision.outcome, Outcome::Error, "{action}");
    }
}

#[test]
fn r56_a_policy_with_an_undeclared_action_does_not_load() {
    let policy =
        "\n@id(\"typo\")\npermit (principal, action == Action::\"order:plaace\", resource);";
    let faults = faults(policy);
    assert_eq!((faults[0].file.as_str(), faults[0].line), ("test.cedar", 3));
    assert!(faults[0].message.contains("order:plaace"), "{}", faults[0]);
}

#[test]
fn declared_actions_extend_the_schema_with_their_class() {
    let declared = [
        ActionDecl::new("report:read", ActionClass::Read),
        ActionDecl::new("report:delete", ActionClass::Admin),
        ActionDecl::new("report:read", ActionClass::Read),
        ActionDecl::new("order:place", ActionClass::Write),
    ];
    let policies = [PolicySource::new(
        "test.cedar",
        r#"@id("readers") permit (principal is User, action in Action::"read", resource);"#,
    )];
    let engine = PolicyEngine::compile_with_actions(&policies, &declared).unwrap();
    let allowed = |action| engine.decide(&ask(user(&[]), action, json!({}))).allowed;
    assert!(allowed("report:read"));
    assert!(allowed("order:read"));
    assert!(!allowed("report:delete"));
    assert!(!allowed("order:place"));
}

#[test]
fn bad_declarations_are_refused() {
    for (name, class) in [
        ("", ActionClass::Read),
        ("Order", ActionClass::Read),
        ("a\" appliesTo {}; entity X; action \"b", ActionClass::Read),
        (&"x".repeat(65), ActionClass::Read),
        ("read", ActionClass::Read),
        ("order:place", ActionClass::Read),
    ] {
        let declared = [ActionDecl::new(name, class)];
        let result = PolicyEngine::compile_with_actions(&[], &declared);
        assert!(matches!(result, Err(PolicyError::Action { .. })), "{name}");
    }
    let twice = [
        ActionDecl::new("x", ActionClass::Read),
        ActionDecl::new("x", ActionClass::Write),
    ];
    assert!(PolicyEngine::compile_with_actions(&[], &twice).is_err());
}

#[test]
fn an_error_in_any_evaluated_policy_denies() {
    // Integer overflow is the one error that strict validation cannot exclude.
    let engine = engine(
        r#"@id("all") permit (principal, action, resource);
           @id("fails") forbid (principal, action, resource)
           when { 9223372036854775807 + 1 > 0 };"#,
    );
    let decision = engine.decide(&ask(user(&[]), "order:read", json!({})));
    assert!(!decision.allowed);
    assert_eq!(decision.outcome, Outcome::Error);
    assert!(
        decision.errors[0].contains("fails"),
        "{:?}",
        decision.errors
    );
}

#[test]
fn a_malformed_context_denies() {
    let engine = engine(PERMIT_ALL);
    for context in [
        json!({"unknown": 1}),
        json!({"method": 1}),
        json!({"method": ["GET"]}),
        json!({"source": "not an address"}),
        json!([]),
        json!("GET"),
        json!(1),
    ] {
        let decision = engine.decide(&ask(user(&[]), "order:read", context.clone()));
        assert_eq!(decision.outcome, Outcome::Error, "{context}");
        assert!(!decision.allowed, "{context}");
    }
    for context in [
        json!(null),
        json!({}),
        json!({"method": "GET", "source": "192.0.2.1"}),
    ] {
        assert!(
            engine
                .decide(&ask(user(&[]), "order:read", context))
                .allowed
        );
    }
}

#[test]
fn context_attributes_decide() {
    let engine = engine(
        r#"@id("inside") permit (principal, action, resource)
           when { context has source && context.source.isInRange(ip("10.0.0.0/8")) };"#,
    );
    let allowed = |context| engine.decide(&ask(Principal::Anonymous, "catalogue:read", context));
    assert!(allowed(json!({"source": "10.1.2.3"})).allowed);
    assert!(!allowed(json!({"source": "192.0.2.1"})).allowed);
    assert!(!allowed(json!({"source": "::ffff:10.1.2.3"})).allowed);
    assert!(!allowed(json!({})).allowed);
}

#[test]
fn a_forbid_wins_and_all_its_reasons_are_named() {
    let engine = engine(
        r#"@id("all") permit (principal, action, resource);
           @id("b-no-mallory") forbid (principal is User, action, resource)
           when { principal.sub == "alice" };
           @id("a-no-writes") forbid (principal, action in Action::"write", resource);"#,
    );
    let decision = engine.decide(&ask(user(&[]), "order:place", json!({})));
    assert_eq!(decision.outcome, Outcome::Forbidden);
    assert_eq!(decision.reasons, ["a-no-writes", "b-no-mallory"]);
}

#[test]
fn faults_carry_file_and_line() {
    let cases: &[(&str, usize, &str)] = &[
        ("\n\npermit (principal, action, resource", 3, ""),
        ("permit (principal, action, resource);", 1, "@id"),
        ("@id(\"\")\npermit (principal, action, resource);", 1, "@id"),
        (
            "@id(\"x\") permit (principal, action, resource);\n\
             @id(\"x\") permit (principal, action, resource);",
            2,
            "already used",
        ),
        (
            "@id(\"t\") permit (principal == ?principal, action, resource);",
            1,
            "template",
        ),
        (
            "@id(\"x\") permit (principal is Robot, action, resource);",
            1,
            "Robot",
        ),
        (
            "@id(\"x\")\npermit (principal is User, action, resource)\nwhen { principal.age > 3 };",
            3,
            "age",
        ),
        // `acr` may be absent, so a policy must ask first.
        (
            "@id(\"x\") permit (principal is User, action, resource)\nwhen { principal.acr == \"2\" };",
            2,
            "acr",
        ),
        // Not every principal has roles.
        (
            "@id(\"x\") permit (principal, action, resource)\nwhen { principal.roles.contains(\"a\") };",
            2,
            "roles",
        ),
        (
            "@id(\"x\") permit (principal is User, action, resource)\nwhen { principal.sub > 3 };",
            2,
            "",
        ),
    ];
    for (policy, line, word) in cases {
        let faults = faults(policy);
        assert_eq!(faults[0].line, *line, "{policy}: {}", faults[0]);
        assert!(faults[0].message.contains(word), "{policy}: {}", faults[0]);
    }
}

#[test]
fn all_faults_of_all_files_are_reported_at_once() {
    let error = PolicyEngine::compile(&[
        PolicySource::new("a.cedar", "permit (principal, action, resource);"),
        PolicySource::new("b.cedar", "\nnonsense"),
        PolicySource::new("c.cedar", "\n\npermit (principal, action, resource);"),
    ])
    .err()
    .unwrap();
    let places: Vec<_> = error
        .faults()
        .iter()
        .map(|f| (f.file.as_str(), f.line))
        .collect();
    assert_eq!(places, [("a.cedar", 1), ("b.cedar", 2), ("c.cedar", 3)]);
    assert!(error.to_string().contains("b.cedar:2: "), "{error}");
}

#[test]
fn one_id_in_two_files_is_refused() {
    let policy = "@id(\"x\") permit (principal, action, resource);";
    let error = PolicyEngine::compile(&[
        PolicySource::new("a.cedar", policy),
        PolicySource::new("b.cedar", policy),
    ])
    .err()
    .unwrap();
    assert_eq!(error.faults()[0].file, "b.cedar");
    assert!(error.to_string().contains("a.cedar"), "{error}");
}

#[test]
fn a_policy_that_can_never_apply_is_a_warning() {
    let engine = engine(
        r#"@id("never") permit (principal is User, action, resource)
           when { principal has nothing };"#,
    );
    assert_eq!(engine.warnings().len(), 1, "{:?}", engine.warnings());
    assert_eq!(engine.warnings()[0].file, "test.cedar");
}

static CUSTOMERS: std::sync::LazyLock<PolicyEngine> = std::sync::LazyLock::new(|| {
    engine(
        r#"@id("customers") permit (principal is User, action, resource)
           when { principal.roles.contains("customer") };"#,
    )
});

proptest::proptest! {
    /// Ids and attributes are data: whatever they contain, they never widen a policy.
    #[test]
    fn no_attribute_text_changes_the_decision(text in "\\PC{0,40}") {
        let principal = Principal::User {
            sub: text.clone(),
            client: text.clone(),
            roles: vec![format!("{text}!")],
            scopes: vec![text.clone()],
            acr: Some(text.clone()),
        };
        let mut request = ask(principal, "order:read", json!({"path": text.clone()}));
        request.resource =
            Resource::Route { id: text.clone(), service: text.clone(), host: text };
        let decision = CUSTOMERS.decide(&request);
        assert!(!decision.allowed);
        assert_eq!(decision.outcome, Outcome::NoPermit);
    }
}
