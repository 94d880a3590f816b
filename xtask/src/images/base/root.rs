//! `debian:bookworm-slim` from the machine's own apt sources, by debootstrap.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::commands::Purpose;
use crate::config::Config;
use crate::engine::Engine;
use crate::process::{output, say};
use crate::setup::packages;
use crate::setup::privilege::Privilege;

const SUITES: [&str; 3] = ["bookworm", "bookworm-updates", "bookworm-security"];
/// Where the machine's sources name no Debian 12, as on Ubuntu.
const FALLBACK: &str = "http://deb.debian.org/debian";

/// What the finished root is made of, beside the packages: as in the official image, no documentation, no package lists.
pub(super) const RECIPE: &str = r#"
set -eu
root=$1
printf 'path-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\n' \
  > "$root/etc/dpkg/dpkg.cfg.d/slim"
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/usr/share/info/* \
  "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old "$root"/var/log/* \
  "$root"/etc/hostname "$root"/etc/resolv.conf
"#;

/// Makes the root file system and imports it under the image's name.
pub(super) fn import(config: &Config, engine: &Engine, image: &str, recipe: &str) -> Result<()> {
    packages::ensure(config, Purpose::BaseImages)?;
    let privilege =
        Privilege::find(config).context("debootstrap needs root, and there is no sudo")?;
    let sources = debian_sources(&machine_sources());
    let mirror = sources
        .iter()
        .find(|source| source.suite == "bookworm")
        .map_or(FALLBACK, |source| source.uri.as_str());
    say(&format!(
        "base images: {image} by debootstrap from {mirror}, takes a minute"
    ));
    let folder = config.cache.join("engine").join("debootstrap");
    let remove = || output(privilege.command("rm").arg("-rf").arg(&folder));
    remove()?;
    fs::create_dir_all(&folder).context("making a folder")?;
    let root = folder.join("root");
    let mut debootstrap = privilege.command("debootstrap");
    debootstrap
        .args(["--variant=minbase", "bookworm"])
        .arg(&root)
        .arg(mirror);
    output(&mut debootstrap)?;
    let lines: String = sources.iter().map(Source::line).collect();
    let list = folder.join("sources.list");
    fs::write(&list, lines).context("writing the sources")?;
    if !sources.is_empty() {
        output(
            privilege
                .command("cp")
                .arg(&list)
                .arg(root.join("etc/apt/sources.list")),
        )?;
    }
    output(
        privilege
            .command("sh")
            .args(["-c", RECIPE, "sh"])
            .arg(&root),
    )?;
    let version = fs::read_to_string(root.join("etc/debian_version")).unwrap_or_default();
    let archive = folder.join("root.tar");
    let mut tar = privilege.command("tar");
    output(
        tar.arg("-C")
            .arg(&root)
            .arg("--numeric-owner")
            .arg("-cf")
            .arg(&archive)
            .arg("."),
    )?;
    import_archive(engine, &archive, image, recipe, version.trim())?;
    remove().map(|_| ())
}

fn import_archive(
    engine: &Engine,
    archive: &Path,
    image: &str,
    recipe: &str,
    version: &str,
) -> Result<()> {
    let mut command = engine.docker();
    command.args(["import", "--change", "CMD [\"bash\"]"]);
    command.args([
        "--change",
        &format!("LABEL io.ringwall.offline=\"debian debootstrap {version}\""),
    ]);
    command.args([
        "--change",
        &format!("LABEL {}=\"{recipe}\"", super::RECIPE_LABEL),
    ]);
    output(command.arg(archive).arg(image)).map(|_| ())
}

/// One suite of one mirror.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
}

impl Source {
    fn line(&self) -> String {
        format!("deb {} {} main\n", self.uri, self.suite)
    }
}

/// The text of every apt source of this machine.
fn machine_sources() -> Vec<String> {
    let more = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten();
    let files =
        std::iter::once("/etc/apt/sources.list".into()).chain(more.map(|entry| entry.path()));
    files
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect()
}

/// Debian 12's own suites in both formats of sources.list(5); other vendors' have other names or no `main`.
fn debian_sources(texts: &[String]) -> Vec<Source> {
    let mut sources = Vec::new();
    for text in texts {
        for stanza in text.split("\n\n") {
            sources.extend(deb822(stanza));
        }
        sources.extend(text.lines().filter_map(one_line));
    }
    sources
}

/// `deb [signed-by=…] http://deb.debian.org/debian bookworm main`
fn one_line(line: &str) -> Option<Source> {
    let rest = line.strip_prefix("deb ")?.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let debian = SUITES.contains(&suite) && words.any(|component| component == "main");
    debian.then(|| Source {
        uri: uri.to_owned(),
        suite: suite.to_owned(),
    })
}

/// `Types: deb`, `URIs: …`, `Suites: …`, `Components: …`
fn deb822(stanza: &str) -> Vec<Source> {
    let field = |name: &str| {
        let mut lines = stanza.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().split_whitespace()
    };
    if !field("Types").any(|kind| kind == "deb") || !field("Components").any(|name| name == "main")
    {
        return Vec::new();
    }
    let Some(uri) = field("URIs").next() else {
        return Vec::new();
    };
    let suites = field("Suites").filter(|suite| SUITES.contains(suite));
    suites
        .map(|suite| Source {
            uri: uri.to_owned(),
            suite: suite.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> String {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        debian_sources(&texts).iter().map(Source::line).collect()
    }

    #[test]
    fn both_formats_of_sources_are_read() {
        let new = "Types: deb\n# a comment\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n\
                   Components: main\n\nTypes: deb\nURIs: http://mirror/security\nSuites: bookworm-security\n\
                   Components: main contrib\n";
        assert_eq!(
            lines(&[new]),
            "deb http://mirror/debian bookworm main\ndeb http://mirror/debian bookworm-updates main\n\
             deb http://mirror/security bookworm-security main\n"
        );
        let old = "deb [arch=amd64 signed-by=/k] http://m/debian bookworm main contrib\n# deb http://n/ bookworm main\n";
        assert_eq!(lines(&[old]), "deb http://m/debian bookworm main\n");
    }

    #[test]
    fn sources_of_other_vendors_and_suites_are_left_out() {
        let others = [
            "deb https://download.docker.com/linux/debian bookworm stable\n",
            "deb https://packages.cloud.google.com/apt cloud-sdk-bookworm main\n",
            "deb-src http://deb.debian.org/debian bookworm main\n",
            "Types: deb\nURIs: https://deb.nodesource.com/node_20.x\nSuites: nodistro\nComponents: main\n",
        ];
        assert_eq!(lines(&others), "");
    }
}
