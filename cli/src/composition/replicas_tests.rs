//! Control planes that share a database: what must be declared for them, and what becomes of it.

use serde_json::json;

use super::*;
use crate::provision::secrets;
use crate::render::Rendering;
use crate::site::Site;
use crate::state::StateDir;

const MESH: &str = include_str!("../../testdata/mesh.yaml");
const FIRST: &str = "{ component: control-plane, bootstrap: 7310 }";
const BOTH: &str = "{ component: control-plane, bootstrap: 7310, store: postgres, replicas: [{ component: control-plane-2, bootstrap: 7320 }] }";
const PLANE: &str = "    port: 7110\n    admin: 7210\n";
const CALLING: &str = "    port: 7110\n    admin: 7210\n    networks: [mesh, data]\n    calls: [postgres]\n\n  - name: control-plane-2\n    what: its replica\n    binary: ringwall-control-plane\n    port: 7120\n    admin: 7220\n    networks: [mesh, data]\n    calls: [postgres]\n";

/// Two control planes over the one database server.
fn replicated() -> String {
    MESH.replacen(FIRST, BOTH, 1)
        .replacen(PLANE, CALLING, 1)
        .replacen(
            "databases: [orders]",
            "databases: [orders, control-plane]",
            1,
        )
        .replacen(
            "    callers: [orders]\n",
            "    callers: [orders, control-plane, control-plane-2]\n    networks: [mesh, data]\n",
            1,
        )
}

fn read(text: &str) -> Result<Composition, CliError> {
    let source = |name: &str, text: &str| Source {
        name: name.into(),
        text: text.into(),
    };
    let mut composition = Composition::read(&source("ringwall.yaml", text))?;
    let policy = include_str!("../../testdata/mesh-policy.yaml");
    composition.policy = Some(source("policy.yaml", policy));
    Ok(composition)
}

fn native(root: &std::path::Path) -> Site {
    Site::for_test(StateDir::new(root.to_path_buf()))
}

fn rendered(composition: &Composition, name: &str) -> Value {
    let site = native("/state".as_ref());
    let rendering = Rendering::new(composition, &site, Profile::Demo);
    let files = rendering.all().unwrap();
    let file = files.iter().find(|file| file.name == name).unwrap();
    serde_saphyr::from_str(&file.text).unwrap()
}

#[test]
fn one_control_plane_with_a_file_is_what_there_is_unless_said() {
    let composition = read(MESH).unwrap();
    assert_eq!(composition.control_planes().count(), 1);
    let plane = rendered(&composition, "control-plane");
    assert_eq!(
        plane["store"],
        json!({ "embedded": "/state/data/control-plane/control-plane.db" })
    );
    let agent = rendered(&composition, "agent");
    assert_eq!(agent["bootstrap"]["further"], json!([]));
}

#[test]
fn r31_replicas_share_a_database_and_are_one_to_everybody_else() {
    let composition = read(&replicated()).unwrap();
    policy::check(&composition).unwrap();
    for (name, bootstrap) in [("control-plane", 7310), ("control-plane-2", 7320)] {
        let plane = rendered(&composition, name);
        assert_eq!(plane["bootstrap"], format!("127.0.0.1:{bootstrap}"));
        assert_eq!(
            plane["store"]["postgres"],
            json!({
                "address": "127.0.0.1:7432", "server_name": "postgres", "database": "control-plane",
                "user": "control-plane", "tls": format!("/state/data/{name}/postgres"),
            })
        );
        let services = plane["services"].as_array().unwrap();
        let named = |name: &str| services.iter().any(|entry| entry["name"] == name);
        assert!(named("control-plane") && !named("control-plane-2"));
    }
    let second = rendered(&composition, "control-plane-2");
    assert_eq!(second["service"]["workload"], "control-plane");
    assert_eq!(second["service"]["identity"], "self");
    for name in ["agent", "orders-proxy", "egress"] {
        let upstreams = &rendered(&composition, name)["service"]["upstreams"];
        assert_eq!(
            upstreams["control-plane-2"],
            json!({ "address": "127.0.0.1:7120", "identity": "control-plane" }),
            "{name}"
        );
        assert_eq!(upstreams["control-plane"]["address"], "127.0.0.1:7110");
    }
    let agent = rendered(&composition, "agent");
    assert_eq!(agent["bootstrap"]["further"], json!(["127.0.0.1:7320"]));
    // It issues the certificate of its own role itself.
    let roles = agent["deliver"].as_array().unwrap().iter();
    let roles: Vec<_> = roles
        .filter(|one| one["kind"] == "database-client")
        .collect();
    assert_eq!(roles.len(), 1);
    assert_eq!(roles[0]["role"], "orders");
}

#[test]
fn replicas_that_share_nothing_are_refused() {
    for (from, to, what) in [
        (
            "store: postgres, ",
            "",
            "the control plane has 2 replicas, and each has a store of its own (`store: embedded`)",
        ),
        (
            "store: postgres, ",
            "store: embedded, ",
            "the control plane has 2 replicas, and each has a store of its own (`store: embedded`)",
        ),
        (
            "databases: [orders, control-plane]",
            "databases: [orders]",
            "no server has a database `control-plane`",
        ),
        (
            "component: control-plane-2,",
            "component: inventory,",
            "a replica of the control plane is called `inventory`",
        ),
        (
            "component: control-plane-2,",
            "component: control-plane-3,",
            "is `control-plane-3`, which is no component",
        ),
        (
            "its replica\n    binary: ringwall-control-plane",
            "its replica\n    binary: ringwall-agent",
            "`control-plane-2` is no control plane",
        ),
        (
            "bootstrap: 7320",
            "bootstrap: 7310",
            "port 7310 of the control plane",
        ),
        ("store: postgres", "store: sqlite", "sqlite"),
    ] {
        let text = replicated();
        assert!(text.contains(from), "{from}");
        let said = read(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(said.contains(what), "{said}");
        assert!(
            said.starts_with("ringwall.yaml:") && said.contains("\n  fix: "),
            "{said}"
        );
    }
    let silent = replicated()
        .replacen(
            "    admin: 7220\n    networks: [mesh, data]\n    calls: [postgres]\n",
            "    admin: 7220\n",
            1,
        )
        .replacen(", control-plane-2]\n    networks", "]\n    networks", 1);
    let said = read(&silent).unwrap_err().to_string();
    assert!(
        said.contains("`control-plane-2` does not call `postgres`, which has its state"),
        "{said}"
    );
}

#[test]
fn replicas_have_the_same_secrets_and_their_database_a_certificate_to_begin_with() {
    let folder = tempfile::tempdir().unwrap();
    let composition = read(&replicated()).unwrap();
    let site = native(&folder.path().join("state"));
    site.state().create(&composition).unwrap();
    let choices = crate::provision::Choices::default();
    let provision =
        || crate::provision::run(&composition, &site, Profile::Demo, &choices).map(drop);
    provision().unwrap();
    for name in [
        "intermediate-cert",
        "intermediate-key",
        "store-key",
        "postgres-password",
        "join-tokens",
    ] {
        let secret = |holder: &str| {
            let secret = secrets::read(site.state(), holder, name).unwrap();
            secret.expect(name).expose().clone()
        };
        assert_eq!(secret("control-plane"), secret("control-plane-2"), "{name}");
    }
    let tls = site.database_folder("postgres").join("tls");
    let first = std::fs::read_to_string(tls.join("server.pem")).unwrap();
    assert_eq!(
        first.matches("BEGIN CERTIFICATE").count(),
        2,
        "with the intermediate"
    );
    assert!(tls.join("server.key").exists() && tls.join("bundle.pem").exists());
    // A later start leaves what the agent may have renewed meanwhile.
    provision().unwrap();
    assert_eq!(
        std::fs::read_to_string(tls.join("server.pem")).unwrap(),
        first
    );
}
