//! What a configuration may say, and what each wrong one is told.

use std::path::Path;

use ringwall_service::config::parse_yaml;

use super::*;

const GOOD: &str = "service:
  name: agent
  workload: agent/local
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:0
  admin: 127.0.0.1:7211
  identity: self
  state: /s/agent
  secrets: { provider: file, directory: /s/secrets }
  upstreams: { control-plane: { address: \"127.0.0.1:7110\", identity: control-plane } }
node: local
bootstrap: { address: \"127.0.0.1:7310\", bundle: /s/ca.pem }
socket: /s/run/agent.sock
attestation:
  selectors: { orders.service: orders }
  spawned: { socket: /s/run/agent-control.sock }
deliver:
  - { kind: svid, workload: gateway, directory: /s/identity/gateway }
  - { kind: database-client, workload: orders, role: orders, directory: /s/identity/orders/postgres }
  - kind: server
    workload: postgres
    dns: [postgres, localhost]
    ips: [127.0.0.1]
    directory: /s/postgres/tls
    bundle: bundle.pem
    owner: { uid: 100, gid: 100 }
    reload: { sighup: /s/postgres/data/postmaster.pid }
";

fn verdict(text: &str) -> Result<(), String> {
    let config: Config =
        parse_yaml(text, Path::new("agent.yaml")).map_err(|error| error.to_string())?;
    let service = config.service.validate("agent");
    service
        .and_then(|()| config.validate())
        .map_err(|error| error.to_string())
}

#[test]
fn a_whole_configuration_is_good() {
    assert_eq!(verdict(GOOD), Ok(()));
}

#[test]
fn each_wrong_value_is_refused_with_its_fix() {
    let long = format!("socket: /{}", "s".repeat(120));
    for (from, to, what) in [
        (
            "workload: agent/local",
            "workload: agent/other",
            "write `workload: agent/local`",
        ),
        (
            "identity: self",
            "identity: /s/identity",
            "write `identity: self`",
        ),
        ("  state: /s/agent\n", "", "add `state: "),
        (
            "control-plane: { address",
            "plane: { address",
            "add `control-plane: ",
        ),
        (
            "socket: /s/run/agent.sock",
            "socket: run/agent.sock",
            "an absolute path",
        ),
        ("socket: /s/run/agent.sock", &long, "at most 107 bytes"),
        ("agent-control.sock", "agent.sock", "a socket of its own"),
        (
            "orders.service: orders",
            "a/orders.service: orders",
            "one component",
        ),
        (
            "orders.service: orders",
            "orders.service: \"not a path\"",
            "the workload name",
        ),
        (
            "/s/identity/gateway",
            "identity/gateway",
            "an absolute path",
        ),
        (
            "    dns: [postgres, localhost]\n    ips: [127.0.0.1]\n",
            "",
            "at least one of",
        ),
        (
            "bundle: bundle.pem",
            "bundle: ../bundle.pem",
            "without a slash",
        ),
        (
            "bundle: bundle.pem",
            "bundle: server.key",
            "different names",
        ),
        ("node: local", "nod: local", "write `node`"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let why = verdict(&text).unwrap_err();
        assert!(why.contains(what), "{to}: {why}");
    }
}
