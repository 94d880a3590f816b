use std::path::Path;

use ringwall_service::config::{parse_yaml, place};

use super::services::ProtocolConfig;
use super::*;

const HEAD: &str = "
service:
  name: control-plane
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:7110
  admin: 127.0.0.1:7210
  identity: self
  state: /state
  secrets: { provider: file, directory: /secrets }
bootstrap: 127.0.0.1:7310
authority: { roots: /roots.pem }
store: { embedded: /state/control-plane.db }
nodes: [local]
";

const ORDERS: &str = "  - { name: orders, owner: shop, nodes: [local], ports: [{ number: 7105 }, { number: 7205, protocol: tcp }], dns: [orders], database_roles: [orders] }\n";

fn check(text: &str) -> Result<Config, String> {
    let path = Path::new("control-plane.yaml");
    let config: Config = parse_yaml(text, path).map_err(|error| error.to_string())?;
    config
        .service
        .validate("control-plane")
        .and_then(|()| config.validate())
        .map_err(|error| place(error, path, text).to_string())?;
    Ok(config)
}

fn with(services: &str) -> Result<Config, String> {
    check(&format!("{HEAD}services:\n{ORDERS}{services}"))
}

#[test]
fn the_defaults_are_those_of_the_platform() {
    let config = with("").unwrap();
    assert_eq!(config.authority.svid_ttl, HOUR);
    assert_eq!(config.authority.jwt_ttl, 5 * MINUTE);
    assert_eq!(config.join.tokens, "join-tokens");
    let orders = &config.services[0];
    assert_eq!(orders.tier, "internal");
    assert_eq!(orders.ports[1].protocol, ProtocolConfig::Tcp);
}

#[test]
fn r33_no_certificate_of_a_workload_lives_longer_than_an_hour() {
    for (key, value) in [
        ("svid_ttl", "61m"),
        ("svid_ttl", "9s"),
        ("database_ttl", "2h"),
        ("server_ttl", "8days"),
        ("jwt_ttl", "2h"),
        ("jwt_key_life", "1m"),
        ("audit_keep", "1h"),
    ] {
        let text = format!("{HEAD}services: []\n").replace(
            "{ roots: /roots.pem }",
            &format!("{{ roots: /roots.pem, {key}: {value} }}"),
        );
        let error = check(&text).unwrap_err();
        assert!(error.contains(&format!("authority.{key}")), "{error}");
    }
}

#[test]
fn r53_a_duplicate_name_is_refused_with_place_and_fix() {
    let error = with("  - { name: orders, owner: thief, nodes: [local] }\n").unwrap_err();
    for part in [
        "control-plane.yaml:16:3",
        "services[orders]",
        "entry 1 and entry 2",
        "SPIFFE id",
        "rename one of the two",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn r53_a_role_belongs_to_one_service() {
    let error = with("  - { name: thief, owner: x, nodes: [local], database_roles: [orders] }\n")
        .unwrap_err();
    assert!(error.contains("which orders has"), "{error}");
}

#[test]
fn reserved_identities_are_nobodys() {
    for name in ["ringwall", "control-plane", "agent"] {
        let error = with(&format!(
            "  - {{ name: {name}, owner: x, nodes: [local] }}\n"
        ))
        .unwrap_err();
        assert!(error.contains("no agent gives this identity"), "{error}");
        assert!(with(&format!("  - {{ name: {name}, owner: x }}\n")).is_ok());
    }
}

#[test]
fn every_rule_of_an_entry_refuses() {
    for (entry, part) in [
        ("{ name: a, owner: x, nodes: [elsewhere] }", "`elsewhere`"),
        ("{ name: a, owner: ' ' }", "owner"),
        ("{ name: a, owner: x, dns: ['a b'] }", "`a b`"),
        ("{ name: a, owner: x, dns: [a, a] }", "twice"),
        ("{ name: a, owner: x, dns: ['A'] }", "`A`"),
        ("{ name: a, owner: x, server_names: ['*.*.a'] }", "`*.*.a`"),
        ("{ name: a, owner: x, database_roles: ['a;b'] }", "`a;b`"),
        ("{ name: a, owner: x, ports: [{ number: 0 }] }", "ports"),
        (
            "{ name: a, owner: x, ports: [{ number: 1 }, { number: 1 }] }",
            "ports",
        ),
        ("{ name: a, owner: x, port: 1 }", "port"),
        ("{ name: '..', owner: x }", "SPIFFE"),
        ("{ name: 'A/b', owner: x }", "name"),
    ] {
        let error = with(&format!("  - {entry}\n")).unwrap_err();
        assert!(error.contains(part), "{entry}: {error}");
    }
    assert!(
        with("  - { name: a, owner: x, server_names: ['*.localhost', '127.0.0.1', '::1'] }\n")
            .is_ok()
    );
}

#[test]
fn r31_traffic_that_proxies_would_refuse_is_refused_here() {
    for (traffic, parts) in [
        (
            "{ retries: { attempts: 11 } }",
            [
                "services[pay].traffic.retries.attempts",
                "seen:     11",
                "expected: 0 to 10",
            ],
        ),
        (
            "{ routes: [{ prefix: v1 }] }",
            [
                "services[pay].traffic.routes[0].prefix",
                "seen:     `v1`",
                "fix:      write it like",
            ],
        ),
    ] {
        let entry = format!("  - {{ name: pay, owner: shop, traffic: {traffic} }}\n");
        let error = with(&entry).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let off = "  - { name: pay, owner: shop, traffic: { retries: { attempts: 0 } } }\n";
    let config = with(off).unwrap();
    let wire = config.services[1].traffic.wire().unwrap();
    assert_eq!(wire.retries.unwrap().attempts, Some(0));
}

#[test]
fn the_other_keys_are_checked() {
    let good = format!("{HEAD}services: []\n");
    for (from, to, part) in [
        ("identity: self", "identity: /files", "identity: self"),
        ("  state: /state\n", "", "service.state"),
        ("nodes: [local]", "nodes: [local, local]", "each node once"),
        (
            "nodes: [local]",
            "nodes: [local]\njoin: { burst: 0 }",
            "join.burst",
        ),
    ] {
        let error = check(&good.replace(from, to)).unwrap_err();
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn the_store_may_be_postgresql() {
    let postgres = "store: { postgres: { address: '127.0.0.1:7432', server_name: postgres, database: mesh, user: control-plane, tls: /tls } }";
    let text = format!("{HEAD}services: []\n")
        .replace("store: { embedded: /state/control-plane.db }", postgres);
    assert!(matches!(
        check(&text).unwrap().store,
        StoreConfig::Postgres(_)
    ));
    let error = check(&text.replace("server_name: postgres", "server_name: ''")).unwrap_err();
    assert!(error.contains("server_name is empty"), "{error}");
}
