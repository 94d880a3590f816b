//! What a composition may and may not say.

use super::*;
use crate::render::Rendering;
use crate::site::Site;
use crate::state::StateDir;

const SMALL: &str = include_str!("../../testdata/small.yaml");

fn read(text: &str) -> Result<Composition, CliError> {
    Composition::read(&Source {
        name: "ringwall.yaml".into(),
        text: text.into(),
    })
}

fn native() -> Site {
    Site::for_test(StateDir::new("/state".into()))
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
        Rendering::new(&composition, &native(), Profile::Demo)
            .component(component)
            .unwrap();
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
        refusal("- name: inventory", "- name: Inventory")
            .contains("cannot be the name of a component")
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
    let orders = composition.component("orders").unwrap();
    let text = Rendering::new(&composition, &native(), Profile::Demo)
        .component(orders)
        .unwrap();
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
    let text = Rendering::new(&composition, &native(), Profile::Demo)
        .component(inventory)
        .unwrap();
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
    let error = Rendering::new(&composition, &native(), Profile::Demo)
        .component(orders)
        .unwrap_err();
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

fn containers() -> Site {
    Site::containers(&StateDir::new("/state".into()), "/volumes".as_ref())
}

fn rendered(composition: &Composition, name: &str, site: &Site) -> Value {
    let component = composition.component(name).unwrap();
    let text = Rendering::new(composition, site, Profile::Demo)
        .component(component)
        .unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

#[test]
fn in_a_container_names_are_dialled_and_paths_are_the_container_s() {
    let composition = read(SMALL).unwrap();
    let value = rendered(&composition, "orders", &containers());
    let service = &value["service"];
    assert_eq!(service["listen"], "0.0.0.0:7105");
    assert_eq!(service["admin"], "0.0.0.0:7205");
    assert_eq!(service["identity"], "/run/ringwall/identity");
    assert_eq!(service["state"], "/var/lib/ringwall");
    assert_eq!(
        service["upstreams"]["inventory"]["address"],
        "inventory:7103"
    );
    assert_eq!(service["secrets"]["file"], "/run/ringwall/orders.sealed");
    assert_eq!(
        service["secrets"]["key_file"],
        "/run/ringwall/orders.seal-key"
    );
    assert_eq!(
        service["admin_callers"],
        serde_json::json!(["ringwall", "prometheus", "orders"])
    );
    assert_eq!(value["address"], "postgres:7432");
    assert_eq!(value["tls"], "/run/ringwall/identity/postgres");
    assert_eq!(value["listen"], serde_json::json!(["0.0.0.0:8443"]));
}

#[test]
fn nothing_of_this_machine_gets_into_a_container() {
    let mut composition = read(include_str!("../../../ringwall.yaml")).unwrap();
    composition.policy = Some(Source {
        name: "deploy/mesh/policy.yaml".into(),
        text: include_str!("../../../deploy/mesh/policy.yaml").into(),
    });
    for component in composition.binaries() {
        let name = &component.name.value;
        let text = rendered(&composition, name, &containers()).to_string();
        for ours in ["/state", "/volumes"] {
            assert!(!text.contains(ours), "{name}: {ours} in {text}");
        }
        // Loopback is the pod's own: nothing else answers there.
        let beside = composition.sidecar(component).into_iter();
        let beside = beside.flat_map(mesh::ports).map(|(port, _)| port);
        let own: Vec<u16> = component
            .port
            .iter()
            .chain(beside)
            .map(|port| port.value)
            .collect();
        for (place, _) in text.match_indices("127.0.0.1:") {
            let rest = &text[place + "127.0.0.1:".len()..];
            let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap();
            let port: u16 = rest[..end].parse().unwrap();
            assert!(port == 0 || own.contains(&port), "{name}: {port} in {text}");
        }
    }
    let value = rendered(&composition, "spa-proxy", &containers());
    assert_eq!(value["assets"], "/usr/share/ringwall/web");
    assert_eq!(value["api"]["address"], "gateway:8443");
    assert_eq!(value["api"]["roots"], "/run/ringwall/ca.pem");
    assert_eq!(value["traces"]["export_to"], "jaeger");
    // The proxy of the collector finds it, and is allowed to.
    let outbound = &value["service"]["sidecar"]["outbound"];
    assert_eq!(
        value["service"]["upstreams"]["jaeger"],
        serde_json::json!({ "address": outbound, "identity": "jaeger" })
    );
    let value = rendered(&composition, "control-plane", &containers());
    let services = value["services"].as_array().unwrap();
    let jaeger = services.iter().find(|service| service["name"] == "jaeger");
    assert_eq!(
        jaeger.unwrap()["direct"],
        serde_json::json!(["jaeger:4318"])
    );
    let edge = serde_json::json!({ "caller": "spa-proxy", "callee": "jaeger", "ports": [4318] });
    let edges = value["policy"]["edges"].as_array().unwrap();
    assert!(edges.contains(&edge), "{edges:?}");
    let value = rendered(&composition, "gateway", &containers());
    let certificate = &value["listeners"][0]["tls"]["certificates"][0];
    assert_eq!(certificate["chain"], "/run/ringwall/edge/chain.pem");
}

#[test]
fn natively_spans_stay_with_the_collector() {
    let composition = read(include_str!("../../../ringwall.yaml")).unwrap();
    let value = rendered(&composition, "spa-proxy", &native());
    assert_eq!(value["traces"]["export_to"], Value::Null);
    assert!(value["service"]["upstreams"].get("jaeger").is_none());
    assert_eq!(value["api"]["address"], "127.0.0.1:8443");
    assert_eq!(value["api"]["roots"], "/state/ca/root.pem");
}

#[test]
fn an_unknown_network_is_refused_with_its_line() {
    let text = refusal("port: 7103", "port: 7103\n    networks: [mesh, dmz]");
    assert!(text.starts_with("ringwall.yaml:19:22: "), "{text}");
    assert!(text.contains("dmz") && text.contains("edge"), "{text}");
}

#[test]
fn only_the_public_component_stands_at_the_edge() {
    assert_eq!(
        refusal("port: 7103", "port: 7103\n    networks: [mesh, edge]"),
        "ringwall.yaml:19:22: `inventory` stands in the network `edge`\n  \
         fix: remove it: only `orders` (public.component) may"
    );
    let text = SMALL.replace("port: 7105", "port: 7105\n    networks: [edge, mesh]");
    read(&text).unwrap();
}

#[test]
fn the_ends_of_an_edge_share_a_network() {
    assert_eq!(
        refusal("port: 7432", "port: 7432\n    networks: [data]"),
        "ringwall.yaml:29:13: `orders` calls `postgres`, but they share no network: [mesh] and [data]\n  \
         fix: add a network of `postgres` (line 9) to `networks` of `orders`"
    );
    let lone = SMALL.replace("port: 7432", "port: 7432\n    networks: [data]");
    let both = lone.replace("port: 7105", "port: 7105\n    networks: [mesh, data]");
    read(&both).unwrap();
}

#[test]
fn a_sender_reaches_the_collector() {
    let text = SMALL
        .replace("calls: [postgres, inventory]", "calls: [postgres]")
        .replace(
            "    callers: [orders]\n\n  - name: orders",
            "\n  - name: orders",
        )
        .replace("port: 7432", "port: 7432\n    networks: [data]")
        .replace("port: 7105", "port: 7105\n    networks: [data]");
    let text = read(&text).unwrap_err().to_string();
    assert!(
        text.contains("`orders` sends spans to `inventory`, but they share no network"),
        "{text}"
    );
}

#[test]
fn an_engine_has_a_name_of_its_own() {
    let engines = |list: &str| read(&format!("{SMALL}\nengines: [{list}]\n"));
    engines("{ name: nats, profile: scale-out }").unwrap();
    let refused = |list: &str| engines(list).unwrap_err().to_string();
    assert!(refused("{ name: orders, profile: x }").contains("a name that is taken"));
    assert!(refused("{ name: ringwall, profile: x }").contains("operator's own identity"));
    assert!(refused("{ name: Nats, profile: x }").contains("`Nats` cannot be the name of"));
    assert!(refused("{ name: nats, profile: '' }").contains("has no profile"));
}

#[test]
fn spans_are_passed_on_to_a_declared_engine() {
    let text = refusal(
        "sample_ratio: 1.0",
        "sample_ratio: 1.0, export: { to: jaeger, port: 4318 }",
    );
    assert!(
        text.contains("telemetry.export.to is `jaeger`, which is no engine"),
        "{text}"
    );
}
