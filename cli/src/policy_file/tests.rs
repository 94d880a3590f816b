//! Both forms of a policy file, and the places in its refusals.

use ringwall_policy::PolicyError;

use super::*;

const SHORT: &str = r#"# a comment
policies:
  orders: |
    @id("reads")
    permit (principal == Workload::"gateway", action == Action::"GET", resource == Service::"orders")
    when { context.path == "/v1/orders" };

    @id("writes")
    permit (principal == Workload::"gateway", action == Action::"POST", resource == Service::"orders");
  quoted: '@id("quoted") forbid (principal, action == Action::"TRACE", resource);'
dry_run: [writes]
cases:
  orders:
    - { from: gateway, ask: GET /v1/orders, expect: allow }
    - { from: gateway, ask: POST /v1/orders, user: { sub: alice }, expect: deny }
    - from: ringwall
      admin: true
      expect: allow
"#;

pub(crate) fn around() -> Surroundings {
    let facts = |ports: &[u16]| ServiceFacts {
        ports: ports.to_vec(),
        ..ServiceFacts::default()
    };
    let edge = |caller: &str, port: u16| Edge {
        caller: caller.into(),
        callee: "orders".into(),
        ports: vec![port],
    };
    Surroundings {
        edges: vec![edge("gateway", 7105), edge("ringwall", 7205)],
        services: BTreeMap::from([
            ("gateway".into(), facts(&[7100])),
            ("orders".into(), facts(&[7105, 7205])),
        ]),
    }
}

fn source(text: &str) -> Source {
    Source {
        name: "policy.yaml".into(),
        text: text.into(),
    }
}

/// What is said of a file, a line for each fault.
fn faults(text: &str) -> Vec<String> {
    let file = match PolicyFile::any(&source(text), around()) {
        Ok(file) => file,
        Err(error) => return vec![error.to_string()],
    };
    match file.bundle.check() {
        Ok(_) => Vec::new(),
        Err(error) => file.places.error(&error),
    }
}

fn first_fault(text: &str) -> String {
    let mut faults = faults(text);
    assert!(!faults.is_empty(), "accepted:\n{text}");
    faults.remove(0)
}

#[test]
fn the_short_form_gets_connections_and_ports_from_its_surroundings() {
    assert_eq!(faults(SHORT), [""; 0]);
    let file = PolicyFile::any(&source(SHORT), around()).unwrap();
    assert_eq!(file.bundle.edges, around().edges);
    let ports: Vec<u16> = file
        .bundle
        .examples
        .iter()
        .map(|example| example.port)
        .collect();
    assert_eq!(ports, [7105, 7105, 7205]);
    assert_eq!(file.bundle.examples[2].method, None);
    assert_eq!(file.version, None);
    assert_eq!(
        file.bundle.examples[1].name,
        "gateway → orders:7105 POST /v1/orders for alice"
    );
}

#[test]
fn the_whole_form_says_all_by_itself() {
    let whole = r#"
version: 7
edges:
  - { caller: gateway, callee: orders, ports: [7105] }
policies:
  main: |
    @id("reads")
    permit (principal, action == Action::"GET", resource);
examples:
  - { name: reads, caller: gateway, callee: orders, port: 7105, method: GET, expect: allow }
"#;
    let file = PolicyFile::any(&source(whole), around()).unwrap();
    assert_eq!((file.version, file.bundle.edges.len()), (Some(7), 1));
    assert_eq!(file.bundle.services, around().services);
    let unknown = whole.replace("callee: orders, ports", "callee: nobody, ports");
    assert!(
        first_fault(&unknown).starts_with("policy.yaml:4:5: gateway -> nobody: "),
        "{}",
        first_fault(&unknown)
    );
    let failing = whole.replace("expect: allow", "expect: deny");
    assert_eq!(
        first_fault(&failing),
        r#"policy.yaml:10:5: "reads" expects deny, but reads permits it"#
    );
    // The composition has its connections elsewhere.
    assert!(PolicyFile::short(&source(whole), around()).is_err());
}

#[test]
fn r31_a_fault_has_the_line_and_column_of_the_file() {
    let changed = |from: &str, to: &str| {
        assert!(SHORT.contains(from), "{from}");
        first_fault(&SHORT.replacen(from, to, 1))
    };
    for (from, to, place, what) in [
        // YAML.
        ("dry_run: [", "dry_run: {", "policy.yaml:11:", ""),
        ("dry_run", "dryrun", "policy.yaml:11:1: ", "dryrun"),
        (
            "expect: allow }",
            "expect: maybe }",
            "policy.yaml:14:",
            "maybe",
        ),
        (
            "    - { from: gateway, ask: GET",
            "    - { form: gateway, ask: GET",
            "policy.yaml:14:",
            "form",
        ),
        // Cases.
        (
            "ask: GET /v1/orders",
            "ask: GET",
            "policy.yaml:14:15: ",
            "METHOD /path",
        ),
        (
            "  orders:\n    - { from",
            "  nobody:\n    - { from",
            "policy.yaml:14:15: ",
            "nobody",
        ),
        (
            "expect: deny",
            "expect: allow",
            "policy.yaml:15:15: ",
            "but no policy permits it",
        ),
        // Policies.
        (
            "context.path ==",
            "context.paht ==",
            "policy.yaml:6: orders: ",
            "paht",
        ),
        (
            "permit (principal == Workload::\"gateway\", action == Action::\"POST\"",
            "prmit (principal == Workload::\"gateway\", action == Action::\"POST\"",
            "policy.yaml:9: orders: ",
            "",
        ),
        ("@id(\"writes\")\n", "\n", "policy.yaml:9: orders: ", ""),
        (
            "Action::\"TRACE\"",
            "Action::\"FLY\"",
            "policy.yaml:10: quoted: ",
            "FLY",
        ),
        // Lists.
        (
            "[writes]",
            "[writes, nothing]",
            "policy.yaml:11:19: ",
            "nothing",
        ),
    ] {
        let said = changed(from, to);
        assert!(
            said.starts_with(place) && said.contains(what),
            "{to}: {said}"
        );
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = SHORT
        .replace("expect: allow", "expect: nothing")
        .replace("nothing", "deny");
    let said = faults(&text);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].starts_with("policy.yaml:14:15: ") && said[1].starts_with("policy.yaml:16:13: "),
        "{said:?}"
    );
}

#[test]
fn what_does_not_stand_in_the_file_is_told_without_a_place() {
    let file = PolicyFile::any(&source(SHORT), around()).unwrap();
    let other = PolicyError::Schema("no room".into());
    let said = file.places.error(&other);
    assert!(
        said[0].starts_with("policy.yaml: ") && said[0].ends_with("no room"),
        "{said:?}"
    );
    let fault = ringwall_policy::Fault {
        file: "services".into(),
        line: 9,
        message: "odd".into(),
    };
    assert_eq!(file.places.fault(&fault), "policy.yaml: services:9: odd");
}

#[test]
fn folded_texts_are_told_by_the_place_of_their_value() {
    let folded = SHORT.replace(
        "quoted: '@id(\"quoted\") forbid (principal, action == Action::\"TRACE\", resource);'",
        "quoted: >\n    @id(\"quoted\")\n    forbid (principal,\n    action == Action::\"FLY\", resource);",
    );
    let said = first_fault(&folded);
    assert!(said.starts_with("policy.yaml:1"), "{said}");
}

#[test]
fn the_policies_of_the_repository_are_read_by_the_same_reader() {
    let text = include_str!("../../../deploy/mesh/policy.yaml");
    let keys: BTreeMap<String, IgnoredAny> = parse(&source(text)).unwrap();
    assert!(keys.contains_key("cases"));
}
