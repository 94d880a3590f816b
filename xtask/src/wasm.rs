//! `cargo xtask wasm`: the Wasm plugins, built into `<outputs>/wasm/NAME.wasm` for everybody who runs or tests them.
//!
//! Owns: which guests there are, and when they are built again. Must not: know how a guest in Rust is compiled, which
//! `plugins/toolchain` does for `ringwall plugin build` too; be needed by any build but that of the tests of plugins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ringwall_plugin_toolchain::{Compiler, MISSING, TARGET};
use serde::Deserialize;

use crate::commands::Purpose;
use crate::config::Config;
use crate::digest;
use crate::process::{human, output, print, run, say};
use crate::setup::packages;

/// The workspaces of guests in Rust. The samples belong to the first; the template stands alone, as it is copied.
pub(crate) const WORKSPACES: [&str; 2] = ["plugins/filters", "plugins/template"];
/// Every folder that guests are made of.
const SOURCES: [&str; 4] = [
    "plugins/filters",
    "plugins/hostile",
    "plugins/samples",
    "plugins/template",
];
/// Guests in C, by the names of their modules.
const C_GUESTS: [(&str, &str); 2] = [
    ("hostile", "plugins/hostile"),
    ("sample-c-headers", "plugins/samples/c-headers"),
];
/// The source of each.
const C_GUEST: &str = "guest.c";
/// As Debian calls the one that fits its lld 22, else any.
const CLANGS: [&str; 2] = ["clang-22", "clang"];
/// A module is loaded into every worker: one that has grown beyond this has something in it that does not belong there.
const LIMIT_BYTES: usize = 512 * 1024;

/// `cargo xtask wasm`: builds, and prints the folder.
pub(crate) fn command(config: &Config) -> Result<()> {
    let folder = build(config)?;
    print(&folder.display().to_string())
}

/// Where the modules are put: beside `debug/` and `release/`.
pub(crate) fn folder(config: &Config) -> PathBuf {
    config.outputs.join("wasm")
}

/// The target directory of all guests.
pub(crate) fn target(config: &Config) -> PathBuf {
    config.target.join("wasm")
}

/// Builds all modules where the sources differ from those of the last build, with what is missing for it installed first.
pub(crate) fn build(config: &Config) -> Result<PathBuf> {
    let started = Instant::now();
    let folder = folder(config);
    let stamp = folder.join(".built-from");
    let sources = SOURCES.map(|source| config.root.join(source));
    let wanted = digest::of_folders(&sources.each_ref().map(PathBuf::as_path))?;
    if fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(folder);
    }
    let compiler = toolchain(config)?;
    say(&format!("wasm: with {compiler}"));
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut modules = Vec::new();
    for workspace in WORKSPACES {
        modules.extend(rust_guests(
            config,
            &compiler,
            &config.root.join(workspace),
        )?);
    }
    modules.extend(c_guests(config)?);
    for (name, built) in &modules {
        let bytes = fs::read(built).with_context(|| format!("reading {}", built.display()))?;
        check(name, &bytes)?;
        place(&folder.join(format!("{name}.wasm")), &bytes)?;
    }
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    say(&format!(
        "wasm: {} modules in {}",
        modules.len(),
        human(started.elapsed())
    ));
    Ok(folder)
}

/// The guests' own tests, which need no Wasm: their rules are plain Rust.
pub(crate) fn native_tests(config: &Config) -> Command {
    let mut command = Command::new("sh");
    let tests: Vec<String> = WORKSPACES
        .iter()
        .map(|workspace| {
            format!("(cd {workspace} && \"$0\" test --workspace --no-fail-fast --locked)")
        })
        .collect();
    command
        .current_dir(&config.root)
        .env("CARGO_TARGET_DIR", target(config))
        .args(["-c", &tests.join(" && ")])
        .arg(&config.cargo);
    command
}

/// In one step: a host that loads meanwhile reads the old module or the new one.
fn place(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes).with_context(|| format!("writing {}", draft.display()))?;
    fs::rename(&draft, path).with_context(|| format!("placing {}", path.display()))
}

fn check(name: &str, bytes: &[u8]) -> Result<()> {
    ensure!(
        bytes.starts_with(b"\0asm\x01\0\0\0"),
        "{name} is no Wasm module"
    );
    ensure!(
        bytes.len() <= LIMIT_BYTES,
        "{name}.wasm has {} bytes, the limit is {LIMIT_BYTES}",
        bytes.len()
    );
    Ok(())
}

/// True when guests in Rust can be built here.
pub(crate) fn can_build(config: &Config) -> bool {
    Compiler::find(config.search_path()).is_some()
}

/// True when guests in C can be built here: clang finds its linker by the name `wasm-ld` or by `-fuse-ld`.
pub(crate) fn can_build_c(config: &Config) -> bool {
    clang(config).is_some() && wasm_ld(config).is_some()
}

fn clang(config: &Config) -> Option<PathBuf> {
    CLANGS.iter().find_map(|name| config.tool(name))
}

fn wasm_ld(config: &Config) -> Option<PathBuf> {
    ["wasm-ld-22", "wasm-ld"]
        .iter()
        .find_map(|name| config.tool(name))
}

/// The compiler for Rust; installs what is missing where that can be done.
fn toolchain(config: &Config) -> Result<Compiler> {
    let find = || Compiler::find(config.search_path());
    if find().is_none()
        && let Some(rustup) = config.tool("rustup")
    {
        // Where rustup's server is not reachable, Debian's packages are next.
        say("wasm: adding the target by rustup");
        let _ = run(Command::new(rustup).args(["target", "add", TARGET]));
    }
    let installed = packages::ensure(config, Purpose::Wasm);
    match (find(), installed) {
        (Some(compiler), Ok(())) => Ok(compiler),
        (_, Err(error)) => Err(error.context(MISSING)),
        (None, Ok(())) => bail!(MISSING),
    }
}

/// Builds a workspace; the names of its modules and where they are.
fn rust_guests(
    config: &Config,
    compiler: &Compiler,
    workspace: &Path,
) -> Result<Vec<(String, PathBuf)>> {
    let target = target(config);
    let registry = config.cargo_home.join("registry/src");
    let mut command = compiler.build(&config.cargo, workspace, &target, &registry);
    run(command.arg("--locked"))?;
    let mut metadata = Command::new(&config.cargo);
    metadata.current_dir(workspace).args([
        "metadata",
        "--no-deps",
        "--format-version=1",
        "--offline",
    ]);
    let metadata: Metadata =
        serde_json::from_str(&output(&mut metadata)?).context("reading cargo's metadata")?;
    let built = target.join(TARGET).join("release");
    Ok(metadata.guests(&built))
}

/// The part of `cargo metadata` that tells guests from libraries.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Metadata {
    fn guests(&self, built: &Path) -> Vec<(String, PathBuf)> {
        let mut guests = Vec::new();
        for package in &self.packages {
            let is_guest = |target: &&Target| target.kind.iter().any(|kind| kind == "cdylib");
            if let Some(target) = package.targets.iter().find(is_guest) {
                let file = format!("{}.wasm", target.name.replace('-', "_"));
                guests.push((package.name.clone(), built.join(file)));
            }
        }
        guests
    }
}

/// Builds every guest in C: no SDK, no C library.
fn c_guests(config: &Config) -> Result<Vec<(String, PathBuf)>> {
    let clang = clang(config).context("clang is missing")?;
    let linker = wasm_ld(config).context("wasm-ld is missing")?;
    let mut guests = Vec::new();
    for (name, folder) in C_GUESTS {
        let built = target(config).join(format!("{name}.wasm"));
        let mut command = Command::new(&clang);
        command
            .current_dir(config.root.join(folder))
            .args(["--target=wasm32", "-std=c17", "-Os", "-flto"])
            .args([
                "-ffreestanding",
                "-fno-builtin",
                "-nostdlib",
                "-Wall",
                "-Wextra",
                "-Werror",
            ])
            .arg(format!("-fuse-ld={}", linker.display()))
            .args([
                "-Wl,--no-entry",
                "-Wl,--strip-all",
                "-Wl,-z,stack-size=65536",
            ])
            .arg("-o")
            .arg(&built)
            .arg(C_GUEST);
        run(&mut command)?;
        guests.push((name.to_owned(), built));
    }
    Ok(guests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_the_packages_that_make_a_module() {
        let json = r#"{"packages":[
            {"name":"guest","targets":[{"name":"guest","kind":["lib"]}]},
            {"name":"api-key","targets":[{"name":"api_key","kind":["cdylib","rlib"]}]}]}"#;
        let metadata: Metadata = serde_json::from_str(json).unwrap();
        let guests = metadata.guests(Path::new("/b"));
        assert_eq!(
            guests,
            [("api-key".to_owned(), PathBuf::from("/b/api_key.wasm"))]
        );
    }

    #[test]
    fn what_is_no_module_or_too_large_is_refused() {
        assert!(check("x", b"\0asm\x01\0\0\0").is_ok());
        assert!(check("x", b"\x7fELF").is_err());
        let mut large = b"\0asm\x01\0\0\0".to_vec();
        large.resize(LIMIT_BYTES + 1, 0);
        assert!(check("x", &large).is_err());
    }
}
