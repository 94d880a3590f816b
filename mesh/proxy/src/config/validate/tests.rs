use std::path::Path;

use ringwall_service::ComponentConfig as _;
use ringwall_service::config::{parse_yaml, place};

use super::*;

const SOUND: &str = r#"
service:
  name: orders-proxy
  workload: orders
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:7105
  admin: 127.0.0.1:7605
  identity: "unix:/run/agent.sock"
  secrets: { provider: file, directory: /nowhere }
  state: /nowhere
  upstreams:
    control-plane: { address: "127.0.0.1:7110", identity: control-plane }
    gateway: { address: "127.0.0.1:7101", identity: gateway }
inbound:
  - { listen: "127.0.0.1:7105", app: "127.0.0.1:7305", port: 7105 }
  - { listen: "127.0.0.1:7205", app: "127.0.0.1:7405", port: 7205 }
outbound:
  http: 127.0.0.1:7505
  tcp: [ { listen: "127.0.0.1:7511", service: postgres } ]
loopback_token: loopback-token
user_context: { issuer_upstream: gateway }
limits: { max_streams: 100, idle_timeout: 60s }
workers: 1
"#;

fn parse(text: &str) -> Config {
    parse_yaml(text, Path::new("orders-proxy.yaml")).expect("parse")
}

fn told(from: &str, to: &str) -> String {
    assert!(SOUND.contains(from), "{from}");
    let text = SOUND.replacen(from, to, 1);
    let error = parse(&text).validate().expect_err(to);
    place(error, Path::new("orders-proxy.yaml"), &text).to_string()
}

#[test]
fn what_the_cli_renders_is_sound() {
    parse(SOUND).validate().expect("sound");
    assert!(parse(SOUND).production_refusals().is_empty());
    let config = parse(SOUND);
    assert_eq!((config.zone.as_str(), config.weight), ("local", 100));
    let resting = parse(&SOUND.replacen("workers: 1", "zone: eu-1\nweight: 0", 1));
    resting.validate().expect("sound");
    assert_eq!((resting.zone.as_str(), resting.weight), ("eu-1", 0));
}

#[test]
fn every_refusal_names_the_key_and_the_fix() {
    for (from, to, key) in [
        ("  workload: orders\n", "", "service"),
        ("\"unix:/run/agent.sock\"", "self", "service.identity"),
        ("    control-plane:", "    control:", "service.upstreams"),
        (
            "issuer_upstream: gateway",
            "issuer_upstream: nobody",
            "user_context.issuer_upstream",
        ),
        (
            "listen: \"127.0.0.1:7205\"",
            "listen: \"127.0.0.1:7105\"",
            "inbound[1].listen",
        ),
        (
            "http: 127.0.0.1:7505",
            "http: 127.0.0.1:7605",
            "service.admin",
        ),
        ("port: 7205", "port: 7105", "inbound[1].port"),
        ("port: 7205", "port: 0", "inbound[1].port"),
        (
            "app: \"127.0.0.1:7305\"",
            "app: \"10.0.0.1:7305\"",
            "inbound[0].app",
        ),
        (
            "http: 127.0.0.1:7505",
            "http: 0.0.0.0:7505",
            "outbound.http",
        ),
        (
            "listen: \"127.0.0.1:7511\"",
            "listen: \"0.0.0.0:7511\"",
            "outbound.tcp[0].listen",
        ),
        ("workers: 1", "workers: 0", "workers"),
        ("workers: 1", "workers: 65", "workers"),
        ("workers: 1", "weight: 10001", "weight"),
        ("workers: 1", "zone: ''", "zone"),
        ("workers: 1", "zone: a b", "zone"),
        ("workers: 1", "node: a/b", "node"),
        ("max_streams: 100", "max_streams: 0", "limits.max_streams"),
        ("max_streams: 100", "max_head: 100", "limits.max_head"),
        (
            "idle_timeout: 60s",
            "idle_timeout: 0s",
            "limits.idle_timeout",
        ),
    ] {
        let said = told(from, to);
        assert!(said.contains(&format!("key:      {key}\n")), "{to}: {said}");
        assert!(said.contains("fix:      "), "{said}");
    }
    let said = told("port: 7205", "port: 7105");
    assert!(said.starts_with("orders-proxy.yaml:17:"), "{said}");
}

const PLUGINS: &str = r#"
plugins:
  - { name: audit, module: /plugins/audit.wasm }
  - { name: framing, module: /plugins/framing.wasm }
"#;

#[test]
fn r90_chains_are_of_declared_plugins() {
    let sound = |chains: &str| {
        let text = SOUND.replacen(
            "outbound:\n",
            &format!("outbound:\n  filters: {chains}\n"),
            1,
        );
        let text = format!("{text}{PLUGINS}");
        parse(&text).validate().map_err(|error| error.to_string())
    };
    sound(r#"{ "*": [audit], payments: [framing, audit], "postgres:7432": [framing], free: [] }"#)
        .expect("sound");
    for (chains, what) in [
        ("{ payments: [nobody] }", "outbound.filters.payments"),
        (
            "{ payments: [nobody] }",
            "names out of `plugins`: audit, framing",
        ),
        ("{ \"payments:x\": [audit] }", "`payments:x`"),
        ("{ \"payments:0\": [audit] }", "`payments:0`"),
        ("{ \"pay*\": [audit] }", "`pay*`"),
        ("{ \"*:80\": [audit] }", "`*:80`"),
        ("{ \"\": [audit] }", "``"),
    ] {
        let said = sound(chains).expect_err(chains);
        assert!(said.contains(what), "{chains}: {said}");
    }
    let inbound = SOUND.replacen("port: 7205 }", "port: 7205, filters: [nobody] }", 1);
    let error = parse(&inbound).validate().expect_err("nobody");
    assert!(error.to_string().contains("inbound[1].filters"), "{error}");
    for (name, what) in [("\"a b\"", "plugins[a b]"), ("framing", "the name twice")] {
        let text = format!("{SOUND}{PLUGINS}").replacen("audit,", &format!("{name},"), 1);
        let error = parse(&text).validate().expect_err(name);
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn r91_production_refuses_plugins_that_are_neither_pinned_nor_signed() {
    let refused = |plugin: &str, keys: &str| {
        let text = format!(
            "{SOUND}plugins: [ {{ name: audit, module: /plugins/audit.wasm{plugin} }} ]\nplugin_keys: [{keys}]\n"
        );
        let refusals = parse(&text).production_refusals();
        refusals.into_iter().map(|one| one.what).collect::<String>()
    };
    let pin = ", sha256: \"0000000000000000000000000000000000000000000000000000000000000000\"";
    let canary = ", canary: { module: /plugins/next.wasm, weight: 5 }";
    let said = "plugin audit neither signed nor pinned";
    assert_eq!(refused("", ""), said);
    assert_eq!(refused(pin, ""), "");
    assert_eq!(refused("", "/plugins/release.pub"), "");
    assert_eq!(refused(&format!("{pin}{canary}"), ""), said);
}

#[test]
fn a_proxy_without_listeners_has_nothing_to_do() {
    let head = SOUND.split("inbound:").next().expect("head");
    let error = parse(head).validate().expect_err("nothing to do");
    assert!(error.to_string().contains("no listener at all"), "{error}");
}

#[test]
fn production_refuses_what_is_fit_for_a_demo_only() {
    let refused = |from: &str, to: &str| {
        assert!(SOUND.contains(from), "{from}");
        let refusals = parse(&SOUND.replacen(from, to, 1)).production_refusals();
        refusals
            .iter()
            .map(|one| one.what.clone())
            .collect::<String>()
    };
    assert_eq!(
        refused("loopback_token: loopback-token\n", ""),
        "loopback_token: missing"
    );
    assert_eq!(refused("  state: /nowhere\n", ""), "service.state: missing");
    assert_eq!(
        refused("workers: 1", "access_log: { disabled: true }"),
        "access_log.disabled: true"
    );
}
