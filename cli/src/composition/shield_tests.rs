//! What becomes of `public.shield`.

use serde_json::json;

use super::*;
use crate::interception::Interception;
use crate::render::Rendering;
use crate::site::Site;
use crate::state::StateDir;

const PLATFORM: &str = include_str!("../../../ringwall.yaml");
const SHIELD: &str = "  component: gateway\n  shield: { interfaces: [eth0], connections: { per_second: 50, burst: 200 }, allow: [203.0.113.0/28] }\n";

/// The configuration of one process, under interception or without.
fn rendered(text: &str, name: &str, intercepted: bool) -> Value {
    let composition = Composition::read(&Source {
        name: "ringwall.yaml".into(),
        text: text.into(),
    });
    let composition = composition.unwrap();
    let site = Site::for_test(StateDir::new("/state".into()));
    let kernel = Interception {
        object: "/bin/ringwall.bpf.o".into(),
        slice: "/sys/fs/cgroup/ringwall-x.slice".into(),
        pins: "/sys/fs/bpf/ringwall-x".into(),
        by_engine: None,
    };
    let rendering = Rendering {
        kernel: intercepted.then_some(&kernel),
        ..Rendering::new(&composition, &site, Profile::Demo)
    };
    let component = composition.component(name).unwrap();
    serde_saphyr::from_str(&rendering.component(component).unwrap()).unwrap()
}

fn shielded() -> String {
    PLATFORM.replacen("  component: gateway\n", SHIELD, 1)
}

#[test]
fn the_agent_guards_the_public_port_and_the_gateway_feeds_it() {
    let agent = rendered(&shielded(), "agent", true);
    assert_eq!(
        agent["kernel"]["shield"],
        json!({
            "interfaces": ["eth0"], "ports": [8443], "connections": { "per_second": 50, "burst": 200 },
            "allow": ["203.0.113.0/28"], "feeders": ["gateway"],
        })
    );
    let gateway = rendered(&shielded(), "gateway", true);
    assert_eq!(gateway["abuse"], json!({ "agent": agent["socket"] }));
}

#[test]
fn what_the_composition_says_of_abuse_stands() {
    let text = shielded().replacen(
        "    config:\n      listeners:",
        "    config:\n      abuse: { threshold: 500 }\n      listeners:",
        1,
    );
    let gateway = rendered(&text, "gateway", true);
    assert_eq!(gateway["abuse"]["threshold"], 500);
    assert!(gateway["abuse"]["agent"].is_string());
}

#[test]
fn without_the_kernel_or_an_interface_there_is_no_shield() {
    for (text, intercepted) in [(shielded(), false), (PLATFORM.to_owned(), true)] {
        let agent = rendered(&text, "agent", intercepted);
        assert!(agent["kernel"].get("shield").is_none());
        assert!(
            rendered(&text, "gateway", intercepted)
                .get("abuse")
                .is_none()
        );
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let text = shielded().replacen("shield: { interfaces:", "shield: { interface:", 1);
    let refused = Composition::read(&Source {
        name: "ringwall.yaml".into(),
        text,
    });
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("interface"), "{said}");
}
