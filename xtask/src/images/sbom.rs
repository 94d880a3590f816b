//! A bill of materials beside each image: `<output>/images/<component>.cdx.json`, CycloneDX, made by syft.
//!
//! syft reads a folder that holds the lock file cut down to what is in the binary (`images/closure.rs`), and for the image
//! with the web application that one's lock file too: a static binary tells nothing by itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::components::Component;
use super::{closure, folder};
use crate::config::Config;
use crate::process::{output, say};
use crate::setup::wheels;

/// What every component is built on: a bill without them is not one of ours.
const ALWAYS: [&str; 2] = ["aws-lc-rs", "rustls"];

/// Writes every bill and gives what is wrong with them.
pub(crate) fn write(config: &Config, components: &[Component]) -> Result<Vec<String>> {
    let syft = wheels::SYFT.ensure(config)?;
    let lock = fs::read_to_string(config.root.join("Cargo.lock")).context("reading Cargo.lock")?;
    let mut complaints = Vec::new();
    for component in components {
        let linked = closure::of(config, component)?;
        let source = folder(config).join(format!("{}.sources", component.name()));
        let _ = fs::remove_dir_all(&source);
        fs::create_dir_all(&source).context("making a folder")?;
        fs::write(source.join("Cargo.lock"), closure::filter(&lock, &linked))
            .context("writing the cut lock file")?;
        if component.has_web() {
            fs::copy(
                config.web().join("package-lock.json"),
                source.join("package-lock.json"),
            )
            .context("copying package-lock.json")?;
        }
        let mut scan = Command::new(&syft);
        scan.args(["scan", "--quiet", "--source-name", &component.repository()])
            .args(["--source-version", component.version()])
            .args([
                "--output",
                &format!("cyclonedx-json={}", place(config, component).display()),
            ])
            .arg(format!("dir:{}", source.display()))
            .env("SYFT_CHECK_FOR_APP_UPDATE", "false");
        output(&mut scan)?;
        fs::remove_dir_all(&source).context("removing a folder")?;
        let text = fs::read_to_string(place(config, component)).context("reading a bill")?;
        let names = linked.into_iter().map(|(name, _)| name).collect();
        complaints.extend(check(component, &text, &names)?);
    }
    say(&format!(
        "images: {} bills of materials in {}",
        components.len(),
        folder(config).display()
    ));
    Ok(complaints)
}

fn place(config: &Config, component: &Component) -> PathBuf {
    folder(config).join(format!("{}.cdx.json", component.name()))
}

/// The bill names what is linked, and no crate beside it.
fn check(component: &Component, text: &str, linked: &BTreeSet<String>) -> Result<Vec<String>> {
    let bill: Value = serde_json::from_str(text).context("reading a bill")?;
    let mut complaints = Vec::new();
    let mut complain =
        |what: String| complaints.push(format!("SBOM of {}: {what}", component.name()));
    let named = bill
        .pointer("/metadata/component/name")
        .and_then(Value::as_str);
    let image = component.repository();
    if named != Some(image.as_str()) {
        complain(format!("is about {named:?}, not about {image}"));
    }
    let crates = crates(&bill);
    for name in ALWAYS.into_iter().filter(|name| !crates.contains(*name)) {
        complain(format!("does not name {name}"));
    }
    for name in linked.difference(&crates) {
        complain(format!("does not name {name}, which is linked"));
    }
    for name in crates.difference(linked) {
        complain(format!("names {name}, which is not linked"));
    }
    Ok(complaints)
}

/// Names of the Rust packages in a bill, by their package URLs.
fn crates(bill: &Value) -> BTreeSet<String> {
    let components = bill.get("components").and_then(Value::as_array);
    let rust = components.into_iter().flatten().filter(|component| {
        let url = component.get("purl").and_then(Value::as_str);
        url.is_some_and(|url| url.starts_with("pkg:cargo/"))
    });
    rust.filter_map(|component| component.get("name")?.as_str())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bill(names: &[&str]) -> String {
        let crates: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "purl": format!("pkg:cargo/{name}@1")}))
            .collect();
        json!({"metadata": {"component": {"name": "ringwall/orders"}}, "components": crates})
            .to_string()
    }

    fn complaints(named: &[&str], linked: &[&str]) -> Vec<String> {
        let linked = linked.iter().map(|&name| name.to_owned()).collect();
        check(&Component::for_test("orders"), &bill(named), &linked).unwrap()
    }

    #[test]
    fn a_bill_names_what_is_linked_and_nothing_else() {
        let all = ["aws-lc-rs", "axum", "rustls"];
        assert_eq!(complaints(&all, &all), Vec::<String>::new());
    }

    #[test]
    fn a_bill_that_lacks_a_crate_is_refused() {
        let seen = complaints(&["aws-lc-rs", "axum"], &["aws-lc-rs", "axum"]);
        assert_eq!(seen, ["SBOM of orders: does not name rustls"]);
        let seen = complaints(&["aws-lc-rs", "rustls"], &["aws-lc-rs", "axum", "rustls"]);
        assert_eq!(
            seen,
            ["SBOM of orders: does not name axum, which is linked"]
        );
    }

    #[test]
    fn a_bill_that_names_too_much_is_refused() {
        let seen = complaints(
            &["aws-lc-rs", "fantoccini", "rustls"],
            &["aws-lc-rs", "rustls"],
        );
        assert_eq!(
            seen,
            ["SBOM of orders: names fantoccini, which is not linked"]
        );
    }

    #[test]
    fn a_bill_about_something_else_is_refused() {
        let text = bill(&ALWAYS).replace("ringwall/orders", "ringwall/payments");
        let linked = ALWAYS.map(str::to_owned).into();
        let seen = check(&Component::for_test("orders"), &text, &linked).unwrap();
        assert_eq!(seen.len(), 1);
    }
}
