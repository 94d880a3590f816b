use super::*;

/// Which of the chains it is, by the number of its plugins.
fn chain(config: &str) -> Filters {
    use std::path::Path;

    use ringwall_service::config::parse_yaml;

    let directory = tempfile::tempdir().expect("folder");
    let module = directory.path().join("p.wasm");
    let text = r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1")))"#;
    std::fs::write(&module, wat::parse_str(text).expect("text")).expect("module");
    let module = module.display();
    let text = format!(
        r#"
service: {{ name: p, workload: orders, trust_domain: ringwall.local, profile: demo, listen: "127.0.0.1:0",
  admin: "127.0.0.1:0", identity: /nowhere, secrets: {{ provider: file, directory: /nowhere }} }}
plugins: [ {{ name: a, module: {module} }}, {{ name: b, module: {module} }}, {{ name: c, module: {module} }} ]
{config}
"#
    );
    let config: Config = parse_yaml(&text, Path::new("p.yaml")).expect("parse");
    let plugins = Plugins::new(None);
    let changes = plugins.prepare(&config.plugins, &[]).expect("plugins");
    Filters::of(&config, &plugins.serve(changes).expect("plugins"))
}

#[test]
fn r90_a_port_a_service_and_all_others_have_chains_of_their_own() {
    let filters = chain(
        r#"
inbound: [ { listen: "127.0.0.1:0", app: "127.0.0.1:1", port: 7105, filters: [a] } ]
outbound:
  filters: { "*": [a], payments: [a, b], "payments:5432": [a, b, c], "inventory:7103": [a, b], free: [] }
"#,
    );
    let length = |chain: &Chain| format!("{chain:?}").matches("Plugin(").count();
    assert_eq!(length(filters.inbound(7105)), 1);
    assert!(filters.inbound(7205).is_empty());
    for (service, port, expected) in [
        ("payments", 7106, 2),
        ("payments", 5432, 3),
        ("inventory", 7103, 2),
        ("inventory", 7203, 1),
        ("orders", 7105, 1),
        ("free", 7105, 0),
    ] {
        let chain = filters.outbound(service, port);
        assert_eq!(length(chain), expected, "{service}:{port} {chain:?}");
    }
}
