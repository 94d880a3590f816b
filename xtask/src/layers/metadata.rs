//! The part of `cargo metadata --no-deps` that the rules need.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::config::Config;

/// The workspace as cargo sees it.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
}

/// One member.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Folder inside the checkout, with forward slashes: `crates/tls`.
    pub(crate) folder: String,
    /// Names of direct dependencies, of every kind.
    pub(crate) dependencies: BTreeSet<String>,
    /// Those among them that the built product needs: not of tests alone.
    pub(crate) shipped: BTreeSet<String>,
    /// Names of the binaries.
    pub(crate) binaries: Vec<String>,
    /// A plain `cargo build` builds it.
    pub(crate) default_member: bool,
}

#[derive(Deserialize)]
struct Raw {
    packages: Vec<RawPackage>,
    workspace_default_members: Vec<String>,
    workspace_root: String,
}

#[derive(Deserialize)]
struct RawPackage {
    id: String,
    name: String,
    version: String,
    manifest_path: String,
    dependencies: Vec<RawDependency>,
    targets: Vec<RawTarget>,
}

#[derive(Deserialize)]
struct RawDependency {
    name: String,
    /// `null` for an ordinary dependency, else `dev` or `build`.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct RawTarget {
    name: String,
    kind: Vec<String>,
}

impl Metadata {
    /// Asks cargo.
    pub(crate) fn load(config: &Config) -> Result<Self> {
        let output = Command::new(&config.cargo)
            .current_dir(&config.root)
            .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
            .output()
            .context("starting `cargo metadata`")?;
        if !output.status.success() {
            bail!(
                "`cargo metadata` failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Self::parse(&output.stdout)
    }

    fn parse(json: &[u8]) -> Result<Self> {
        let raw: Raw = serde_json::from_slice(json).context("reading cargo's metadata")?;
        let root = Path::new(&raw.workspace_root);
        let mut packages = Vec::new();
        for package in raw.packages {
            let folder = Path::new(&package.manifest_path)
                .parent()
                .context("manifest folder")?;
            let folder = folder.strip_prefix(root).unwrap_or(folder);
            packages.push(Package {
                folder: folder.to_string_lossy().into_owned(),
                default_member: raw.workspace_default_members.contains(&package.id),
                shipped: package
                    .dependencies
                    .iter()
                    .filter(|found| found.kind.as_deref() != Some("dev"))
                    .map(|found| found.name.clone())
                    .collect(),
                dependencies: package
                    .dependencies
                    .into_iter()
                    .map(|found| found.name)
                    .collect(),
                binaries: package
                    .targets
                    .into_iter()
                    .filter(|target| target.kind.iter().any(|kind| kind == "bin"))
                    .map(|target| target.name)
                    .collect(),
                name: package.name,
                version: package.version,
            });
        }
        Ok(Self { packages })
    }

    /// Packages whose binaries belong to the running platform: all but xtask.
    pub(crate) fn deployables(&self) -> impl Iterator<Item = &str> {
        self.packages
            .iter()
            .filter(|package| {
                package
                    .binaries
                    .iter()
                    .any(|name| name.starts_with("ringwall"))
            })
            .map(|package| package.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_answers_are_read() {
        let json = br#"{"packages": [{"id": "a 1", "name": "ringwall-orders", "version": "0.1.0",
            "manifest_path": "/w/sample-services/orders/Cargo.toml",
            "dependencies": [{"name": "axum", "kind": null}, {"name": "axum", "kind": "dev"},
                             {"name": "tempfile", "kind": "dev"}],
            "targets": [{"name": "ringwall-orders", "kind": ["bin"]}]}],
            "workspace_default_members": ["a 1"], "workspace_root": "/w"}"#;
        let metadata = Metadata::parse(json).unwrap();
        let package = &metadata.packages[0];
        assert_eq!(package.folder, "sample-services/orders");
        assert_eq!(package.dependencies.len(), 2);
        assert_eq!(package.shipped.iter().collect::<Vec<_>>(), ["axum"]);
        assert!(package.default_member);
        assert_eq!(
            metadata.deployables().collect::<Vec<_>>(),
            ["ringwall-orders"]
        );
    }
}
