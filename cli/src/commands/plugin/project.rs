//! A plugin's folder: its package, its module, its cases; and a module that stands alone.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::digest;
use clap::Args;
use ringwall_plugin_cases::Suite;
use ringwall_plugin_toolchain::{Compiler, MISSING, TARGET};
use serde::Deserialize;

use crate::config;
use crate::error::CliError;
use crate::output::say;

const MANIFEST: &str = "Cargo.toml";
const CASES: &str = "cases.yaml";
/// The largest file that is taken for a module, in bytes: as much as a host looks at.
const MAX_MODULE: u64 = 64 << 20;

/// Where the sources are.
#[derive(Args, Clone, Debug)]
pub(super) struct ProjectArgs {
    /// Folder of the plugin
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    pub(super) path: PathBuf,
}

/// A package that makes a module.
#[derive(Clone, Debug)]
pub(super) struct Project {
    pub(super) folder: PathBuf,
    pub(super) name: String,
    module: PathBuf,
    target: PathBuf,
}

/// A module's bytes, and where they are.
#[derive(Clone, Debug)]
pub(super) struct ModuleFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

impl ProjectArgs {
    pub(super) fn has_sources(&self) -> bool {
        self.path.join(MANIFEST).is_file()
    }

    /// The module that was named, else the folder's, built now; with what the plugin is called.
    pub(super) fn module(&self, named: Option<&Path>) -> Result<(String, ModuleFile), CliError> {
        match named {
            Some(path) => {
                let module = ModuleFile::read(path)?;
                Ok((module.stem(), module))
            }
            None => {
                let project = self.project()?;
                Ok((project.name.clone(), project.build()?))
            }
        }
    }

    /// The package in the folder.
    pub(super) fn project(&self) -> Result<Project, CliError> {
        if !self.has_sources() {
            return Err(CliError::Plugin {
                what: format!("{} has no {MANIFEST}: no plugin in Rust", self.path.display()),
                fix: "make one (ringwall plugin new NAME), name its folder (--path DIRECTORY), or name a module (FILE.wasm)".into(),
            });
        }
        let folder = std::path::absolute(&self.path)
            .map_err(|error| CliError::io("finding", &self.path, error))?;
        Project::read(folder)
    }
}

impl Project {
    fn read(folder: PathBuf) -> Result<Self, CliError> {
        let cargo = config::cargo();
        let mut command = Command::new(&cargo.program);
        command
            .current_dir(&folder)
            .args(["metadata", "--no-deps", "--format-version=1"]);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let output = command.output().map_err(no_cargo)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(CliError::Plugin {
                what: format!(
                    "cargo does not take {}:\n{}",
                    folder.join(MANIFEST).display(),
                    said.trim()
                ),
                fix: format!("change {MANIFEST} as cargo says"),
            });
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout)
            .map_err(|error| CliError::internal("reading cargo's metadata", error))?;
        let manifest = folder.join(MANIFEST);
        let is_ours = |package: &&Package| same_file(&package.manifest_path, &manifest);
        let package = metadata.packages.iter().find(is_ours);
        let library = package.and_then(|package| {
            let mut targets = package.targets.iter();
            let found =
                targets.find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"));
            found.map(|target| (package.name.clone(), target.name.replace('-', "_")))
        });
        let Some((name, library)) = library else {
            return Err(CliError::Plugin {
                what: format!("the package of {} makes no module", manifest.display()),
                fix: "in its [lib], let crate-type be [\"cdylib\", \"rlib\"]".into(),
            });
        };
        let target = metadata.target_directory;
        let module = target
            .join(TARGET)
            .join("release")
            .join(format!("{library}.wasm"));
        Ok(Self {
            folder,
            name,
            module,
            target,
        })
    }

    /// Compiles. What cargo says goes to stderr: all of it where somebody looks, else only what is wrong.
    pub(super) fn build(&self) -> Result<ModuleFile, CliError> {
        let cargo = config::cargo();
        let compiler = Compiler::find(&cargo.search_path).ok_or_else(|| CliError::ToolMissing {
            what: format!("a compiler for {TARGET}"),
            fix: MISSING.into(),
        })?;
        let mut command =
            compiler.build(&cargo.program, &self.folder, &self.target, &cargo.registry);
        command.args(["--package", &self.name]).stdin(Stdio::null());
        // Ours is for results.
        command.stdout(Stdio::null());
        if !io::stderr().is_terminal() {
            command.arg("--quiet");
        }
        let status = command.status().map_err(no_cargo)?;
        if !status.success() {
            return Err(CliError::Build {
                what: format!("{} does not build with {compiler}", self.folder.display()),
                fix: "cargo's output above says what it does not take",
            });
        }
        ModuleFile::read(&self.module)
    }
}

fn no_cargo(error: io::Error) -> CliError {
    if error.kind() == io::ErrorKind::NotFound {
        return CliError::ToolMissing {
            what: "cargo".into(),
            fix: MISSING.into(),
        };
    }
    CliError::Io {
        what: "running cargo".into(),
        source: error,
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}

/// What is read of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

impl ModuleFile {
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
        let failed = |error| CliError::io("reading", path, error);
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > MAX_MODULE {
            return Err(CliError::Plugin {
                what: format!(
                    "{} has {size} bytes; a module has {MAX_MODULE} at most",
                    path.display()
                ),
                fix: "name the .wasm file of a plugin".into(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            bytes: std::fs::read(path).map_err(failed)?,
        })
    }

    /// SHA-256 in hexadecimal digits.
    pub(super) fn sha256(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, &self.bytes))
    }

    /// Its name without `.wasm`.
    pub(super) fn stem(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }
}

/// A host's word about a module.
pub(super) fn refused(module: &Path, error: &ringwall_plugin_host::Error) -> CliError {
    CliError::Plugin {
        what: format!("{}: {error}", module.display()),
        fix: "look into it with `ringwall plugin inspect FILE`; docs/plugins.md says how a plugin is made".into(),
    }
}

/// The cases: the given file, else the one in the folder.
pub(super) fn cases(given: Option<&Path>, folder: &Path) -> Result<(PathBuf, Suite), CliError> {
    let file = given.map_or_else(|| folder.join(CASES), Path::to_owned);
    match Suite::load(&file) {
        Ok(suite) => Ok((file, suite)),
        Err(ringwall_plugin_cases::Error::Read { source, .. }) => {
            if source.kind() == io::ErrorKind::NotFound {
                say(&format!(
                    "cases are looked for in {}; another file: --cases FILE",
                    file.display()
                ));
            }
            Err(CliError::io("reading", &file, source))
        }
        Err(ringwall_plugin_cases::Error::Parse { line, what }) => {
            let shown = file.display();
            let place = match line {
                0 => shown.to_string(),
                line => format!("{shown}:{line}"),
            };
            Err(CliError::Plugin {
                what: format!("{place}: {what}"),
                fix: "docs/plugins.md says what the file holds".into(),
            })
        }
    }
}
