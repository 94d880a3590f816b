//! Every fault of a bundle is refused, with its place (ATTACKS: hostile configuration or policy push).

use super::*;

/// The faults of the bundle after `change`.
fn faults(change: impl FnOnce(&mut Bundle)) -> Vec<String> {
    let mut bundle = bundle();
    change(&mut bundle);
    match MeshPolicy::compile(bundle) {
        Ok(_) => Vec::new(),
        Err(error) => error.faults().iter().map(ToString::to_string).collect(),
    }
}

fn policy_faults(text: &str) -> Vec<String> {
    faults(|bundle| drop(bundle.policies.insert("more.cedar".into(), text.into())))
}

fn edge(caller: &str, callee: &str, ports: &[u16]) -> Edge {
    Edge {
        caller: caller.into(),
        callee: callee.into(),
        ports: ports.to_vec(),
    }
}

#[test]
fn attack_hostile_policy_texts_are_refused_with_their_line() {
    let cases = [
        ("\n\nnonsense", "more.cedar:3:"),
        (
            "\npermit (principal, action, resource);",
            "more.cedar:2: the policy has no name",
        ),
        (
            "@id(\"gateway-reads\")\npermit (principal, action, resource);",
            "more.cedar:1: the @id gateway-reads is already used in main.cedar",
        ),
        (
            "@id(\"t\") permit (principal == ?principal, action, resource);",
            "templates are not accepted",
        ),
        // Strict validation: types, attributes and optional ones that are not asked for first.
        (
            "@id(\"x\") permit (principal, action, resource)\nwhen { context.port == \"7105\" };",
            "more.cedar:2:",
        ),
        (
            "@id(\"x\") permit (principal, action, resource) when { principal.admin };",
            "admin",
        ),
        (
            "@id(\"x\") permit (principal, action, resource) when { context.user.sub == \"a\" };",
            "user",
        ),
        (
            "@id(\"x\") permit (principal, action, resource) when { context.headers[\"x-a\"] == \"a\" };",
            "x-a",
        ),
        (
            "@id(\"x\") permit (principal, action == Action::\"FETCH\", resource);",
            "FETCH",
        ),
        (
            "@id(\"x\") permit (principal is User, action, resource);",
            "User",
        ),
        // Names that cannot be.
        (
            "@id(\"x\") permit (principal, action, resource == Service::\"ordres\");",
            "more.cedar:1: no service is called \"ordres\"; did you mean orders?",
        ),
        (
            "@id(\"x\") permit (principal == Workload::\"stranger\", action, resource);",
            "more.cedar:1: no service is called \"stranger\", and no edge has a caller stranger",
        ),
        (
            "@id(\"x\") permit (principal, action, resource) when { context.headers has \"X-A\" };",
            "header field \"X-A\"",
        ),
        (
            "@id(\"x\") permit (principal, action, resource) when { context.headers has \"a\\\"?: Long\" };",
            "more.cedar:1: header field",
        ),
        (
            "@id(\"edge:a>b\") permit (principal, action, resource);",
            "not beginning with edge:",
        ),
        (
            "@id(\"a\\nb\") permit (principal, action, resource);",
            "printable",
        ),
    ];
    for (text, expected) in cases {
        let seen = policy_faults(text);
        assert!(
            seen.iter().any(|fault| fault.contains(expected)),
            "{text}: {seen:?}"
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn attack_hostile_lists_are_refused_with_their_entry() {
    let cases = [
        (
            faults(|bundle| bundle.edges.push(edge("orders", "inventroy", &[]))),
            "edges:4: orders -> inventroy: no service is called \"inventroy\"; did you mean inventory?",
        ),
        (
            faults(|bundle| {
                bundle
                    .edges
                    .push(edge("orders", "inventory", &[7103, 9999]))
            }),
            "edges:4: orders -> inventory: inventory declares no port 9999, it has [7103, 7203]",
        ),
        (
            faults(|bundle| bundle.edges.push(edge("a/../b", "orders", &[]))),
            "edges:4:",
        ),
        (
            faults(|bundle| bundle.edges.push(edge("", "orders", &[]))),
            "edges:4:",
        ),
        (
            faults(|bundle| {
                drop(
                    bundle
                        .services
                        .insert("Orders!".into(), ServiceFacts::default()),
                )
            }),
            "services:1: \"Orders!\"",
        ),
        (
            faults(|bundle| bundle.dry_run.push("nobody".into())),
            "dry_run:1: no policy",
        ),
        (
            faults(|bundle| bundle.dry_run = vec!["no-debug".into(), "no-debug".into()]),
            "dry_run:2:",
        ),
        (
            faults(|bundle| bundle.examples[1].name = "reads".into()),
            "examples:2:",
        ),
        (
            faults(|bundle| bundle.examples[0].callee = "ordres".into()),
            "examples:1:",
        ),
        (
            faults(|bundle| bundle.examples[0].path = Some("v1".into())),
            "examples:1:",
        ),
        (
            faults(|bundle| bundle.examples[0].method = Some("GET /".into())),
            "examples:1:",
        ),
        (
            faults(|bundle| bundle.examples[0].method = None),
            "examples:1:",
        ),
        (
            faults(|bundle| drop(bundle.examples[0].headers.insert("a b".into(), "c".into()))),
            "examples:1:",
        ),
        (
            faults(|bundle| drop(bundle.policies.insert("edges".into(), String::new()))),
            "edges:1:",
        ),
    ];
    for (seen, expected) in cases {
        assert!(
            seen.iter().any(|fault| fault.starts_with(expected)),
            "{expected}: {seen:?}"
        );
    }
}

#[test]
fn attack_an_oversized_bundle_is_not_read() {
    let cases = [
        faults(|bundle| {
            let edge = bundle.edges[0].clone();
            bundle.edges = vec![edge; limits::EDGES + 1];
        }),
        faults(|bundle| {
            let example = bundle.examples[0].clone();
            bundle.examples = vec![example; limits::EXAMPLES + 1];
        }),
        policy_faults(&"/".repeat(limits::TEXT_BYTES + 1)),
        policy_faults(&format!(
            "@id(\"x\") forbid (principal, action, resource) when {{ {} }};",
            (0..=limits::HEADERS)
                .map(|n| format!("context.headers has \"h{n}\""))
                .collect::<Vec<_>>()
                .join(" || ")
        )),
    ];
    for seen in cases {
        assert!(seen.len() == 1 && seen[0].contains("at most"), "{seen:?}");
    }
}

/// On a thread with the 2 MiB of a worker: before the bound, each of these ended the process.
#[test]
fn attack_a_deep_policy_does_not_end_the_process() {
    let deep = [
        format!("{}true{}", "(".repeat(20_000), ")".repeat(20_000)),
        format!("{}1{} == []", "[".repeat(300), "]".repeat(300)),
        vec!["true"; 10_000].join("&&"),
        format!("{} == 1", vec!["1"; 20_000].join("+")),
        format!("{}true", "if true then true else ".repeat(2000)),
        format!("context{}", ".a".repeat(20_000)),
        format!("context{}", "[\"a\"]".repeat(9_000)),
    ];
    for condition in deep {
        let text =
            format!("@id(\"x\") permit (principal, action, resource) when {{ {condition} }};");
        let seen = policy_faults(&text);
        assert!(
            seen[0].starts_with("more.cedar:1: more than"),
            "{:.90}: {seen:?}",
            text
        );
    }
    // The deepest that is let through can be compiled, asked, told about and compared.
    let chain = vec!["context.port > 0"; 75].join(" && ");
    let nested = format!("{}{chain}{}", "(".repeat(15), ")".repeat(15));
    let text = format!("@id(\"deep\") permit (principal, action, resource) when {{ {nested} }};");
    let policy = with_policy(&text).check().unwrap();
    let question = ask("gateway", "orders", 7105, "POST");
    assert_eq!(question.of(&policy).reasons, ["deep"]);
    assert_eq!(
        policy.explain(&question.request()).decision.reasons,
        ["deep"]
    );
    let diff = BundleDiff::between(&super::bundle().check().unwrap(), &policy);
    assert_eq!(diff.policies_added, ["deep"]);
}

#[test]
fn all_faults_are_told_at_once() {
    let seen = faults(|bundle| {
        bundle.edges.push(edge("orders", "nowhere", &[]));
        bundle.policies.insert(
            "a.cedar".into(),
            "permit (principal, action, resource);".into(),
        );
        bundle.policies.insert("b.cedar".into(), "nonsense".into());
    });
    let places: Vec<_> = seen
        .iter()
        .map(|fault| fault.split(": ").next().unwrap())
        .collect();
    assert_eq!(places, ["a.cedar:1", "b.cedar:1", "edges:4"]);
}

#[test]
fn what_can_never_apply_is_a_warning() {
    let mut bundle = with_policy(
        "@id(\"never\") permit (principal == Workload::\"payments\", action, resource == Service::\"orders\");",
    );
    bundle.edges.push(edge("orders", "gateway", &[]));
    let policy = bundle.check().unwrap();
    let told: Vec<String> = policy.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "edges:4: it lets nobody connect: gateway declares no port",
            "more.cedar:1: it never applies: no edge lets payments connect to orders",
        ]
    );
}
