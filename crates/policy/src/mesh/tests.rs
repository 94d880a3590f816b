//! Decisions, refusals and reports of a bundle; `model.rs` compares with an independent model.

mod faults;
mod model;

use http::HeaderMap;
use ringwall_identity::SpiffeId;

use super::*;

const POLICIES: &str = r#"
@id("gateway-reads")
permit (principal == Workload::"gateway", action in Action::"read", resource == Service::"orders");

@id("gateway-places-for-customers")
permit (principal == Workload::"gateway", action == Action::"POST", resource == Service::"orders")
when { context has user && context.user.roles.contains("customer") && context.path == "/v1/orders" };

@id("no-debug")
forbid (principal, action, resource)
when { context.headers has "x-debug" && context.headers["x-debug"] != "off" };

@id("shop-talks")
permit (principal, action, resource) when { principal.owner == "shop" && resource.owner == "shop" };
"#;

pub(super) fn bundle() -> Bundle {
    serde_json::from_value(serde_json::json!({
        "edges": [
            { "caller": "gateway", "callee": "orders", "ports": [7105] },
            { "caller": "orders", "callee": "inventory" },
            { "caller": "ringwall", "callee": "orders", "ports": [7205] },
        ],
        "policies": { "main.cedar": POLICIES },
        "examples": [
            { "name": "reads", "caller": "gateway", "callee": "orders", "port": 7105, "method": "GET",
              "path": "/v1/orders", "expect": "allow" },
            { "name": "stranger", "caller": "payments", "callee": "orders", "port": 7105, "expect": "deny" },
            { "name": "operator", "caller": "ringwall", "callee": "orders", "port": 7205, "expect": "allow" },
        ],
        "services": {
            "gateway": { "owner": "edge" },
            "orders": { "owner": "shop", "tier": "internal", "ports": [7105, 7205] },
            "inventory": { "owner": "shop", "ports": [7103, 7203] },
            "payments": { "owner": "money", "tier": "sensitive", "ports": [7104] },
        },
    }))
    .unwrap()
}

struct Ask {
    caller: SpiffeId,
    callee: &'static str,
    port: u16,
    method: &'static str,
    path: &'static str,
    headers: HeaderMap,
    user: Option<UserFacts>,
}

fn ask(caller: &str, callee: &'static str, port: u16, method: &'static str) -> Ask {
    Ask {
        caller: SpiffeId::parse(&format!("spiffe://ringwall.local/{caller}")).unwrap(),
        callee,
        port,
        method,
        path: "/v1/orders",
        headers: HeaderMap::new(),
        user: None,
    }
}

impl Ask {
    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    fn role(mut self, role: &str) -> Self {
        self.user = Some(UserFacts {
            sub: "alice".into(),
            roles: vec![role.into()],
            ..UserFacts::default()
        });
        self
    }

    fn path(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    fn request(&self) -> MeshRequest<'_> {
        MeshRequest {
            caller: &self.caller,
            callee: self.callee,
            port: self.port,
            method: self.method,
            path: self.path,
            headers: &self.headers,
            user: self.user.as_ref(),
        }
    }

    fn of(&self, policy: &MeshPolicy) -> MeshDecision {
        policy.decide(&self.request())
    }
}

fn with_policy(text: &str) -> Bundle {
    let mut bundle = bundle();
    bundle.policies.insert("more.cedar".into(), text.into());
    bundle
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn r50_decision_table() {
    let policy = bundle().check().unwrap();
    let permitted = |reason: &str| (MeshOutcome::Permitted, vec![reason.to_owned()]);
    let cases = [
        (
            ask("gateway", "orders", 7105, "GET"),
            permitted("gateway-reads"),
        ),
        (
            ask("gateway", "orders", 7105, "HEAD"),
            permitted("gateway-reads"),
        ),
        // The same peers at another port, and the other way round.
        (
            ask("gateway", "orders", 7205, "GET"),
            (MeshOutcome::NoEdge, vec![]),
        ),
        (
            ask("orders", "gateway", 7105, "GET"),
            (MeshOutcome::NoEdge, vec![]),
        ),
        (
            ask("gateway", "nowhere", 7105, "GET"),
            (MeshOutcome::NoEdge, vec![]),
        ),
        (
            ask("gateway", "orders", 7105, "POST"),
            (MeshOutcome::NoPermit, vec![]),
        ),
        (
            ask("gateway", "orders", 7105, "POST").role("guest"),
            (MeshOutcome::NoPermit, vec![]),
        ),
        (
            ask("gateway", "orders", 7105, "POST").role("customer"),
            permitted("gateway-places-for-customers"),
        ),
        (
            ask("gateway", "orders", 7105, "POST")
                .role("customer")
                .path("/v1/orders/"),
            (MeshOutcome::NoPermit, vec![]),
        ),
        (
            ask("gateway", "orders", 7105, "GET").header("x-debug", "on"),
            (MeshOutcome::Forbidden, vec!["no-debug".to_owned()]),
        ),
        (
            ask("gateway", "orders", 7105, "GET").header("x-debug", "off"),
            permitted("gateway-reads"),
        ),
        // A method without an action of its own changes something; `get` is not `GET`, nor is a group a method.
        (
            ask("gateway", "orders", 7105, "get"),
            (MeshOutcome::NoPermit, vec![]),
        ),
        (
            ask("gateway", "orders", 7105, "read"),
            (MeshOutcome::NoPermit, vec![]),
        ),
        (
            ask("gateway", "orders", 7105, "PROPFIND"),
            (MeshOutcome::NoPermit, vec![]),
        ),
        // An edge without ports: every declared one, and no other.
        (
            ask("orders", "inventory", 7203, "PROPFIND"),
            permitted("shop-talks"),
        ),
        (
            ask("orders", "inventory", 7105, "GET"),
            (MeshOutcome::NoEdge, vec![]),
        ),
        // An edge lets the operator connect; no policy lets it ask.
        (
            ask("ringwall", "orders", 7205, "GET"),
            (MeshOutcome::NoPermit, vec![]),
        ),
    ];
    for (question, (outcome, reasons)) in cases {
        let decision = question.of(&policy);
        let shown = format!(
            "{} {} {}",
            question.caller, question.method, question.callee
        );
        assert_eq!(
            (decision.outcome, &decision.reasons),
            (outcome, &reasons),
            "{shown}: {decision:?}"
        );
        assert_eq!(decision.allowed, outcome == MeshOutcome::Permitted);
    }
    assert_eq!(policy.reads().headers, ["x-debug"]);
    let reads = policy.reads();
    assert!(reads.path && reads.user && !reads.port && !reads.method);
}

#[test]
fn r50_without_policies_nothing_is_permitted() {
    let empty = Bundle {
        policies: BTreeMap::new(),
        examples: vec![],
        ..bundle()
    };
    let policy = MeshPolicy::compile(empty).unwrap();
    assert!(policy.allows_edge("gateway", "orders", 7105));
    let decision = ask("gateway", "orders", 7105, "GET").of(&policy);
    assert_eq!(decision.outcome, MeshOutcome::NoPermit);
    let nothing = MeshPolicy::compile(Bundle::default()).unwrap();
    assert!(!nothing.allows_edge("gateway", "orders", 7105));
}

#[test]
fn r50_a_forbid_that_fails_does_not_allow() {
    let policy = with_policy(
        r#"@id("overflows") forbid (principal, action, resource)
           when { context.port * 9223372036854775807 > 0 };"#,
    );
    let policy = policy.check();
    let Err(PolicyError::Examples(failed)) = policy else {
        panic!("{policy:?}")
    };
    assert!(failed[0].decided.contains("overflows"), "{failed:?}");
    let broken = Bundle {
        examples: vec![],
        ..with_policy(
            r#"@id("overflows") forbid (principal, action, resource)
           when { context.port * 9223372036854775807 > 0 };"#,
        )
    };
    let decision = ask("gateway", "orders", 7105, "GET").of(&MeshPolicy::compile(broken).unwrap());
    assert_eq!(
        (decision.allowed, decision.outcome),
        (false, MeshOutcome::Error)
    );
    assert_eq!(decision.reasons, ["gateway-reads"]);
    assert!(decision.errors[0].contains("overflow"), "{decision:?}");
}

#[test]
fn a_header_that_policies_read_stands_once() {
    let policy = bundle().check().unwrap();
    let twice = ask("gateway", "orders", 7105, "GET")
        .header("x-debug", "off")
        .header("x-debug", "on");
    let decision = twice.of(&policy);
    assert_eq!(
        (decision.allowed, decision.outcome),
        (false, MeshOutcome::Error)
    );
    assert!(decision.errors[0].contains("x-debug"), "{decision:?}");
    let mut binary = ask("gateway", "orders", 7105, "GET");
    binary
        .headers
        .insert("x-debug", http::HeaderValue::from_bytes(&[0xff]).unwrap());
    assert_eq!(binary.of(&policy).outcome, MeshOutcome::Error);
    // What no policy reads may stand as often as it likes.
    let other = ask("gateway", "orders", 7105, "GET")
        .header("via", "a")
        .header("via", "b");
    assert!(other.of(&policy).allowed);

    let cookies = with_policy(
        r#"@id("cookie") forbid (principal, action, resource)
           when { context.headers has cookie && context.headers.cookie == "a=1; b=2" };"#,
    );
    let cookies = cookies.check().unwrap();
    let split = ask("gateway", "orders", 7105, "GET")
        .header("cookie", "a=1")
        .header("cookie", "b=2");
    assert_eq!(split.of(&cookies).outcome, MeshOutcome::Forbidden);
}

#[test]
fn a_dry_run_is_told_and_changes_nothing() {
    let mut bundle = with_policy(
        r#"@id("soon") forbid (principal, action, resource == Service::"orders")
           when { !(context has user) };
           @id("later") permit (principal, action == Action::"DELETE", resource == Service::"orders");"#,
    );
    bundle.dry_run = vec!["soon".into(), "later".into()];
    let policy = bundle.check().unwrap();
    let would_deny = ask("gateway", "orders", 7105, "GET").of(&policy);
    assert!(would_deny.allowed);
    assert_eq!(would_deny.reasons, ["gateway-reads"]);
    assert_eq!(would_deny.dry_run, Some(false));
    assert_eq!(would_deny.dry_run_reasons, ["soon"]);
    let would_allow = ask("gateway", "orders", 7105, "DELETE")
        .role("guest")
        .of(&policy);
    assert!(!would_allow.allowed);
    assert_eq!(would_allow.dry_run, Some(true));
    assert_eq!(would_allow.dry_run_reasons, ["later"]);
    let same = ask("gateway", "orders", 7105, "GET")
        .role("guest")
        .of(&policy);
    assert_eq!((same.allowed, same.dry_run), (true, None));
}

#[test]
fn a_failing_dry_run_denies_nobody() {
    let mut bundle = with_policy(
        r#"@id("trial") forbid (principal, action, resource)
           when { context.headers has "x-trial" && context.port * 9223372036854775807 > 0 };"#,
    );
    bundle.dry_run = vec!["trial".into()];
    let policy = bundle.check().unwrap();
    let twice = ask("gateway", "orders", 7105, "GET")
        .header("x-trial", "1")
        .header("x-trial", "2");
    for question in [
        twice,
        ask("gateway", "orders", 7105, "GET").header("x-trial", "1"),
    ] {
        let decision = question.of(&policy);
        assert_eq!((decision.allowed, decision.dry_run), (true, Some(false)));
        assert!(
            decision.errors.is_empty() && !decision.dry_run_reasons.is_empty(),
            "{decision:?}"
        );
    }
    // Its header field belongs to what a cached decision depends on.
    assert_eq!(policy.reads().headers, ["x-debug", "x-trial"]);
}

#[test]
fn r31_examples_that_do_not_hold_are_all_listed() {
    let mut bundle = bundle();
    for example in &mut bundle.examples {
        example.expect = match example.expect {
            Expect::Allow => Expect::Deny,
            Expect::Deny => Expect::Allow,
        };
    }
    let Err(PolicyError::Examples(failed)) = bundle.check() else {
        panic!()
    };
    let lines: Vec<String> = failed.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            r#"examples:1: "reads" expects deny, but gateway-reads permits it"#,
            r#"examples:2: "stranger" expects allow, but no edge lets payments connect to orders at port 7105"#,
            r#"examples:3: "operator" expects deny, but the edge is declared"#,
        ]
    );
}

#[test]
fn an_explanation_names_the_edge_and_every_policy() {
    let policy = bundle().check().unwrap();
    let question = ask("gateway", "orders", 7105, "POST")
        .role("customer")
        .header("x-debug", "on");
    let explained = policy.explain(&question.request());
    assert_eq!(explained.decision, question.of(&policy));
    assert_eq!(
        explained.edge.as_ref().map(|edge| edge.ports.clone()),
        Some(vec![7105])
    );
    let told: Vec<_> = explained
        .considered
        .iter()
        .map(|seen| {
            (
                seen.policy.as_str(),
                seen.line,
                seen.effect,
                seen.verdict.clone(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (
                "gateway-places-for-customers",
                5,
                Effect::Permit,
                Verdict::Applies
            ),
            ("no-debug", 9, Effect::Forbid, Verdict::Applies),
            ("shop-talks", 13, Effect::Permit, Verdict::ConditionFalse),
            ("gateway-reads", 2, Effect::Permit, Verdict::OtherScope),
        ]
    );
    let connection = policy.explain_connection("payments", "orders", 7105);
    assert_eq!(connection.decision.outcome, MeshOutcome::NoEdge);
    assert_eq!(connection.edge, None);
}

#[test]
fn a_difference_lists_what_changes() {
    let old = bundle().check().unwrap();
    assert!(BundleDiff::between(&old, &old).is_empty());
    let mut next = with_policy(
        r#"@id("payments-read") permit (principal == Workload::"orders", action, resource == Service::"payments");"#,
    );
    next.edges[0].ports = vec![];
    next.edges.push(Edge {
        caller: "orders".into(),
        callee: "payments".into(),
        ports: vec![],
    });
    let text = next.policies.get_mut("main.cedar").unwrap();
    *text = text.replace("in Action::\"read\"", "== Action::\"HEAD\"");
    next.dry_run = vec!["no-debug".into()];
    next.examples.clear();
    next.services.get_mut("gateway").unwrap().tier = "edge".into();
    let diff = BundleDiff::between(&old, &next.check().unwrap());
    assert_eq!(diff.edges_added.len(), 2);
    assert_eq!(diff.edges_removed.len(), 1);
    assert_eq!(diff.policies_added, ["payments-read"]);
    assert_eq!(diff.policies_changed, ["gateway-reads"]);
    assert_eq!(diff.now_dry_run, ["no-debug"]);
    assert_eq!(diff.services_changed, ["gateway"]);
    assert_eq!(diff.examples_removed, ["operator", "reads", "stranger"]);
    let verdicts: Vec<_> = diff
        .verdicts
        .iter()
        .map(|v| (v.example.as_str(), v.from, v.to))
        .collect();
    assert_eq!(verdicts, [("reads", Expect::Allow, Expect::Deny)]);
}

#[test]
fn r51_unused_grants_are_edges_and_permits_without_a_use() {
    let mut bundle = bundle();
    bundle.dry_run = vec!["shop-talks".into()];
    let policy = bundle.check().unwrap();
    let once = PolicyUse {
        permitted: 1,
        ..PolicyUse::default()
    };
    let mut uses = BTreeMap::from([
        ("gateway-reads".to_owned(), once),
        (edge_use("gateway", "orders"), once),
        // A dry run has permitted nothing, and a prohibition grants nothing.
        ("shop-talks".to_owned(), once),
    ]);
    let unused = policy.unused_grants(&uses);
    let edges: Vec<_> = unused
        .edges
        .iter()
        .map(|edge| edge.callee.as_str())
        .collect();
    assert_eq!(edges, ["inventory", "orders"]);
    let names = |unused: &UnusedGrants| -> Vec<String> {
        unused
            .policies
            .iter()
            .map(|unused| unused.policy.clone())
            .collect()
    };
    assert_eq!(
        names(&unused),
        ["gateway-places-for-customers", "shop-talks"]
    );
    uses.get_mut("shop-talks").unwrap().dry_run = 1;
    assert_eq!(
        names(&policy.unused_grants(&uses)),
        ["gateway-places-for-customers"]
    );
}

#[test]
fn a_bundle_survives_json() {
    let bundle = bundle();
    let json = serde_json::to_string(&bundle).unwrap();
    assert_eq!(serde_json::from_str::<Bundle>(&json).unwrap(), bundle);
    assert!(serde_json::from_str::<Bundle>(&json.replace("\"edges\"", "\"egdes\"")).is_err());
}
