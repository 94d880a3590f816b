//! Which of the packages in Cargo.lock are in one binary.
//!
//! The lock file knows every package that any member might ever use, tests and other systems included. `cargo tree` knows
//! what is linked into one package for this target with the features of the build.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result};

use super::components::Component;
use crate::config::Config;
use crate::process::output;

/// Name and version.
type Package = (String, String);

/// The packages that are linked into the component's binary.
pub(super) fn of(config: &Config, component: &Component) -> Result<BTreeSet<Package>> {
    let triple = config.outputs.file_name().unwrap_or_default();
    let mut tree = Command::new(&config.cargo);
    tree.current_dir(&config.root)
        .args([
            "tree",
            "--locked",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
        ])
        .args([
            "--format",
            "{p}",
            "--package",
            component.package(),
            "--target",
        ])
        .arg(triple);
    let text = output(&mut tree)
        .with_context(|| format!("asking cargo for the dependencies of {}", component.name()))?;
    Ok(parse(&text))
}

/// `axum v0.8.9`, `ringwall-tls v0.1.0 (/path)`, `bytes v1.12.0 (*)`
fn parse(tree: &str) -> BTreeSet<Package> {
    let packages = tree.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let version = words.next()?.strip_prefix('v')?;
        Some((name.to_owned(), version.to_owned()))
    });
    packages.collect()
}

/// The lock file with the given packages only.
pub(super) fn filter(lock: &str, keep: &BTreeSet<Package>) -> String {
    let mut parts = lock.split("[[package]]\n");
    let head = parts.next().unwrap_or_default();
    let kept = parts.filter(|part| package(part).is_some_and(|package| keep.contains(&package)));
    let mut filtered = head.to_owned();
    for part in kept {
        filtered.push_str("[[package]]\n");
        filtered.push_str(&without_dependencies(part));
    }
    filtered
}

/// Edges to packages that are left out would point nowhere.
fn without_dependencies(part: &str) -> String {
    match part.split_once("dependencies = [\n") {
        Some((before, rest)) => {
            let after = rest.split_once("]\n").map_or("", |(_, after)| after);
            format!("{before}{after}")
        }
        None => part.to_owned(),
    }
}

fn package(part: &str) -> Option<Package> {
    let field = |name: &str| {
        let mut lines = part.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
        value.and_then(|value| value.strip_suffix('"'))
    };
    Some((field("name")?.to_owned(), field("version")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "# generated\nversion = 4\n\n[[package]]\nname = \"axum\"\nversion = \"0.8.9\"\n\
        source = \"registry+x\"\nchecksum = \"1\"\ndependencies = [\n \"bytes\",\n]\n\n\
        [[package]]\nname = \"bytes\"\nversion = \"1.12.0\"\n\n\
        [[package]]\nname = \"bytes\"\nversion = \"0.4.0\"\n";

    #[test]
    fn a_tree_is_a_set_of_packages() {
        let set = parse(
            "ringwall-orders v0.1.0 (/w/orders)\naxum v0.8.9\nbytes v1.12.0\nbytes v1.12.0 (*)\n\n",
        );
        let names: Vec<_> = set
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        assert_eq!(
            names,
            ["axum 0.8.9", "bytes 1.12.0", "ringwall-orders 0.1.0"]
        );
    }

    #[test]
    fn the_lock_keeps_what_is_linked_in_that_version_only() {
        let kept = filter(LOCK, &parse("axum v0.8.9\nbytes v1.12.0\n"));
        assert!(kept.starts_with("# generated\nversion = 4\n"));
        assert_eq!(kept.matches("[[package]]").count(), 2);
        assert!(kept.contains("\"1.12.0\"") && !kept.contains("\"0.4.0\""));
        assert!(kept.contains("checksum = \"1\"") && !kept.contains("dependencies"));
        assert_eq!(
            filter(LOCK, &BTreeSet::new())
                .matches("[[package]]")
                .count(),
            0
        );
    }
}
