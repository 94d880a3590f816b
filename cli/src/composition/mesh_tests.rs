//! What a composition may and may not say of the mesh, and what becomes of it.

use serde_json::json;

use super::*;
use crate::render::Rendering;
use crate::site::Site;
use crate::state::StateDir;

const MESH: &str = include_str!("../../testdata/mesh.yaml");

fn read(text: &str) -> Result<Composition, CliError> {
    let mut composition = Composition::read(&Source {
        name: "ringwall.yaml".into(),
        text: text.into(),
    })?;
    composition.policy = Some(policy_source(include_str!(
        "../../testdata/mesh-policy.yaml"
    )));
    Ok(composition)
}

fn policy_source(text: &str) -> Source {
    Source {
        name: "policy.yaml".into(),
        text: text.into(),
    }
}

fn native() -> Site {
    Site::for_test(StateDir::new("/state".into()))
}

fn containers() -> Site {
    Site::containers(&StateDir::new("/state".into()), "/volumes".as_ref())
}

/// The error of the composition with one text replaced.
fn refusal(from: &str, to: &str) -> String {
    assert!(MESH.contains(from), "{from}");
    read(&MESH.replacen(from, to, 1)).unwrap_err().to_string()
}

/// The configuration of one process.
fn rendered(site: &Site, name: &str) -> Value {
    let composition = read(MESH).unwrap();
    let files = Rendering::new(&composition, site, Profile::Demo)
        .all()
        .unwrap();
    let file = files.iter().find(|file| file.name == name).unwrap();
    serde_saphyr::from_str(&file.text).unwrap()
}

#[test]
fn r25_every_component_stands_behind_a_proxy_or_speaks_mtls_itself() {
    let line = "    sidecar: { app: 7303, app_admin: 7403, outbound: 7503, admin: 7603 }\n";
    let text = refusal(line, "");
    assert!(text.contains("`inventory` has no service proxy"), "{text}");
    assert!(text.contains("fix: add `sidecar: {"), "{text}");
    let text = refusal(
        "    admin: 7208\n",
        &format!(
            "    admin: 7208\n{}",
            line.replace("73", "83")
                .replace("74", "84")
                .replace("75", "85")
                .replace("76", "86")
        ),
    );
    assert!(
        text.contains("`gateway` has a service proxy before it"),
        "{text}"
    );
}

#[test]
fn the_parts_of_the_mesh_are_known_and_what_they_must_be() {
    for (from, to, what) in [
        (
            "agent: agent",
            "agent: agnt",
            "mesh.agent is `agnt`, which is no component",
        ),
        (
            "egress: egress",
            "egress: gateway",
            "mesh.egress is `gateway`, which is no service proxy",
        ),
        (
            "component: control-plane",
            "component: gateway",
            "the control plane is called `gateway`",
        ),
        (
            "    admin: 7211",
            "    port: 7111\n    admin: 7211",
            "the agent `agent` has a `port`",
        ),
        (
            "    port: 7103\n",
            "",
            "component `inventory` has no `port`",
        ),
        (
            "  - name: egress\n",
            "  - name: orders-proxy\n",
            "mesh.egress is `egress`, which is no component",
        ),
        (
            "node: local",
            "node: Local",
            "`Local` cannot be the name of a node",
        ),
        ("outbound: 7503", "outbound: 7105", "port 7105 of "),
        (
            "bootstrap: 7310",
            "bootstrap: 7305",
            "port 7305 of the control plane is taken by orders",
        ),
    ] {
        let text = refusal(from, to);
        assert!(text.contains(what), "{text}");
        assert!(
            text.starts_with("ringwall.yaml:") && text.contains("\n  fix: "),
            "{text}"
        );
    }
}

#[test]
fn r31_traffic_that_proxies_would_refuse_is_refused_before_anything_starts() {
    for (traffic, what, fix) in [
        (
            "{ retries: { attempts: 11 } }",
            "traffic.retries.attempts of `orders` is 11, expected 0 to 10",
            "leave `attempts` out for 1",
        ),
        (
            "{ routes: [{ prefix: v1 }] }",
            "traffic.routes[0].prefix of `orders` is `v1`, expected the begin of a path",
            "write it like `/v1/items`",
        ),
        (
            "{ timeout: 0s }",
            "traffic.timeout of `orders` is 0ms, expected 1ms to 1h",
            "leave `timeout` out",
        ),
        ("{ retry: 1 }", "unknown field `retry`", "ringwall.yaml"),
    ] {
        let text = refusal("traffic: { timeout: 5s }", &format!("traffic: {traffic}"));
        assert!(text.contains(what) && text.contains(fix), "{text}");
        assert!(text.starts_with("ringwall.yaml:66:"), "{text}");
    }
    let off = "traffic: { retries: { attempts: 0 } }";
    let composition = read(&MESH.replacen("traffic: { timeout: 5s }", off, 1)).unwrap();
    let site = native();
    let plane = composition.control_plane().unwrap();
    let text = Rendering::new(&composition, &site, Profile::Demo)
        .component(plane)
        .unwrap();
    let value: Value = serde_saphyr::from_str(&text).unwrap();
    let orders = value["services"].as_array().unwrap().iter();
    let orders = orders.clone().find(|entry| entry["name"] == "orders");
    assert_eq!(
        orders.unwrap()["traffic"],
        json!({ "retries": { "attempts": 0 } }),
        "0 is not nothing"
    );
}

#[test]
fn r28_weight_and_zone_reach_the_proxy() {
    let proxy = rendered(&native(), "inventory-proxy");
    assert_eq!(
        (&proxy["zone"], proxy.get("weight")),
        (&json!("local"), None)
    );
    let text = MESH
        .replacen("node: local", "node: local\n  zone: eu-1", 1)
        .replacen("admin: 7603 }", "admin: 7603, weight: 0 }", 1);
    let composition = read(&text).unwrap();
    let site = native();
    let files = Rendering::new(&composition, &site, Profile::Demo)
        .all()
        .unwrap();
    let proxy = files.iter().find(|file| file.name == "inventory-proxy");
    let proxy: Value = serde_saphyr::from_str(&proxy.unwrap().text).unwrap();
    assert_eq!(
        (&proxy["zone"], &proxy["weight"]),
        (&json!("eu-1"), &json!(0))
    );
    assert_eq!(proxy["node"], "local");
    for (from, to, what) in [
        (
            "admin: 7603 }",
            "admin: 7603, weight: 10001 }",
            "the weight of `inventory` is 10001, expected 0 to 10000",
        ),
        (
            "node: local",
            "node: local\n  zone: Europe",
            "`Europe` cannot be the name of a zone",
        ),
    ] {
        let said = refusal(from, to);
        assert!(said.contains(what) && said.contains("\n  fix: "), "{said}");
    }
}

#[test]
fn a_database_is_dialled_through_the_proxy() {
    let text = refusal("      tcp: [{ to: postgres, port: 7705 }]\n", "");
    assert!(
        text.contains("`orders` calls `postgres`, and its proxy has no listener for that"),
        "{text}"
    );
    let text = refusal(
        "tcp: [{ to: postgres, port: 7705 }]",
        "tcp: [{ to: postgres, port: 7705 }, { to: inventory, port: 7706 }]",
    );
    assert!(
        text.contains("passes bytes on to `inventory`, which speaks HTTP"),
        "{text}"
    );
    let value = rendered(&native(), "orders");
    assert_eq!(value["address"], "127.0.0.1:7705");
    let proxy = rendered(&native(), "orders-proxy");
    assert_eq!(
        proxy["outbound"]["tcp"],
        json!([{ "listen": "127.0.0.1:7705", "service": "postgres" }])
    );
}

#[test]
fn a_component_behind_a_proxy_speaks_plaintext_on_loopback_only() {
    for site in [native(), containers()] {
        let service = &rendered(&site, "orders")["service"];
        assert_eq!(service["listen"], "127.0.0.1:7305");
        assert_eq!(service["admin"], "127.0.0.1:7405");
        assert_eq!(service["sidecar"], json!({ "outbound": "127.0.0.1:7505" }));
        assert!(service.get("identity").is_none());
        let inventory = json!({ "address": "127.0.0.1:7505", "identity": "inventory" });
        assert_eq!(service["upstreams"]["inventory"], inventory);
        assert_eq!(service["callers"], json!(["gateway"]));
    }
}

#[test]
fn a_proxy_takes_over_the_component_s_addresses_and_identity() {
    let proxy = rendered(&native(), "orders-proxy");
    assert_eq!(proxy["service"]["name"], "orders-proxy");
    assert_eq!(proxy["service"]["workload"], "orders");
    assert_eq!(proxy["service"]["identity"], "unix:/state/run/agent.sock");
    assert_eq!(proxy["service"]["admin"], "127.0.0.1:7605");
    assert_eq!(
        proxy["inbound"],
        json!([
            { "listen": "127.0.0.1:7105", "app": "127.0.0.1:7305", "port": 7105, "protocol": "http" },
            { "listen": "127.0.0.1:7205", "app": "127.0.0.1:7405", "port": 7205, "protocol": "http" },
        ])
    );
    assert_eq!(proxy["outbound"]["http"], "127.0.0.1:7505");
    assert_eq!(proxy["user_context"]["issuer_upstream"], "gateway");
    assert_eq!(
        proxy["service"]["upstreams"]["gateway"]["address"],
        "127.0.0.1:7108"
    );
    assert!(
        proxy.get("hbone").is_none(),
        "one machine has one such port"
    );
    assert!(
        rendered(&native(), "inventory-proxy")
            .get("user_context")
            .is_none()
    );
    let proxy = rendered(&containers(), "orders-proxy");
    assert_eq!(proxy["inbound"][0]["listen"], "0.0.0.0:7105");
    assert_eq!(proxy["outbound"]["http"], "127.0.0.1:7505");
    assert_eq!(proxy["hbone"], "0.0.0.0:15008");
    assert_eq!(
        proxy["service"]["upstreams"]["control-plane"]["address"],
        "control-plane:7110"
    );
}

#[test]
fn r90_a_component_s_block_names_plugins_of_its_proxy() {
    let plain = rendered(&native(), "orders-proxy");
    for key in ["plugins", "plugin_keys"] {
        assert!(plain.get(key).is_none(), "{key}");
    }
    let declared = r#"    sidecar:
      plugins:
        - { name: audit, module: "${data}/audit.wasm", capabilities: { read_headers: ["*"] } }
        - { name: framing, module: /plugins/framing.wasm, configuration: { limit: 7 } }
      plugin_keys: [/plugins/release.pub]
      filters: { inbound: [audit], outbound: { inventory: [audit], "postgres:7432": [framing], "*": [] } }
      app: 7305
"#;
    let text = MESH.replacen("    sidecar:\n      app: 7305\n", declared, 1);
    let composition = read(&text).unwrap();
    let rendering = Rendering::new(&composition, &native(), Profile::Demo).all();
    let files = rendering.unwrap();
    let value = |name: &str| -> Value {
        let file = files.iter().find(|file| file.name == name).unwrap();
        serde_saphyr::from_str(&file.text).unwrap()
    };
    let proxy = value("orders-proxy");
    assert_eq!(
        proxy["plugins"][0]["module"],
        "/state/data/orders/audit.wasm"
    );
    assert_eq!(
        proxy["plugins"][1],
        json!({ "name": "framing", "module": "/plugins/framing.wasm", "configuration": { "limit": 7 } })
    );
    assert_eq!(proxy["plugin_keys"], json!(["/plugins/release.pub"]));
    assert_eq!(proxy["inbound"][0]["filters"], json!(["audit"]));
    assert!(
        proxy["inbound"][1].get("filters").is_none(),
        "health has none"
    );
    assert_eq!(
        proxy["outbound"]["filters"],
        json!({ "inventory": ["audit"], "postgres:7432": ["framing"], "*": [] })
    );
    assert!(value("orders").get("plugins").is_none());
    let unknown = text.replacen("${data}/audit.wasm", "${nowhere}/audit.wasm", 1);
    let composition = read(&unknown).unwrap();
    let refused = Rendering::new(&composition, &native(), Profile::Demo).all();
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("sidecar.plugins"), "{refused}");
}

#[test]
fn r36_a_proxy_hands_in_its_spans_where_its_component_does() {
    let proxy = rendered(&native(), "orders-proxy");
    let telemetry = json!({ "upstream": "inventory", "sample_ratio": 1.0 });
    assert_eq!(proxy["service"]["telemetry"], telemetry);
    assert_eq!(
        proxy["service"]["upstreams"]["inventory"],
        json!({ "address": "127.0.0.1:7103", "identity": "inventory" })
    );
    let own = rendered(&containers(), "inventory-proxy");
    assert_eq!(
        own["service"]["upstreams"]["inventory"]["address"],
        "inventory:7103"
    );
    let egress = rendered(&native(), "egress");
    assert_eq!(egress["service"].get("telemetry"), None);
}

#[test]
fn r37_the_collector_may_pass_spans_on_to_an_engine() {
    let text = MESH.replacen(
        "sample_ratio: 1.0 }",
        "sample_ratio: 1.0, export: { to: jaeger, port: 4318 } }\nengines: [{ name: jaeger, profile: observability }]",
        1,
    );
    let composition = read(&text).unwrap();
    let edges = |site: &Site| -> Vec<Value> {
        let files = Rendering::new(&composition, site, Profile::Demo)
            .all()
            .unwrap();
        let plane = files.iter().find(|file| file.name == "control-plane");
        let value: Value = serde_saphyr::from_str(&plane.unwrap().text).unwrap();
        value["policy"]["edges"].as_array().unwrap().clone()
    };
    let edge = json!({ "caller": "inventory", "callee": "jaeger", "ports": [4318] });
    assert!(edges(&containers()).contains(&edge));
    assert!(!edges(&native()).contains(&edge), "there is no such engine");
}

#[test]
fn r53_the_registry_knows_every_component_once() {
    let value = rendered(&native(), "control-plane");
    assert_eq!(value["service"]["identity"], "self");
    assert_eq!(value["bootstrap"], "127.0.0.1:7310");
    let services = value["services"].as_array().unwrap();
    let named = |name: &str| services.iter().find(|entry| entry["name"] == name).unwrap();
    let names: BTreeSet<&str> = services
        .iter()
        .filter_map(|entry| entry["name"].as_str())
        .collect();
    assert_eq!(names.len(), services.len());
    assert!(names.contains("prometheus") && !names.contains("agent"));
    let orders = named("orders");
    assert_eq!(orders["owner"], "shop");
    assert_eq!(orders["tier"], "sensitive");
    assert_eq!(orders["nodes"], json!(["local"]));
    assert_eq!(orders["database_roles"], json!(["orders"]));
    assert_eq!(orders["traffic"], json!({ "timeout": "5s" }));
    assert_eq!(named("postgres")["direct"], json!(["127.0.0.1:7432"]));
    assert_eq!(
        named("postgres")["ports"],
        json!([{ "number": 7432, "protocol": "tcp" }])
    );
    assert_eq!(named("gateway")["server_names"][0], "app.localhost");
    // Nobody but the operator's own machine gives this identity away.
    assert_eq!(named("ringwall")["nodes"], json!([]));
    assert_eq!(named("control-plane")["nodes"], json!([]));
}

#[test]
fn r50_the_edges_are_those_that_are_declared() {
    let edges = read(MESH).unwrap().edges();
    let has = |caller: &str, callee: &str, port: u16| {
        edges
            .iter()
            .any(|edge| edge.caller == caller && edge.callee == callee && edge.port == port)
    };
    assert!(has("orders", "inventory", 7103) && has("gateway", "orders", 7105));
    assert!(
        has("orders", "postgres", 7432) && has("gateway", "inventory", 7103),
        "spans"
    );
    assert!(has("ringwall", "orders", 7205) && has("prometheus", "orders", 7205));
    assert!(!has("inventory", "orders", 7105));
    assert!(
        !has("orders", "inventory", 7203),
        "the admin listener is not for callers"
    );
    assert!(
        !edges
            .iter()
            .any(|edge| edge.callee == "control-plane" || edge.callee == "agent")
    );
}

#[test]
fn the_agent_delivers_to_those_that_read_files() {
    let value = rendered(&native(), "agent");
    assert_eq!(value["service"]["workload"], "agent/local");
    assert_eq!(value["bootstrap"]["address"], "127.0.0.1:7310");
    assert!(value.get("attestation").is_none(), "control groups say it");
    let composition = read(MESH).unwrap();
    let site = native();
    let rendering = Rendering {
        spawned: true,
        ..Rendering::new(&composition, &site, Profile::Demo)
    };
    let text = rendering
        .component(composition.component("agent").unwrap())
        .unwrap();
    assert!(text.contains("/state/run/agent-control.sock"), "{text}");
    let deliveries = value["deliver"].as_array().unwrap();
    let kinds: Vec<&str> = deliveries
        .iter()
        .filter_map(|one| one["kind"].as_str())
        .collect();
    assert_eq!(kinds, ["server", "server", "database-client"]);
    assert_eq!(
        deliveries[2]["directory"],
        "/state/identity/orders/postgres"
    );
    let value = rendered(&containers(), "agent");
    assert_eq!(
        value["deliver"][2]["directory"],
        "/run/deliver/orders/identity/postgres"
    );
    // The host's control groups cannot be seen from a container; the socket's volume is the engine's to give.
    assert_eq!(
        value["attestation"],
        serde_json::json!({ "require_owned_cgroups": false })
    );
}

#[test]
fn r31_a_policy_whose_cases_do_not_hold_is_refused_before_anything_starts() {
    let mut composition = read(MESH).unwrap();
    policy::check(&composition).unwrap();
    let text = include_str!("../../testdata/mesh-policy.yaml");
    for (from, to, what) in [
        (
            "GET /v1/items, expect: allow",
            "PUT /v1/items, expect: allow",
            "PUT /v1/items",
        ),
        ("Action::\"GET\"", "Action::\"FETCH\"", "FETCH"),
        (
            "  inventory:\n    - {",
            "  inventry:\n    - {",
            "`inventry` is no component",
        ),
        (
            "ask: GET /v1/items",
            "ask: GET",
            "`GET` is no `METHOD /path`",
        ),
        ("cases:", "cases: {}\nmore:", "more"),
    ] {
        assert!(text.contains(from), "{from}");
        composition.policy = Some(policy_source(&text.replacen(from, to, 1)));
        let error = policy::check(&composition).unwrap_err().to_string();
        assert!(
            error.starts_with("policy.yaml") && error.contains(what),
            "{error}"
        );
    }
}

#[test]
fn other_ports_reach_every_listener_of_the_mesh() {
    let mut composition = read(MESH).unwrap();
    let count = composition.listeners().len();
    let distinct = |composition: &Composition| -> BTreeSet<u16> {
        composition
            .listeners()
            .iter()
            .map(|(address, _)| address.port())
            .collect()
    };
    assert_eq!(distinct(&composition).len(), count);
    composition.renumber(|port| port + 1000);
    assert!(distinct(&composition).iter().all(|port| *port > 8000));
    policy::check(&composition).unwrap();
}
