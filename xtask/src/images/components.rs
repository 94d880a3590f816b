//! Which images there are: one for each binary of the platform.

use std::fs;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::layers::metadata::Metadata;

/// The binary that is no component: the command line, which also provisions.
const CLI: &str = "ringwall";
/// The image of many components at once.
const PROXY: &str = "proxy";

/// One image.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    name: String,
    package: String,
    binary: String,
    version: String,
    what: String,
}

impl Component {
    /// Every binary whose name says that it belongs to the platform, by name.
    pub(crate) fn all(config: &Config) -> Result<Vec<Self>> {
        let metadata = Metadata::load(config)?;
        let composition = fs::read_to_string(config.root.join("ringwall.yaml"))
            .context("reading ringwall.yaml")?;
        let mut all: Vec<Self> = metadata
            .packages
            .iter()
            .flat_map(|package| package.binaries.iter().map(move |binary| (package, binary)))
            .filter_map(|(package, binary)| {
                let name = name_of(binary)?;
                Some(Self {
                    what: what(&composition, name).to_owned(),
                    name: name.to_owned(),
                    package: package.name.clone(),
                    binary: binary.clone(),
                    version: package.version.clone(),
                })
            })
            .collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn package(&self) -> &str {
        &self.package
    }

    pub(super) fn binary(&self) -> &str {
        &self.binary
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// One line for people.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    /// Its repository, without a tag.
    pub(super) fn repository(&self) -> String {
        format!("ringwall/{}", self.name)
    }

    pub(crate) fn image(&self, tag: &str) -> String {
        format!("{}:{tag}", self.repository())
    }

    /// Where the binary stands in the image.
    pub(super) fn program(&self) -> &'static str {
        if self.name == CLI {
            "usr/bin/ringwall"
        } else {
            "usr/bin/ringwall-component"
        }
    }

    /// It also holds the built web application.
    pub(super) fn has_web(&self) -> bool {
        self.name == "spa-proxy"
    }
}

impl Component {
    /// Whether it brings programs to the kernel.
    pub(super) fn loads_programs(&self) -> bool {
        self.name == "agent"
    }

    /// Modules of plugins that it also holds: those that `ringwall.yaml` names.
    pub(super) fn plugins(&self) -> &'static [&'static str] {
        if self.name == "gateway" {
            &["waf.wasm"]
        } else {
            &[]
        }
    }
}

#[cfg(test)]
impl Component {
    pub(super) fn for_test(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            package: format!("ringwall-{name}"),
            binary: format!("ringwall-{name}"),
            version: "0.1.0".to_owned(),
            what: "a component".to_owned(),
        }
    }
}

/// `ringwall-orders` → `orders`; `ringwall` is itself.
fn name_of(binary: &str) -> Option<&str> {
    if binary == CLI {
        return Some(CLI);
    }
    binary.strip_prefix("ringwall-")
}

/// The `what:` below `- name: NAME` in ringwall.yaml.
fn what<'text>(composition: &'text str, name: &str) -> &'text str {
    match name {
        CLI => return "Command line, local certificate authority and provisioner of Ringwall",
        PROXY => return "Service proxy before each component of Ringwall, and its egress gateway",
        _ => {}
    }
    let mut lines = composition.lines().map(str::trim);
    let start = format!("- name: {name}");
    if !lines.any(|line| line == start) {
        return "A component of Ringwall";
    }
    lines
        .take_while(|line| !line.starts_with("- name: "))
        .find_map(|line| line.strip_prefix("what: "))
        .map_or("A component of Ringwall", |what| what.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_like_components() {
        assert_eq!(name_of("ringwall-orders"), Some("orders"));
        assert_eq!(name_of("ringwall"), Some("ringwall"));
        assert_eq!(name_of("xtask"), None);
        assert_eq!(name_of("bench-order"), None);
    }

    #[test]
    fn the_dockerfile_has_a_stage_for_each_component_of_the_composition() {
        let dockerfile = include_str!("../../../deploy/images/Dockerfile");
        let composition = include_str!("../../../ringwall.yaml");
        let binaries = composition
            .lines()
            .filter_map(|line| line.trim().strip_prefix("binary: "));
        let mut wanted: Vec<_> = binaries.filter_map(name_of).collect();
        let stages = dockerfile
            .lines()
            .filter_map(|line| line.strip_prefix("FROM component AS "));
        let stages: Vec<_> = stages.collect();
        // One image serves every service proxy and the egress gateway.
        wanted.sort_unstable();
        wanted.dedup();
        assert_eq!(stages, wanted);
    }

    #[test]
    fn what_a_component_does_is_read_from_the_composition() {
        let text = "components:\n  - name: orders\n    what: \"microservice A: takes orders\"\n\
                    \n  - name: quiet\n    port: 1\n  - name: last\n    what: x\n";
        assert_eq!(what(text, "orders"), "microservice A: takes orders");
        assert_eq!(what(text, "quiet"), "A component of Ringwall");
        assert!(what(text, "ringwall").contains("provisioner"));
        assert!(what(text, "proxy").contains("egress gateway"));
    }
}
