//! What a composition may and may not say.

use super::*;
use crate::state::StateDir;

const SMALL: &str = include_str!("../../testdata/small.yaml");

fn read(text: &str) -> Result<Composition, CliError> {
    Composition::read(&Source {
        name: "ringwall.yaml".into(),
        text: text.into(),
    })
}

/// The error of the small composition with one text replaced.
fn refusal(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    read(&SMALL.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn the_composition_at_the_root_is_valid() {
    let text = include_str!("../../../ringwall.yaml");
    let composition = read(text).unwrap();
    assert!(composition.component("gateway").is_some());
    for component in composition.binaries() {
        let state = StateDir::new("/state".into());
        crate::render::config(&composition, component, &state, Profile::Demo).unwrap();
    }
}

#[test]
fn an_unknown_component_is_named_with_line_and_the_likely_word() {
    assert_eq!(
        refusal(
            "calls: [postgres, inventory]",
            "calls: [postgres, inventry]"
        ),
        "ringwall.yaml:28:23: component `orders` calls `inventry`, which is no component\n  \
         fix: did you mean `inventory`?"
    );
}

#[test]
fn a_port_is_given_once() {
    assert_eq!(
        refusal("port: 7105", "port: 7203"),
        "ringwall.yaml:25:11: port 7203 of orders is taken by inventory\n  \
         fix: give each listener a port of its own"
    );
}

#[test]
fn a_cycle_is_drawn() {
    let text = refusal(
        "callers: [orders]\n\n  - name: orders",
        "callers: [orders]\n    needs: [orders]\n\n  - name: orders",
    );
    assert!(
        text.contains("these components wait for each other: inventory → orders → inventory"),
        "{text}"
    );
}

#[test]
fn an_edge_stands_at_both_ends() {
    assert_eq!(
        refusal("calls: [postgres, inventory]", "calls: [postgres]"),
        "ringwall.yaml:20:15: `inventory` lets `orders` call it, but `orders` does not\n  \
         fix: add `inventory` to the calls of `orders` (line 22), or remove the caller"
    );
    let text = refusal("admin: 7203\n    callers: [orders]", "admin: 7203");
    assert!(
        text.contains("`orders` calls `inventory`, but `inventory` does not let it"),
        "{text}"
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let text = refusal("    what: stock", "    what: stock\n    colour: red");
    assert!(text.starts_with("ringwall.yaml:17:5: "), "{text}");
    assert!(text.contains("colour"), "{text}");
}

#[test]
fn names_are_names() {
    assert!(
        refusal("- name: inventory", "- name: Inventory").contains("cannot be a component's name")
    );
    assert!(refusal("- name: inventory", "- name: ringwall").contains("operator's own identity"));
    assert!(refusal("- name: inventory", "- name: orders").contains("declared a second time"));
}

#[test]
fn a_component_is_a_binary_or_a_database() {
    let text = refusal(
        "binary: ringwall-inventory",
        "binary: x\n    postgres: { databases: [] }",
    );
    assert!(
        text.contains("exactly one of `binary` and `postgres`"),
        "{text}"
    );
    assert!(refusal("    admin: 7203\n", "").contains("has no `admin` port"));
}

#[test]
fn certificates_are_short_lived() {
    assert!(refusal("workloads: 1h", "workloads: 2h").contains("longer than 1 h"));
    assert!(refusal("workloads: 1h", "workloads: 5s").contains("shorter than 10 s"));
}

#[test]
fn secrets_have_holders_and_peppers() {
    assert!(
        refusal("inventory: shared-by-inventory", "invent: x").contains("a secret is for `invent`")
    );
    assert!(
        refusal(
            "for: { orders: shared-by-orders, inventory: shared-by-inventory }",
            "for: {}"
        )
        .contains("nobody holds")
    );
    assert!(
        refusal("orders: shared-by-orders", "orders: postgres-password")
            .contains("two secrets called")
    );
    assert!(
        refusal("inventory: api-key-pepper", "inventory: salt").contains("no `api-key-pepper`")
    );
}

#[test]
fn a_database_belongs_to_a_workload() {
    let text = refusal("databases: [orders]", "databases: [order]");
    assert!(
        text.contains("database `order` has no workload of that name"),
        "{text}"
    );
}

#[test]
fn a_configuration_is_rendered_from_ports_and_edges() {
    let composition = read(SMALL).unwrap();
    let state = StateDir::new("/state".into());
    let orders = composition.component("orders").unwrap();
    let text = crate::render::config(&composition, orders, &state, Profile::Demo).unwrap();
    let value: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(value["service"]["listen"], "127.0.0.1:7105");
    assert_eq!(value["service"]["admin"], "127.0.0.1:7205");
    assert_eq!(
        value["service"]["upstreams"]["inventory"]["address"],
        "127.0.0.1:7103"
    );
    assert!(
        value["service"]["upstreams"].get("postgres").is_none(),
        "no mesh upstream: {text}"
    );
    assert_eq!(value["service"]["telemetry"]["upstream"], "inventory");
    assert_eq!(value["issuer"], "https://auth.localhost:8443");
    assert_eq!(value["tls"], "/state/identity/orders/postgres");
    assert_eq!(value["address"], "127.0.0.1:7432");
    assert_eq!(value["public"], 8443);
    assert_eq!(value["listen"][0], "127.0.0.1:8443");
    let inventory = composition.component("inventory").unwrap();
    let text = crate::render::config(&composition, inventory, &state, Profile::Demo).unwrap();
    let value: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(
        value["service"]["callers"],
        serde_json::json!(["inventory", "orders"])
    );
}

#[test]
fn an_unknown_variable_is_refused() {
    let composition = read(&SMALL.replace("${url:auth}", "${url:shop}")).unwrap();
    let orders = composition.component("orders").unwrap();
    let state = StateDir::new("/state".into());
    let error = crate::render::config(&composition, orders, &state, Profile::Demo).unwrap_err();
    assert!(
        error.to_string().contains("`${url:shop}` is no variable"),
        "{error}"
    );
}

#[test]
fn other_ports_reach_every_listener() {
    let mut composition = read(SMALL).unwrap();
    composition.renumber(|port| port + 1000);
    let ports: Vec<u16> = composition
        .listeners()
        .iter()
        .map(|(address, _)| address.port())
        .collect();
    assert_eq!(ports, [8432, 8103, 8203, 8105, 8205, 9443]);
    assert_eq!(composition.url("app"), "https://app.localhost:9443");
}
