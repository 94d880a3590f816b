//! `cargo xtask images`: one image for each component and one for `ringwall`, packed from binaries built on this host.
//!
//! Owns: what the images are and the daily way of making them. `deploy/images/Dockerfile` says what an image holds, for
//! this way (`SOURCE=from-host`) and for a build inside a container. Next: `images/stage.rs` (the files), `images/check.rs`
//! (reproducible?), `images/sbom.rs`, `images/base.rs` (base images where no registry is reachable).

pub(crate) mod base;
pub(crate) mod check;
mod closure;
mod components;
pub(crate) mod sbom;
mod stage;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};

use crate::build::{self, Profile};
use crate::config::Config;
use crate::engine::Engine;
use crate::process::{human, output, print, run, say};
use crate::{ebpf, setup, wasm};
pub(crate) use components::Component;

/// Images are packed two at a time: the engine's work is mostly waiting.
const AT_ONCE: usize = 3;
/// The tag of images that tests run.
pub(crate) const TEST_TAG: &str = "test";

/// Arguments of `cargo xtask images`.
#[derive(Args)]
pub(crate) struct ImagesArgs {
    /// Dev profile, quick to build; tag `test`
    #[arg(long)]
    dev: bool,
    /// Tag of the images [default: dev, with --dev: test]
    #[arg(long)]
    tag: Option<String>,
    /// Only make the base images, from Debian's packages; for machines that reach no registry
    #[arg(long, conflicts_with_all = ["dev", "tag", "check", "from_source"])]
    offline_base: bool,
    /// Build twice and compare: everything, or only the packing of what is built
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    check: Option<Check>,
    /// Build inside a container instead, as `docker compose build` does
    #[arg(long, conflicts_with_all = ["dev", "check"])]
    from_source: bool,
    /// The image to build from source in instead of the Dockerfile's own toolchain
    #[arg(long, requires = "from_source")]
    toolchain: Option<String>,
    /// Only these components
    #[arg(long = "component", value_name = "NAME")]
    components: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Check {
    /// Binaries from a second checkout path and target directory, and the images of both
    All,
    /// The images
    Pack,
}

/// `cargo xtask images`
pub(crate) fn command(config: &Config, args: &ImagesArgs) -> Result<ExitCode> {
    let engine = Engine::ensure(config)?;
    let done = with_engine(config, &engine, args);
    engine.end()?;
    let complaints = done?;
    for complaint in &complaints {
        say(complaint);
    }
    Ok(if complaints.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn with_engine(config: &Config, engine: &Engine, args: &ImagesArgs) -> Result<Vec<String>> {
    if args.offline_base {
        return base::ensure(config, engine).map(|()| Vec::new());
    }
    let profile = if args.dev {
        Profile::Dev
    } else {
        Profile::Dist
    };
    let all = Component::all(config)?;
    let chosen = choose(all, &args.components)?;
    let tag = args.tag.as_deref();
    let tag = tag.unwrap_or(if args.dev { TEST_TAG } else { "dev" });
    if args.from_source {
        for component in &chosen {
            run(&mut source_build(
                config,
                engine,
                component,
                tag,
                args.toolchain.as_deref(),
            ))?;
        }
        report(engine, &chosen, tag)?;
        return sbom::write(config, &chosen);
    }
    match args.check {
        Some(Check::All) => check::everything(config, engine, &chosen),
        Some(Check::Pack) => {
            build(config, &chosen, profile)?;
            check::packing(config, engine, &chosen, profile)
        }
        None => {
            make(config, engine, &chosen, profile, tag)?;
            report(engine, &chosen, tag)?;
            sbom::write(config, &chosen)
        }
    }
}

/// Builds, stages and packs.
pub(crate) fn make(
    config: &Config,
    engine: &Engine,
    components: &[Component],
    profile: Profile,
    tag: &str,
) -> Result<()> {
    build(config, components, profile)?;
    let started = Instant::now();
    stage::all(
        config,
        &build::outputs(config, profile),
        components,
        profile,
        &folder(config),
    )?;
    pack(
        config,
        engine,
        components,
        &folder(config),
        &|component| component.image(tag),
        false,
    )?;
    say(&format!(
        "images: {} packed in {}, tag {tag}",
        components.len(),
        human(started.elapsed())
    ));
    Ok(())
}

/// Where everything that belongs to the images is made.
pub(crate) fn folder(config: &Config) -> PathBuf {
    config.outputs.join("images")
}

fn build(config: &Config, components: &[Component], profile: Profile) -> Result<()> {
    setup::ensure_web(config)?;
    wasm::build(config)?;
    ebpf::build(config)?;
    let packages = components.iter().map(Component::package);
    run(&mut build::for_images(config, profile, packages))
}

/// Packs staged folders, some at a time.
fn pack(
    config: &Config,
    engine: &Engine,
    components: &[Component],
    staged: &Path,
    name: &(dyn Fn(&Component) -> String + Sync),
    anew: bool,
) -> Result<()> {
    let revision = revision(config);
    let waiting = Mutex::new(components.iter());
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.next());
    let work = || -> Result<()> {
        while let Some(component) = next() {
            let mut command = engine.build();
            command.args(["--quiet", "--build-arg", "SOURCE=from-host"]);
            if anew {
                command.arg("--no-cache");
            }
            describe(config, &mut command, component, &revision);
            command.args(["--tag", &name(component)]);
            command.arg(staged.join(component.name()));
            output(&mut command).with_context(|| format!("packing {}", component.name()))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err(anyhow!("packing has panicked")))
        });
        joined.collect::<Result<Vec<()>>>().map(|_| ())
    })
}

/// The file, the target and the build arguments, the same for both sources.
fn describe(config: &Config, command: &mut Command, component: &Component, revision: &str) {
    command.arg("--file").arg(dockerfile(config));
    for (name, value) in [
        ("COMPONENT", component.name()),
        ("DESCRIPTION", component.what()),
        ("VERSION", component.version()),
        ("REVISION", revision),
        ("REPOSITORY", &repository(config)),
    ] {
        command.args(["--build-arg", &format!("{name}={value}")]);
    }
}

fn source_build(
    config: &Config,
    engine: &Engine,
    component: &Component,
    tag: &str,
    toolchain: Option<&str>,
) -> Command {
    let mut command = engine.build();
    command.args(["--progress", "plain"]);
    if let Some(toolchain) = toolchain {
        command.args(["--build-arg", &format!("TOOLCHAIN={toolchain}")]);
    }
    describe(config, &mut command, component, &revision(config));
    command.args(["--tag", &component.image(tag)]);
    command.arg(&config.root);
    command
}

pub(crate) fn dockerfile(config: &Config) -> PathBuf {
    config.root.join("deploy/images/Dockerfile")
}

/// The commit that the checkout stands on; a changed checkout says so.
fn revision(config: &Config) -> String {
    let mut describe = Command::new("git");
    describe.current_dir(&config.root);
    output(describe.args([
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty",
        "--exclude=*",
    ]))
    .unwrap_or_else(|_| "unknown".to_owned())
}

/// Where the sources are published, where git knows it; without a name or password that a clone may carry.
fn repository(config: &Config) -> String {
    let mut remote = Command::new("git");
    remote.current_dir(&config.root);
    let url = output(remote.args(["config", "remote.origin.url"])).unwrap_or_default();
    public_address(&url).unwrap_or_else(|| "unknown".to_owned())
}

fn public_address(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?;
    let (host, path) = rest.split_once('/')?;
    let host = host.rsplit('@').next()?;
    Some(format!("https://{host}/{}", path.trim_end_matches(".git")))
}

fn choose(all: Vec<Component>, names: &[String]) -> Result<Vec<Component>> {
    if let Some(unknown) = names.iter().find(|name| {
        all.iter()
            .all(|component| component.name() != name.as_str())
    }) {
        let known: Vec<_> = all.iter().map(Component::name).collect();
        bail!(
            "no component is called `{unknown}`; there are: {}",
            known.join(", ")
        );
    }
    let wanted = |component: &Component| {
        names.is_empty() || names.iter().any(|name| name == component.name())
    };
    Ok(all.into_iter().filter(wanted).collect())
}

/// One line for each image: its name and its size.
fn report(engine: &Engine, components: &[Component], tag: &str) -> Result<()> {
    for component in components {
        let image = component.image(tag);
        let mut inspect = engine.docker();
        inspect.args(["image", "inspect", "--format", "{{.Size}}", &image]);
        let bytes: u64 = output(&mut inspect)?
            .parse()
            .context("reading an image's size")?;
        print(&format!("{image:<40} {:>6.1} MB", megabytes(bytes)))?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_clone_do_not_get_into_a_label() {
        assert_eq!(
            public_address("https://user:token@example.org/ringwall.git").as_deref(),
            Some("https://example.org/ringwall")
        );
        assert_eq!(public_address("git@example.org:ringwall.git"), None);
        assert_eq!(public_address(""), None);
    }
}
