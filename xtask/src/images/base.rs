//! `--offline-base`: images under the official names, made from Debian's packages, where no registry is reachable.
//!
//! Owns: what they are made of and their cache, which fills a new engine within seconds. It never replaces an image that
//! it has not made. Next: `deploy/images/offline/Dockerfile`, `images/base/root.rs` (the Debian root file system).

mod root;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::engine::Engine;
use crate::process::{human, output, run, say};

const DEBIAN: &str = "debian:bookworm-slim";
/// On each image: what it was made from, so that a changed recipe makes it again.
const RECIPE_LABEL: &str = "io.ringwall.offline.recipe";

/// An engine's image and Debian's package that stands in for it.
struct StandIn {
    image: &'static str,
    target: &'static str,
    package: &'static str,
}

const STAND_INS: [StandIn; 4] = [
    StandIn {
        image: "postgres:15-bookworm",
        target: "postgres",
        package: "postgresql-15",
    },
    StandIn {
        image: "nats:2.9-alpine",
        target: "nats",
        package: "nats-server",
    },
    StandIn {
        image: "valkey/valkey:7.2-bookworm",
        target: "valkey",
        package: "redis-server",
    },
    StandIn {
        image: "prom/prometheus:v3.5.0",
        target: "prometheus",
        package: "prometheus",
    },
];

/// What the compose file uses and Debian does not have.
const NOT_IN_DEBIAN: &str = "jaegertracing/jaeger and grafana/grafana";

/// Makes what the engine lacks, unless a registry has it.
pub(crate) fn ensure(config: &Config, engine: &Engine) -> Result<()> {
    let recipe = recipe(config)?;
    let missing = missing(engine, &recipe);
    let Some(first) = missing.first() else {
        say("base images: all here");
        return Ok(());
    };
    let Err(away) = output(engine.docker().args(["pull", "--quiet", first])) else {
        say("base images: the registry is reachable, `docker compose` pulls what it needs");
        return Ok(());
    };
    say(&format!("base images: no registry is reachable ({away:#})"));
    say("base images: making stand-ins from Debian's packages instead");
    let started = Instant::now();
    let cached = config
        .cache
        .join("images")
        .join(format!("offline-{recipe}.tar"));
    if cached.is_file() {
        output(
            engine
                .docker()
                .arg("load")
                .arg("--quiet")
                .arg("--input")
                .arg(&cached),
        )?;
    } else {
        make(config, engine, &recipe)?;
        save(engine, &cached)?;
    }
    say(&format!(
        "base images: {} and {} engines ready in {}; Debian has no {NOT_IN_DEBIAN}: the profile observability \
         lacks them here",
        DEBIAN,
        STAND_INS.len(),
        human(started.elapsed())
    ));
    Ok(())
}

/// Images that the engine lacks, or that an older recipe has made.
fn missing(engine: &Engine, recipe: &str) -> Vec<&'static str> {
    let all = std::iter::once(DEBIAN).chain(STAND_INS.iter().map(|stand_in| stand_in.image));
    let here = |image: &str| {
        let label = label(engine, image);
        // Without our label it is somebody else's, and good.
        label.is_some_and(|label| label.is_empty() || label == recipe)
    };
    all.filter(|image| !here(image)).collect()
}

/// The recipe on an image; nothing where there is no such image.
fn label(engine: &Engine, image: &str) -> Option<String> {
    let format =
        format!("{{{{with .Config.Labels}}}}{{{{index . \"{RECIPE_LABEL}\"}}}}{{{{end}}}}");
    let mut inspect = engine.docker();
    inspect.args(["image", "inspect", "--format", &format, image]);
    output(&mut inspect).ok()
}

fn make(config: &Config, engine: &Engine, recipe: &str) -> Result<()> {
    if label(engine, DEBIAN).is_none_or(|label| !label.is_empty() && label != recipe) {
        root::import(config, engine, DEBIAN, recipe)?;
    }
    for stand_in in &STAND_INS {
        say(&format!(
            "base images: {} from {}",
            stand_in.image, stand_in.package
        ));
        // Which version Debian has is known when it is installed; the second build differs in the label alone.
        let untagged = build(config, engine, stand_in, "unknown", recipe, None)?;
        let version = version(engine, &untagged, stand_in.package)?;
        let made_of = format!("debian {} {version}", stand_in.package);
        let image = Some(stand_in.image);
        build(config, engine, stand_in, &made_of, recipe, image)?;
        output(engine.docker().args(["image", "rm", &untagged]))?;
    }
    Ok(())
}

fn version(engine: &Engine, image: &str, package: &str) -> Result<String> {
    let mut query = engine.docker();
    query.args(["run", "--rm", "--network", "none", "--entrypoint"]);
    query.args(["dpkg-query", image, "--show", "--showformat", "${Version}"]);
    output(query.arg(package))
}

/// Gives the image's id.
fn build(
    config: &Config,
    engine: &Engine,
    stand_in: &StandIn,
    made_of: &str,
    recipe: &str,
    image: Option<&str>,
) -> Result<String> {
    let file = dockerfile(config);
    let mut command = engine.build();
    // The host's network: a mirror that this machine reaches is reached from the build too.
    command.args(["--quiet", "--network", "host"]);
    command.args(["--target", stand_in.target]);
    command.args(["--build-arg", &format!("OFFLINE={made_of}")]);
    command.args(["--build-arg", &format!("RECIPE={recipe}")]);
    if let Some(image) = image {
        command.args(["--tag", image]);
    }
    command.arg("--file").arg(&file);
    let context = file.parent().context("the Dockerfile stands in a folder")?;
    output(command.arg(context)).with_context(|| format!("making {}", stand_in.image))
}

/// One archive of all: what they share is in it once.
fn save(engine: &Engine, place: &Path) -> Result<()> {
    let folder = place.parent().context("the archive stands in a folder")?;
    // Archives of older recipes are of no more use.
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).context("making the cache's folder")?;
    let partial = place.with_extension("partial");
    let mut save = engine.docker();
    save.arg("save").arg("--output").arg(&partial).arg(DEBIAN);
    save.args(STAND_INS.iter().map(|stand_in| stand_in.image));
    run(&mut save)?;
    fs::rename(&partial, place).context("moving the archive into place")
}

fn dockerfile(config: &Config) -> PathBuf {
    config.root.join("deploy/images/offline/Dockerfile")
}

/// Changes with everything that the images are made of.
fn recipe(config: &Config) -> Result<String> {
    let dockerfile =
        fs::read_to_string(dockerfile(config)).context("reading the stand-ins' Dockerfile")?;
    let mut hasher = DefaultHasher::new();
    (dockerfile, root::RECIPE).hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}
