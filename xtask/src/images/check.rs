//! `--check`: the same sources make the same binaries, and the same binaries the same images.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::components::Component;
use super::{pack, stage};
use crate::build::{self, Profile};
use crate::config::Config;
use crate::engine::Engine;
use crate::process::{human, output, say};
use crate::{setup, wasm};

const TAGS: [&str; 2] = ["check-one", "check-two"];

/// Stages and packs twice without any cache and compares; gives the differences.
pub(crate) fn packing(
    config: &Config,
    engine: &Engine,
    components: &[Component],
    profile: Profile,
) -> Result<Vec<String>> {
    let binaries = build::outputs(config, profile);
    let sides = [(config, binaries.as_path()), (config, binaries.as_path())];
    compare_images(engine, components, profile, sides)
}

/// Builds everything again from a second checkout path into an empty target directory, and compares.
pub(super) fn everything(
    config: &Config,
    engine: &Engine,
    components: &[Component],
) -> Result<Vec<String>> {
    let started = std::time::Instant::now();
    super::build(config, components, Profile::Dist)?;
    let second = second_checkout(config)?;
    say("images: building everything a second time, which takes some minutes");
    super::build(&second, components, Profile::Dist)?;
    let folders = [config, &second].map(|side| build::outputs(side, Profile::Dist));
    let [first_folder, second_folder] = &folders;
    let mut differences = compare_binaries(components, first_folder, second_folder)?;
    let sides = [
        (config, first_folder.as_path()),
        (&second, second_folder.as_path()),
    ];
    differences.extend(compare_images(engine, components, Profile::Dist, sides)?);
    say(&format!(
        "images: {} components built and packed twice in {}, {} differences",
        components.len(),
        human(started.elapsed()),
        differences.len()
    ));
    Ok(differences)
}

/// What git knows of the checkout, changes included, at another path with a target directory of its own.
fn second_checkout(config: &Config) -> Result<Config> {
    let folder = config.target.join("reproduce");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("emptying the folder of the second build")?;
    }
    let root = folder.join("a-checkout-at-another-path");
    let mut list = Command::new("git");
    list.current_dir(&config.root);
    let files = output(list.args(["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    for file in files.lines() {
        let (from, to) = (config.root.join(file), root.join(file));
        // Removed in the checkout and still known to git.
        if from.is_file() {
            stage::make_folder_of(&to)?;
            fs::copy(&from, &to).with_context(|| format!("copying {file}"))?;
        }
    }
    let second = config.of_checkout(root, folder.join("target"));
    setup::ensure_web(&second)?;
    wasm::build(&second)?;
    Ok(second)
}

fn compare_binaries(components: &[Component], one: &Path, other: &Path) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for component in components {
        let sums = [one, other].map(|folder| sha256(&folder.join(component.binary())));
        let [one, other] = sums;
        let (one, other) = (one?, other?);
        if one != other {
            differences.push(format!(
                "{}: two builds give two binaries, {one} and {other}; `diffoscope` on them shows where",
                component.name()
            ));
        }
    }
    Ok(differences)
}

fn sha256(file: &Path) -> Result<String> {
    let line = output(Command::new("sha256sum").arg(file))?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}

fn compare_images(
    engine: &Engine,
    components: &[Component],
    profile: Profile,
    sides: [(&Config, &Path); 2],
) -> Result<Vec<String>> {
    let mut inspected = Vec::new();
    for ((config, binaries), tag) in sides.into_iter().zip(TAGS) {
        let staged = scratch(config, tag);
        stage::all(config, binaries, components, profile, &staged)?;
        // The labels come from the first checkout: the second one has no history.
        let labels = sides[0].0;
        pack(
            labels,
            engine,
            components,
            &staged,
            &|component| component.image(tag),
            true,
        )?;
        inspected.push(inspect(engine, components, tag)?);
        remove(engine, components, tag)?;
        fs::remove_dir_all(&staged).context("removing staged files")?;
    }
    let mut differences = Vec::new();
    if let [one, other] = inspected.as_slice() {
        for component in components {
            let name = component.name();
            differences.extend(compare(name, one.get(name), other.get(name)));
        }
    }
    Ok(differences)
}

fn scratch(config: &Config, tag: &str) -> PathBuf {
    config.outputs.join("images").join(tag)
}

type Inspected = BTreeMap<String, Value>;

fn inspect(engine: &Engine, components: &[Component], tag: &str) -> Result<Inspected> {
    let mut inspected = Inspected::new();
    for component in components {
        let mut command = engine.docker();
        command.args(["image", "inspect", &component.image(tag)]);
        let answer: Value = serde_json::from_str(&output(&mut command)?)
            .context("reading an image's description")?;
        let image = answer.get(0).cloned().unwrap_or_default();
        inspected.insert(component.name().to_owned(), image);
    }
    Ok(inspected)
}

fn remove(engine: &Engine, components: &[Component], tag: &str) -> Result<()> {
    let mut command = engine.docker();
    command.args(["image", "rm"]);
    command.args(components.iter().map(|component| component.image(tag)));
    output(&mut command).map(|_| ())
}

/// Layers and configuration; the date of creation is the one thing that may differ.
fn compare(name: &str, one: Option<&Value>, other: Option<&Value>) -> Vec<String> {
    let parts = [("layers", "/RootFS/Layers"), ("configuration", "/Config")];
    let differ = parts.into_iter().filter_map(|(what, pointer)| {
        let sides = [one, other].map(|side| side.and_then(|side| side.pointer(pointer)));
        let [one, other] = sides;
        let same = one.is_some() && one == other;
        (!same).then(|| format!("{name}: {what} differ: {} and {}", show(one), show(other)))
    });
    differ.collect()
}

fn show(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_date_of_creation_may_differ_and_nothing_else() {
        let image =
            json!({"Created": "1", "RootFS": {"Layers": ["a"]}, "Config": {"User": "10001"}});
        let mut later = image.clone();
        later["Created"] = json!("2");
        assert_eq!(
            compare("orders", Some(&image), Some(&later)),
            Vec::<String>::new()
        );
        for (pointer, value) in [("/RootFS/Layers/0", "b"), ("/Config/User", "0")] {
            let mut other = image.clone();
            *other.pointer_mut(pointer).unwrap() = json!(value);
            let seen = compare("orders", Some(&image), Some(&other));
            assert_eq!(seen.len(), 1);
            assert!(seen[0].starts_with("orders: "), "{seen:?}");
        }
    }

    #[test]
    fn an_image_that_is_not_there_is_a_difference() {
        assert_eq!(compare("orders", None, None).len(), 2);
    }
}
