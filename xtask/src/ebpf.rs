//! `cargo xtask ebpf`: the kernel programs, built for `bpfel-unknown-none` and looked at before anybody loads them.
//!
//! Owns: finding a compiler that can, on both kinds of machine (docs/ebpf.md), and the build. Must not: be needed by any
//! other build; a machine that can do neither runs the platform in the userspace tier.
//! Read next: `ebpf/object.rs`, what is demanded of the result.

mod object;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::commands::Purpose;
use crate::config::Config;
use crate::process::{human, output, print, run, say};
use crate::setup::packages;
use crate::setup::tools::{self, Tool};

const TARGET: &str = "bpfel-unknown-none";

/// A compiler that makes eBPF.
#[derive(Debug, PartialEq, Eq)]
enum Compiler {
    /// It comes with `core` for the target, as Debian's does.
    Ready(PathBuf),
    /// rustup's nightly, which builds `core` from its sources.
    Nightly(PathBuf),
}

/// `cargo xtask ebpf`: builds, and prints where the object is.
pub(crate) fn command(config: &Config) -> Result<()> {
    let path = build(config)?;
    print(&path.display().to_string())
}

/// Where the object is put: beside `debug/` and `release/`.
pub(crate) fn path(config: &Config) -> PathBuf {
    config.outputs.join("ebpf").join("ringwall.bpf.o")
}

/// Builds the object, with what is missing for it installed first, and checks it.
pub(crate) fn build(config: &Config) -> Result<PathBuf> {
    let started = Instant::now();
    let (compiler, linker) = toolchain(config)?;
    let folder = config.root.join("ebpf/programs");
    let target = config.target.join("ebpf");
    let mut command = match &compiler {
        Compiler::Ready(rustc) => {
            say(&format!(
                "ebpf: with {}, which has core for {TARGET}",
                rustc.display()
            ));
            let mut command = Command::new(&config.cargo);
            // Building for the target needs a feature that is for nightly: it writes assembly.
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            command.args(["build", "--release", "--locked", "--target", TARGET]);
            command
        }
        Compiler::Nightly(rustup) => {
            say("ebpf: with rustup's nightly, which builds core from its sources");
            let mut command = Command::new(rustup);
            command.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
            command.args(["--release", "--locked", "--target", TARGET]);
            command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
            command
        }
    };
    // What wraps or flags the builds of this machine is not meant for the kernel's.
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(name);
    }
    command
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&linker));
    run(&mut command)?;
    let built = target.join(TARGET).join("release/ringwall-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    let found = object::check(&bytes)?;
    let path = path(config);
    place(&path, &bytes)?;
    say(&format!(
        "ebpf: {} programs, {} KiB, BTF, licence {}, in {}",
        found.programs,
        bytes.len() / 1024,
        found.license,
        human(started.elapsed())
    ));
    Ok(path)
}

/// In one step: an agent that starts meanwhile reads the old one or the new one.
fn place(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("the object stands in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes).with_context(|| format!("writing {}", draft.display()))?;
    fs::rename(&draft, path).with_context(|| format!("placing {}", path.display()))
}

/// True when everything that the build needs is here.
pub(crate) fn can_build(config: &Config) -> bool {
    compiler(config).is_some()
}

/// True when there is a linker, or what one is built with.
pub(crate) fn can_link(config: &Config) -> bool {
    own_linker(config).is_some() || tools::is_there(config, Tool::BpfLinker) || tools::has_llvm()
}

/// Nightly's LLVM moves on: beside it, the user's own linker is the one that fits.
fn own_linker(config: &Config) -> Option<PathBuf> {
    let nightly = matches!(compiler(config), Some(Compiler::Nightly(_)));
    nightly.then(|| config.tool("bpf-linker")).flatten()
}

/// The compiler and the linker; installs what is missing where that can be done.
fn toolchain(config: &Config) -> Result<(Compiler, PathBuf)> {
    packages::ensure(config, Purpose::Ebpf).context(MISSING)?;
    let Some(compiler) = compiler(config) else {
        bail!(MISSING);
    };
    if let Some(linker) = own_linker(config) {
        return Ok((compiler, linker));
    }
    let linker = tools::ensure(config, Tool::BpfLinker).context(
        "bpf-linker could not be built; it needs LLVM 22 (on Debian: apt-get install llvm-22-dev)",
    )?;
    Ok((compiler, linker))
}

const MISSING: &str = "this machine cannot build eBPF programs; everything else builds without them, and the platform runs \
     in the userspace tier. What is missing is one of:\n  \
     Debian: apt-get install -y --no-install-recommends rustc-web libstd-rust-web-dev-bpf llvm-22-dev\n  \
     rustup: rustup toolchain install nightly --component rust-src, and bpf-linker on the search path";

fn compiler(config: &Config) -> Option<Compiler> {
    let ready = config
        .tools_called("rustc")
        .find(|rustc| sysroot(Command::new(rustc)).is_some_and(|root| has_core(&root)));
    if let Some(rustc) = ready {
        return Some(Compiler::Ready(rustc));
    }
    let rustup = config.tool("rustup")?;
    let mut nightly = Command::new(&rustup);
    nightly.args(["run", "nightly", "rustc"]);
    let root = sysroot(nightly)?;
    let sources = root.join("lib/rustlib/src/rust/library/core");
    sources.is_dir().then_some(Compiler::Nightly(rustup))
}

fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    rustc.args(["--print", "sysroot"]).stderr(Stdio::null());
    output(&mut rustc).ok().map(PathBuf::from)
}

fn has_core(sysroot: &Path) -> bool {
    let folder = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| name.to_string_lossy().starts_with("libcore-"))
}

/// Cargo separates encoded flags by this character.
fn flags(linker: &Path) -> String {
    let flags = [
        format!("-Clinker={}", linker.display()),
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    flags.join("\x1f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysroot_counts_when_core_is_in_it() {
        let root = std::env::temp_dir().join(format!("ringwall-sysroot-{}", std::process::id()));
        let lib = root.join("lib/rustlib").join(TARGET).join("lib");
        fs::create_dir_all(&lib).unwrap();
        assert!(!has_core(&root));
        fs::write(lib.join("libcore-0123.rlib"), "").unwrap();
        assert!(has_core(&root));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn flags_are_separated_as_cargo_wants_them() {
        let flags = flags(Path::new("/t/bpf-linker"));
        assert_eq!(flags.split('\x1f').count(), 4);
        assert!(flags.starts_with("-Clinker=/t/bpf-linker\x1f"));
    }
}
