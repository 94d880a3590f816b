//! The part of `compose.yaml` that a run needs, as a file of its own.
//!
//! Owns: the choice of services and what goes with them. `docker compose config` resolves anchors,
//! includes and variables, so that what is tested is what an operator starts, only less of it.
//! Must not: change a service beyond what is left out.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use super::{checkout, engine};

/// It makes what every other service is configured with.
pub(super) const PROVISIONER: &str = "provisioner";

/// Where the overlay `observability` publishes its pages.
const UI_PORTS: [&str; 3] = [
    "RINGWALL_PROMETHEUS_PORT",
    "RINGWALL_JAEGER_PORT",
    "RINGWALL_GRAFANA_PORT",
];

/// Services and their images.
pub(super) struct Selection {
    pub text: String,
    /// Of the images that this repository builds.
    pub built: BTreeSet<String>,
    pub services: Vec<String>,
}

/// The whole `compose.yaml`, its overlays included, with everything resolved.
pub(super) fn resolved(port: u16, tag: &str, slice: &str) -> Result<Value> {
    let root = checkout()?;
    let mut files = vec![root.join("compose.yaml")];
    if !engine::knows_capability("BPF", &format!("ringwall/agent:{tag}"))? {
        files.push(root.join("deploy/compose/sys-admin.yaml"));
    }
    let output = Command::new("docker")
        // The engine chooses for the overlay's pages, which nobody finds by number.
        .envs(UI_PORTS.map(|name| (name, "0")))
        .args(["compose", "--profile", "*"])
        .args(
            files
                .iter()
                .flat_map(|file| [OsStr::new("-f"), file.as_os_str()]),
        )
        // Not as JSON: that form loses limits of zero.
        .args(["config", "--format", "yaml"])
        .env("RINGWALL_PORT", port.to_string())
        .env("RINGWALL_TAG", tag)
        .env("RINGWALL_SLICE", slice)
        .output()
        .context("cannot run docker: run `cargo xtask setup`")?;
    if !output.status.success() {
        bail!(
            "`docker compose config` refuses compose.yaml: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text = String::from_utf8(output.stdout)?;
    serde_saphyr::from_str(&text).context("`docker compose config` gave no YAML")
}

/// Leaves only `needs` and what they depend on, and of networks and volumes only theirs.
pub(super) fn select(mut compose: Value, needs: &[&str]) -> Result<Selection> {
    let services = compose["services"]
        .as_object_mut()
        .context("compose.yaml has no services")?;
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = needs.iter().map(|&need| need.to_owned()).collect();
    while let Some(name) = open.pop() {
        let service = services.get(&name);
        let service = service.with_context(|| format!("compose.yaml has no service {name}"))?;
        if wanted.insert(name) {
            open.extend(keys(service.get("depends_on")));
        }
    }
    services.retain(|name, _| wanted.contains(name));
    let mut built = BTreeSet::new();
    let (mut networks, mut volumes) = (BTreeSet::new(), BTreeSet::new());
    for service in services.values_mut() {
        let service = service.as_object_mut().context("a service is no map")?;
        if service.remove("build").is_some() {
            let image = service.get("image").and_then(Value::as_str);
            built.insert(image.context("a built service names no image")?.to_owned());
        }
        // Chosen by name here, not by profile.
        service.remove("profiles");
        networks.extend(keys(service.get("networks")));
        let mounts = service.get("volumes").and_then(Value::as_array);
        volumes.extend(mounts.into_iter().flatten().filter_map(|mount| {
            let is_volume = mount["type"] == "volume";
            mount["source"]
                .as_str()
                .filter(|_| is_volume)
                .map(str::to_owned)
        }));
    }
    let names = services.keys().cloned().collect();
    keep(&mut compose, "networks", &networks);
    keep(&mut compose, "volumes", &volumes);
    // The project's name is this run's.
    if let Some(top) = compose.as_object_mut() {
        top.remove("name");
    }
    Ok(Selection {
        text: serde_json::to_string_pretty(&compose)?,
        built,
        services: names,
    })
}

/// Writes the selection where `docker compose` looks for it.
pub(super) fn write(selection: &Selection, folder: &Path) -> Result<std::path::PathBuf> {
    let file = folder.join("compose.yaml");
    // JSON is YAML.
    std::fs::write(&file, &selection.text)?;
    Ok(file)
}

fn keep(compose: &mut Value, what: &str, wanted: &BTreeSet<String>) {
    let Some(all) = compose.get_mut(what).and_then(Value::as_object_mut) else {
        return;
    };
    all.retain(|name, _| wanted.contains(name));
    for one in all.values_mut() {
        if let Some(one) = one.as_object_mut() {
            // Resolved names carry the usual project's name: compose makes new ones.
            one.remove("name");
        }
    }
}

fn keys(map: Option<&Value>) -> Vec<String> {
    let map = map.and_then(Value::as_object).cloned();
    map.unwrap_or_else(Map::new)
        .into_iter()
        .map(|(key, _)| key)
        .collect()
}
