//! What people are shown, what a file survives, and what the command line takes.

use clap::Parser;
use ringwall_policy::mesh::{Bundle, Expect, MeshDecision, UserFacts};
use time::macros::datetime;

use super::*;
use crate::commands::Cli;
use crate::config::Source;
use crate::policy_file::{PolicyFile, Surroundings};

fn version() -> Version {
    Version {
        version: 7,
        digest: "d".into(),
        author: "alice".into(),
        identity: "ringwall".into(),
        at: datetime!(2030-01-01 12:00:00.5 UTC),
        note: "as agreed".into(),
        previous: 6,
        rollback_of: None,
    }
}

fn bundle() -> Bundle {
    let text = "@id(\"a\")\npermit (principal, action, resource);\n\n// \"quoted\": it's fine\n";
    Bundle {
        edges: vec![Edge {
            caller: "gateway".into(),
            callee: "orders".into(),
            ports: vec![7105],
        }],
        policies: BTreeMap::from([
            ("main".to_owned(), text.to_owned()),
            ("no-end".to_owned(), text.trim_end().to_owned()),
            ("indented".to_owned(), format!("  {text}\n\n")),
            (
                "tabs: and more".to_owned(),
                "\t@id(\"t\") permit (principal, action, resource);".to_owned(),
            ),
        ]),
        dry_run: vec!["a".into()],
        examples: vec![Example {
            name: "gateway → orders: yes".into(),
            caller: "gateway".into(),
            callee: "orders".into(),
            port: 7105,
            method: Some("GET".into()),
            path: Some("/".into()),
            headers: BTreeMap::from([("x-a".to_owned(), "null".to_owned())]),
            user: Some(UserFacts {
                sub: "alice".into(),
                roles: vec!["yes".into()],
                ..UserFacts::default()
            }),
            expect: Expect::Allow,
        }],
        services: BTreeMap::new(),
    }
}

#[test]
fn what_get_prints_is_what_apply_reads() {
    let found = VersionWithBundle {
        version: version(),
        bundle: bundle(),
    };
    let text = yaml(&found).unwrap();
    assert!(
        text.starts_with("# alice (as ringwall), 2030-01-01T12:00:00Z: as agreed\nversion: 7\n"),
        "{text}"
    );
    assert!(text.contains("  main: |\n    @id(\"a\")\n"), "{text}");
    let source = Source {
        name: "p.yaml".into(),
        text,
    };
    let file = PolicyFile::any(&source, Surroundings::default()).unwrap();
    assert_eq!(file.version, Some(7));
    assert_eq!(file.bundle, bundle());
}

#[test]
fn a_difference_is_a_line_for_each_change() {
    assert_eq!(diff(&BundleDiff::default()), "nothing differs");
    let difference = BundleDiff {
        edges_removed: vec![Edge {
            caller: "a".into(),
            callee: "b".into(),
            ports: vec![],
        }],
        policies_changed: vec!["pays".into()],
        now_enforced: vec!["reads".into()],
        verdicts: vec![ringwall_policy::mesh::VerdictChange {
            example: "case".into(),
            from: Expect::Allow,
            to: Expect::Deny,
            reason: "no policy permits it".into(),
        }],
        ..BundleDiff::default()
    };
    assert_eq!(
        diff(&difference),
        "- edge a → b: every port\n~ policy pays\n~ enforced from now on: reads\n! case: allow → deny (no policy permits it)"
    );
}

#[test]
fn an_apply_tells_who_has_it_and_who_refuses() {
    let proxy = |workload: &str, reason: Option<&str>| Proxy {
        workload: workload.into(),
        instance: "i".into(),
        node: "local".into(),
        zone: String::new(),
        version: 6,
        refused: reason.map(
            |reason| ringwall_policy::mesh::administration::ProxyRefusal {
                version: Some(7),
                resources: vec!["policy".into()],
                reason: reason.into(),
            },
        ),
    };
    let done = Applied {
        version: version(),
        changed: true,
        diff: BundleDiff::default(),
        warnings: vec![],
        proxies: Spread {
            version: 7,
            applied: 3,
            pending: vec![proxy("orders", None)],
            refused: vec![proxy("payments", Some("no room"))],
        },
    };
    let said = applied(&done);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "version 7 is active",
            "nothing differs",
            "3 of 5 connected proxies apply it",
            "  orders at local has not answered",
            "  payments at local refuses it and stays with version 6: no room",
        ]
    );
    assert!(proxies(&done.proxies.refused).contains("policy: no room"));
}

#[test]
fn an_explanation_names_edge_policies_and_their_places() {
    let asked = bundle().examples.remove(0);
    let seen = |policy: &str, verdict: Verdict| Considered {
        policy: policy.into(),
        file: "main".into(),
        line: 4,
        effect: Effect::Permit,
        dry_run: false,
        verdict,
    };
    let mut told = Answer {
        version: 7,
        explanation: Explanation {
            decision: MeshDecision {
                allowed: false,
                outcome: MeshOutcome::NoPermit,
                reasons: vec![],
                dry_run: Some(true),
                dry_run_reasons: vec!["a".into()],
                errors: vec![],
            },
            edge: bundle().edges.first().cloned(),
            considered: vec![
                seen("near", Verdict::ConditionFalse),
                seen("far", Verdict::OtherScope),
            ],
        },
    };
    assert_eq!(
        answer(&asked, &told),
        "denied by version 7: gateway → orders:7105 GET /\n  edge gateway → orders: 7105\n  no policy permits it\n  if all policies were enforced, it would allow (a)\n  near (main:4): its condition does not hold"
    );
    told.explanation.edge = None;
    told.explanation.decision.outcome = MeshOutcome::NoEdge;
    assert!(answer(&asked, &told).contains("no edge lets gateway connect to orders at port 7105"));
}

#[test]
fn attack_nothing_that_a_policy_says_reaches_the_terminal_as_a_command() {
    let evil = Version {
        note: "\u{1b}]0;owned\u{7}\u{9b}2J".into(),
        ..version()
    };
    let shown = clean(&history(&[evil]));
    assert!(
        !shown.chars().any(|c| c.is_control() && c != '\n'),
        "{shown:?}"
    );
    assert_eq!(clean("a\r\nb\tc\u{8}"), "a\nb\tc");
}

#[test]
fn the_command_line_is_understood() {
    for good in [
        "policy get",
        "policy get --version 3 -o json",
        "policy -o json unused",
        "policy check p.yaml",
        "policy diff p.yaml --exit-code",
        "policy diff --from 1 --to 2",
        "policy apply p.yaml --note why --author me --from 3 --wait 0",
        "policy rollback 3",
        "policy history --limit 5 --before 9",
        "policy proxies",
        "policy explain gateway orders",
        "policy explain gateway orders POST_/x --user alice --role customer --header x-a:b --version 2",
        "policy explain gateway orders --admin",
    ] {
        let parsed = Cli::try_parse_from(["ringwall"].into_iter().chain(good.split(' ')));
        assert!(parsed.is_ok(), "{good}: {}", parsed.err().unwrap());
    }
    for bad in [
        "policy",
        "policy diff",
        "policy diff p.yaml --from 1",
        "policy diff --to 2",
        "policy apply",
        "policy apply p.yaml --wait 61",
        "policy rollback x",
        "policy history --limit 0",
        "policy explain gateway",
        "policy explain gateway orders --role customer",
        "policy explain gateway orders --admin --port 1",
    ] {
        let parsed = Cli::try_parse_from(["ringwall"].into_iter().chain(bad.split(' ')));
        assert!(parsed.is_err(), "{bad}");
    }
}
