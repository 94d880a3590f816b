//! new, build, test, inspect, sign, push.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::support::*;

#[test]
fn r93_from_an_empty_folder_to_a_signed_module_in_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    done(here, &["new", "first-filter"]);
    let plugin = here.join("first-filter");

    // The template compiles untouched, with the lock file that it brings.
    let lock = fs::read(plugin.join("Cargo.lock")).unwrap();
    let built = json(&plugin, &["build", "-o", "json"]);
    let module = built["module"].as_str().unwrap();
    assert!(module.ends_with("/first_filter.wasm"), "{module}");
    assert_eq!(
        built["size"].as_u64().unwrap(),
        fs::metadata(module).unwrap().len()
    );
    let after = fs::read(plugin.join("Cargo.lock")).unwrap();
    assert!(lock == after, "cargo has changed the lock file");

    passes(&plugin, module);
    inspected(&plugin, module, &built["sha256"]);

    done(here, &["sign", "--generate", "--key", "author.key"]);
    let mode = fs::metadata(here.join("author.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    done(here, &["sign", module, "--key", "author.key"]);
    done(
        here,
        &["sign", module, "--verify", "--public-key", "author.key.pub"],
    );
    assert_eq!(fs::read(format!("{module}.sig")).unwrap().len(), 64);

    let push = [
        "push",
        module,
        "--public-key",
        "../author.key.pub",
        "-o",
        "json",
    ];
    let pushed = json(&plugin, &push);
    assert_eq!(pushed["is_new"], true);
    assert_eq!(json(&plugin, &push)["is_new"], false);
    let sha256 = built["sha256"].as_str().unwrap();
    let stored = plugin.join(format!("state/plugins/sha256/{sha256}.wasm"));
    assert_eq!(pushed["module"], stored.to_str().unwrap());
    assert_eq!(fs::read(&stored).unwrap(), fs::read(module).unwrap());
    assert_eq!(pushed["plugin"]["sha256"], sha256);
    assert_eq!(
        pushed["plugin"]["capabilities"]["read_headers"][0],
        "x-tenant"
    );
    assert_eq!(
        fs::read(format!("{}.sig", stored.display())).unwrap().len(),
        64
    );
}

/// The cases pass, and what they cost is told.
fn passes(plugin: &Path, module: &str) {
    let tested = json(plugin, &["test", "-o", "json"]);
    assert_eq!(tested["failed"], 0);
    let cases = tested["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    let measured = &cases[0]["measured"];
    assert_eq!(
        measured["host_calls"]["proxy_get_header_map_value"]["count"],
        1
    );
    assert_eq!(
        measured["host_calls"]["proxy_get_header_map_value"]["refused"],
        0
    );
    assert!(measured["processor_time_us"].as_u64().unwrap() > 0);
    assert!(measured["memory_bytes"].as_u64().unwrap() >= 65_536);
    let shown = done(plugin, &["test", module]);
    assert!(shown.contains("5 passed, 0 failed"), "{shown}");
    assert!(shown.contains("proxy_get_header_map_value 1"), "{shown}");
}

fn inspected(plugin: &Path, module: &str, sha256: &Value) {
    let inspected = json(plugin, &["inspect", module, "-o", "json"]);
    assert_eq!(inspected["abi"], "0.2.1");
    assert_eq!(inspected["runs"], true);
    assert_eq!(inspected["sha256"], *sha256);
    let needs: Vec<&str> = inspected["capabilities_at_most"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["capability"].as_str().unwrap())
        .collect();
    for declared in ["read_headers", "write_headers", "local_response"] {
        assert!(needs.contains(&declared), "{needs:?}");
    }
}

#[test]
fn r93_what_is_wrong_is_named_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::create_dir(here.join("taken")).unwrap();
    let (code, said) = failed(here, &["new", "taken"]);
    assert_eq!(code, 73, "{said}");
    assert_eq!(fs::read_dir(here.join("taken")).unwrap().count(), 0);
    assert_eq!(failed(here, &["new", "Not/A-Name"]).0, 78);
    let (code, said) = failed(here, &["build"]);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("ringwall plugin new"), "{said}");
    assert_eq!(failed(here, &["inspect", "missing.wasm"]).0, 74);
    fs::write(here.join("no.wasm"), "no module").unwrap();
    assert_eq!(failed(here, &["inspect", "no.wasm"]).0, 78);
    assert_eq!(failed(here, &["push", "no.wasm"]).0, 78);
    assert!(!here.join("state").exists(), "nothing was stored");

    done(here, &["new", "second-filter"]);
    let plugin = here.join("second-filter");
    let module = json(&plugin, &["build", "-o", "json"]);
    let module = module["module"].as_str().unwrap();
    let cases = plugin.join("cases.yaml");
    let good = fs::read_to_string(&cases).unwrap();

    // A case that is not met: 1, with what differs.
    fs::write(&cases, good.replacen("status: 403", "status: 401", 1)).unwrap();
    let output = run(&plugin, &["test", module]);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    for part in [
        "FAIL  another tenant",
        "client.status",
        "expected 401",
        "4 passed, 1 failed",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    // A file that is none: 78, with its line.
    fs::write(&cases, good.replacen("request:", "reqest:", 1)).unwrap();
    let (code, said) = failed(&plugin, &["test", module]);
    assert_eq!(code, 78);
    assert!(said.contains("cases.yaml:12"), "{said}");
    fs::write(&cases, &good).unwrap();

    // Keys are demanded where there are any, and an unsigned module is not stored.
    done(here, &["sign", "--generate", "--key", "k"]);
    let (code, said) = failed(&plugin, &["push", module, "--public-key", "../k.pub"]);
    assert_eq!(code, 78);
    assert!(said.contains("not signed"), "{said}");
    // As the composition has them, too.
    let composition = fs::read_to_string(checkout().join("ringwall.yaml")).unwrap();
    let keyed = keyed(&composition);
    fs::write(here.join("ringwall.yaml"), keyed).unwrap();
    fs::create_dir_all(here.join("deploy/mesh")).unwrap();
    let (code, said) = failed(&plugin, &["push", module, "--file", "../ringwall.yaml"]);
    assert_eq!(code, 78);
    assert!(said.contains("not signed"), "{said}");
    assert!(!plugin.join("state").exists(), "nothing was stored");

    // Not on loopback: not at all.
    assert_eq!(
        failed(&plugin, &["run", module, "--listen", "0.0.0.0:0"]).0,
        78
    );

    // What does not compile: 1, and why.
    let rules = plugin.join("src/rules.rs");
    let good = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("{good}\nfn broken( {{")).unwrap();
    let (code, said) = failed(&plugin, &["build"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("rules.rs"), "{said}");
}

/// The composition with a key in the gateway's own configuration.
fn keyed(composition: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut is_gateway = false;
    for line in composition.lines() {
        is_gateway = match line.trim_start() {
            text if text.starts_with("- name:") => text.starts_with("- name: gateway"),
            _ => is_gateway,
        };
        lines.push(line.to_owned());
        if is_gateway && line.trim() == "config:" {
            let indent = " ".repeat(line.len() - line.trim_start().len() + 2);
            lines.push(format!("{indent}plugin_keys: [k.pub]"));
        }
    }
    let text = lines.join("\n");
    assert!(
        text.contains("plugin_keys"),
        "the gateway has a configuration"
    );
    text
}
