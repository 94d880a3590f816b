//! How a Wasm guest in Rust is built, on both kinds of machine: with the target's own standard library, as rustup brings
//! it, or with one built from its sources, as Debian has them.
//!
//! Owns: finding a compiler that can, and the cargo command. Must not: install anything; `cargo xtask` does. Users:
//! `cargo xtask wasm` and `ringwall plugin build`.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What guests are compiled for.
pub const TARGET: &str = "wasm32-wasip1";
/// Debian's packages that make a machine able to build guests.
pub const DEBIAN_PACKAGES: [&str; 5] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "lld-22",
    "wasi-libc",
];
/// Debian's WASI C library.
const WASI_LIBRARIES: &str = "/usr/lib/wasm32-wasi";
/// Debian's linker; rustup brings its own.
const LINKER: &str = "wasm-ld-22";
/// What a machine that can do neither is told.
pub const MISSING: &str = "this machine cannot build Wasm guests; everything else builds without them. What is missing is one of:\n  \
     rustup: rustup target add wasm32-wasip1\n  \
     Debian: apt-get install -y --no-install-recommends rustc-web cargo-web rust-web-src lld-22 wasi-libc";

/// A compiler that makes guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// It comes with `std` for the target.
    Ready { rustc: PathBuf },
    /// `std` is built from its sources, and linked with the system's linker and C library.
    Sources { rustc: PathBuf, linker: PathBuf },
}

impl Compiler {
    /// The first on a search path (as `PATH` has it) that can; a ready one is preferred, as it needs no minute to build
    /// the standard library.
    pub fn find(search_path: &OsStr) -> Option<Self> {
        let called = |name: &'static str| {
            let folders = std::env::split_paths(search_path);
            folders
                .map(move |folder| folder.join(name))
                .filter(|candidate| candidate.is_file())
        };
        let found: Vec<(PathBuf, PathBuf)> = called("rustc")
            .filter_map(|rustc| sysroot(&rustc).map(|root| (rustc, root)))
            .collect();
        if let Some((rustc, _)) = found.iter().find(|(_, root)| has_std(root)) {
            return Some(Self::Ready {
                rustc: rustc.clone(),
            });
        }
        let linker = called(LINKER).next()?;
        let (rustc, _) = found.into_iter().find(|(_, root)| has_sources(root))?;
        let library = Path::new(WASI_LIBRARIES).join("libc.a");
        library.is_file().then_some(Self::Sources { rustc, linker })
    }

    /// The path of the compiler.
    pub fn rustc(&self) -> &Path {
        match self {
            Self::Ready { rustc } | Self::Sources { rustc, .. } => rustc,
        }
    }

    /// `cargo build` for the guests of the workspace in `folder`, into `target_dir/wasm32-wasip1/release`. The folder of
    /// the registry's sources is kept out of the modules, so that their digest is the same wherever they are built.
    pub fn build(
        &self,
        cargo: &OsStr,
        folder: &Path,
        target_dir: &Path,
        registry: &Path,
    ) -> Command {
        let mut command = Command::new(cargo);
        command.current_dir(folder);
        // What wraps or flags the builds of this machine is not meant for guests.
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
        ] {
            command.env_remove(name);
        }
        command.env("CARGO_TARGET_DIR", target_dir);
        command.env("RUSTC", self.rustc());
        command.args(["build", "--release", "--target", TARGET]);
        let mut flags = format!("--remap-path-prefix={}=/cargo", registry.display());
        if let Self::Sources { linker, .. } = self {
            // -Zbuild-std is for nightly compilers, or for one that is told to be.
            command.env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_WASIP1_LINKER", linker);
            flags += &format!(" -Clink-self-contained=no -Lnative={WASI_LIBRARIES}");
            command.arg("-Zbuild-std=std,panic_abort");
        }
        command.env("CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS", flags);
        command
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rustc = self.rustc().display();
        match self {
            Self::Ready { .. } => write!(formatter, "{rustc}, which has std for {TARGET}"),
            Self::Sources { .. } => write!(formatter, "{rustc}, with std built from its sources"),
        }
    }
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let mut command = Command::new(rustc);
    command.args(["--print", "sysroot"]).stderr(Stdio::null());
    let output = command.stdin(Stdio::null()).output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| PathBuf::from(printed.trim()))
}

fn has_std(sysroot: &Path) -> bool {
    let folder = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| name.to_string_lossy().starts_with("libstd-"))
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/std/Cargo.toml")
        .is_file()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder with a `rustc` that names a sysroot beside it.
    fn machine(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("ringwall-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let rustc = folder.join("rustc");
        fs::write(&rustc, format!("#!/bin/sh\necho {}\n", folder.display())).unwrap();
        fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn a_compiler_without_target_and_sources_is_none() {
        let folder = machine("neither");
        assert_eq!(Compiler::find(folder.as_os_str()), None);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_compiler_with_the_target_is_ready() {
        let folder = machine("ready");
        let lib = folder.join("lib/rustlib").join(TARGET).join("lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("libstd-0123.rlib"), "").unwrap();
        let found = Compiler::find(folder.as_os_str()).unwrap();
        let rustc = folder.join("rustc");
        assert_eq!(found, Compiler::Ready { rustc });
        let command = found.build(
            OsStr::new("cargo"),
            &folder,
            Path::new("/t"),
            Path::new("/r"),
        );
        let words: Vec<_> = command.get_args().collect();
        assert_eq!(words, ["build", "--release", "--target", TARGET]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn std_from_sources_is_asked_for_as_a_nightly_would() {
        let compiler = Compiler::Sources {
            rustc: "/usr/bin/rustc".into(),
            linker: "/usr/bin/wasm-ld-22".into(),
        };
        let command = compiler.build(
            OsStr::new("cargo"),
            Path::new("/f"),
            Path::new("/t"),
            Path::new("/r"),
        );
        assert!(
            command
                .get_args()
                .any(|word| word == "-Zbuild-std=std,panic_abort")
        );
        let bootstrap = command
            .get_envs()
            .find(|(name, _)| *name == "RUSTC_BOOTSTRAP");
        assert_eq!(bootstrap.unwrap().1.unwrap(), "1");
    }
}
