//! The web application: packages by `npm ci`, then the bundle; both only after a change.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::digest;
use crate::process::{run, say};

/// Inside node_modules, which git ignores: what the last installation and build were made of.
const INSTALLED: &str = "node_modules/.ringwall-installed";
const BUILT: &str = "node_modules/.ringwall-built";

/// Installs and builds when the sources differ from those of the last build.
pub(crate) fn ensure(config: &Config) -> Result<()> {
    let web = config.web();
    install(config, &web)?;
    let sources = digest::of_folders(&[&web])?;
    if stamp(&web, BUILT) == sources && web.join("dist/index.html").is_file() {
        return Ok(());
    }
    say("setup: building the web application");
    run(npm(config, &web).args(["run", "--silent", "build"]))?;
    write_stamp(&web, BUILT, &sources)
}

/// Type check and bundle, whatever the stamps say.
pub(crate) fn check(config: &Config) -> Result<Command> {
    let web = config.web();
    install(config, &web)?;
    let mut command = Command::new("sh");
    command
        .current_dir(&web)
        .args(["-c", "npm run --silent check && npm run --silent build"]);
    Ok(command)
}

fn install(config: &Config, web: &Path) -> Result<()> {
    let lock = fs::read_to_string(web.join("package-lock.json"))
        .context("reading spa-proxy/web/package-lock.json")?;
    let wanted = hash(&lock);
    if stamp(web, INSTALLED) == wanted {
        return Ok(());
    }
    say("setup: installing the web application's packages (npm ci)");
    run(npm(config, web).args(["ci", "--no-audit", "--no-fund", "--ignore-scripts=false"]))?;
    write_stamp(web, INSTALLED, &wanted)
}

fn npm(config: &Config, web: &Path) -> Command {
    let mut command = Command::new(config.tool("npm").unwrap_or_else(|| "npm".into()));
    command.current_dir(web);
    command
}

fn hash(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn stamp(web: &Path, name: &str) -> String {
    fs::read_to_string(web.join(name)).unwrap_or_default()
}

fn write_stamp(web: &Path, name: &str, value: &str) -> Result<()> {
    fs::write(web.join(name), value).with_context(|| format!("writing {name}"))
}
