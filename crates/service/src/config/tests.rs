//! Golden texts of configuration errors, and the rules of the shared section.

use std::path::Path;

use super::*;
use crate::config::load::place;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Whole {
    service: ServiceConfig,
}

const GOOD: &str = r#"service:
  name: orders
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:7105
  admin: 127.0.0.1:7205
  identity: /state/identity/orders
  callers: [gateway, notifications]
  upstreams:
    inventory: { address: "127.0.0.1:7103", identity: inventory }
    spa-proxy: { address: "spa-proxy:7107", identity: spa-proxy, timeout: 3s }
  secrets: { provider: sealed, file: /s/orders.sealed, key_file: /s/orders.seal-key }
  logs: { format: json, level: info }
  telemetry: { upstream: spa-proxy, sample_ratio: 1.0 }
  drain: 10s
  state: /state/data/orders
"#;

fn parse(text: &str) -> Result<Whole, ConfigError> {
    parse_yaml(text, Path::new("orders.yaml"))
}

fn error(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from));
    parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string()
}

fn invalid(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from));
    let text = GOOD.replacen(from, to, 1);
    let whole = parse(&text).unwrap();
    let error = whole.service.validate("orders").unwrap_err();
    place(error, Path::new("orders.yaml"), &text).to_string()
}

#[test]
fn the_documented_example_is_valid() {
    let service = parse(GOOD).unwrap().service;
    service.validate("orders").unwrap();
    assert_eq!(service.drain, Duration::from_secs(10));
    assert_eq!(service.workers.get(), 1);
    assert_eq!(service.admin_callers, ["ringwall", "prometheus"]);
    assert_eq!(
        service.upstreams["spa-proxy"].timeout,
        Some(Duration::from_secs(3))
    );
    assert_eq!(
        service.workload("a").unwrap().as_str(),
        "spiffe://ringwall.local/a"
    );
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() {
    assert_eq!(
        error("  listen:", "  listn:"),
        "orders.yaml:5:3: the configuration is not valid
  seen:     the unknown key `listn`
  expected: one of `name`, `workload`, `trust_domain`, `profile`, `listen`, `admin`, `identity`, `callers`, `admin_callers`, `upstreams`, `secrets`, `logs`, `telemetry`, `drain`, `state`, `workers`, `sidecar`
  fix:      write `listen`, or remove `listn`"
    );
}

#[test]
fn a_missing_key_is_named() {
    let text = error("  admin: 127.0.0.1:7205\n", "");
    assert!(text.starts_with("orders.yaml:"), "{text}");
    assert!(
        text.contains("expected: the key `admin`\n  fix:      add `admin: …`"),
        "{text}"
    );
}

#[test]
fn an_unknown_variant_is_named_with_the_choice() {
    assert_eq!(
        error("profile: demo", "profile: prod"),
        "orders.yaml:4:12: the configuration is not valid
  seen:     `prod`
  expected: one of `demo`, `production`
  fix:      write `demo`"
    );
}

#[test]
fn a_duplicate_key_is_refused() {
    let text = error("  drain: 10s\n", "  drain: 10s\n  drain: 11s\n");
    assert!(
        text.contains("seen:     the key `drain` a second time"),
        "{text}"
    );
}

#[test]
fn a_bad_duration_address_and_trust_domain_name_their_line() {
    for (from, to, line) in [
        ("drain: 10s", "drain: soon", "orders.yaml:15:"),
        ("listen: 127.0.0.1:7105", "listen: 7105", "orders.yaml:5:"),
        (
            "trust_domain: ringwall.local",
            "trust_domain: Ringwall/Local",
            "orders.yaml:3:",
        ),
    ] {
        let text = error(from, to);
        assert!(text.starts_with(line), "{text}");
    }
}

#[test]
fn broken_yaml_names_the_line() {
    let text = error(
        "callers: [gateway, notifications]",
        "callers: [gateway, notifications",
    );
    assert!(text.starts_with("orders.yaml:"), "{text}");
}

#[test]
fn later_checks_name_line_and_fix() {
    assert_eq!(
        invalid("sample_ratio: 1.0", "sample_ratio: 1.5"),
        "orders.yaml:14:3: the configuration is not valid
  key:      service.telemetry.sample_ratio
  seen:     1.5
  expected: a number from 0.0 to 1.0
  fix:      write `sample_ratio: 1.0` to record every trace"
    );
    for (from, to, key) in [
        ("name: orders", "name: payments", "service.name"),
        (
            "admin: 127.0.0.1:7205",
            "admin: 127.0.0.1:7105",
            "service.admin",
        ),
        (
            "level: info",
            "level: \"info,x=loud\"",
            "service.logs.level",
        ),
        (
            "upstream: spa-proxy,",
            "upstream: jaeger,",
            "service.telemetry.upstream",
        ),
        ("upstream: spa-proxy,", "", "service.telemetry"),
        (
            "upstream: spa-proxy,",
            "endpoint: \"https://x:1/\",",
            "service.telemetry.endpoint",
        ),
        ("callers: [gateway,", "callers: [\"../x\",", "service"),
    ] {
        let text = invalid(from, to);
        assert!(text.contains(&format!("key:      {key}\n")), "{text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = load_yaml::<Whole>(Path::new("/nonexistent/orders.yaml")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/orders.yaml: cannot be read: ")
    );
}

#[test]
fn the_schema_knows_every_key() {
    let schema = serde_json::to_string(&schemars::schema_for!(Whole)).unwrap();
    for key in ["trust_domain", "admin_callers", "sample_ratio", "key_file"] {
        assert!(schema.contains(key), "{key}");
    }
}

#[test]
fn production_refuses_what_only_a_demo_may_do() {
    let demo = parse(GOOD).unwrap().service;
    assert_eq!(validate_production(&demo), []);

    let bad = GOOD
        .replace("profile: demo", "profile: production")
        .replace(
            "provider: sealed, file: /s/orders.sealed, key_file: /s/orders.seal-key",
            "provider: env, prefix: RINGWALL_ORDERS_",
        )
        .replace("level: info", "level: debug")
        .replace("upstream: spa-proxy,", "endpoint: \"http://jaeger:4318\",");
    let refusals = validate_production(&parse(&bad).unwrap().service);
    let whats: Vec<&str> = refusals.iter().map(|r| r.what.as_str()).collect();
    assert_eq!(
        whats,
        [
            "service.secrets: the provider is not `sealed`",
            "service.trust_domain: `ringwall.local` is the demo's",
            "service.telemetry.endpoint: plain HTTP to another machine",
            "service.logs.level: `debug`",
        ]
    );
    let text = refusals[0].to_string();
    assert!(
        text.contains("\n    why: ") && text.contains("\n    fix: "),
        "{text}"
    );

    let good = GOOD
        .replace("profile: demo", "profile: production")
        .replace("ringwall.local", "mesh.example.org")
        .replace(
            "upstream: spa-proxy,",
            "endpoint: \"http://127.0.0.1:4318\",",
        );
    assert_eq!(validate_production(&parse(&good).unwrap().service), []);
}

#[test]
fn attack_plaintext_beyond_loopback_is_refused() {
    let behind = GOOD.replace(
        "  identity: /state/identity/orders\n",
        "  sidecar: { outbound: \"127.0.0.1:7505\" }\n",
    );
    parse(&behind).unwrap().service.validate("orders").unwrap();
    for (from, to, key) in [
        (
            "listen: 127.0.0.1:7105",
            "listen: 0.0.0.0:7105",
            "service.listen",
        ),
        (
            "admin: 127.0.0.1:7205",
            "admin: 10.0.0.1:7205",
            "service.admin",
        ),
        (
            "\"127.0.0.1:7505\"",
            "\"[::]:7505\"",
            "service.sidecar.outbound",
        ),
    ] {
        assert!(behind.contains(from));
        let whole = parse(&behind.replacen(from, to, 1)).unwrap();
        let text = whole.service.validate("orders").unwrap_err().to_string();
        assert!(text.contains(&format!("key:      {key}\n")), "{text}");
        assert!(text.contains("an address of loopback"), "{text}");
    }
}

#[test]
fn a_component_has_an_identity_or_a_proxy_that_has_it() {
    let text = invalid("  identity: /state/identity/orders\n", "");
    assert!(text.contains("neither `identity` nor `sidecar`"), "{text}");
}
