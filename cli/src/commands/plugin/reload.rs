//! Every save is taken into use, or what is wrong with it is said and the last good one serves on.
//!
//! Owns: which files are looked at, and the order build, load, configure, replace. A file is looked at, not subscribed to: that
//! works on every file system, and five times a second costs nothing. Must not: touch a request; those under way end with the
//! version that they began with.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use ringwall_plugin_cases::Kind;
use ringwall_plugin_host::config::PluginConfig;
use ringwall_plugin_host::{Module, PluginSpec, Runtime, Verification};
use ringwall_plugin_runner::serve::Server;
use ringwall_plugin_runner::spec;

use super::project::{self, ModuleFile, Project};
use super::run::RunArgs;
use crate::error::CliError;
use crate::output::say;

/// Between two looks; a save is complete when two looks see the same.
const LOOK: Duration = Duration::from_millis(200);
/// Files below `src` that are looked at.
const MAX_FILES: usize = 10_000;

/// Where a version comes from.
pub(super) struct Sources {
    code: Code,
    declaration: Declaration,
    name: String,
}

enum Code {
    /// Built from its sources.
    Project(Project),
    Module(PathBuf),
}

enum Declaration {
    Cases(PathBuf),
    Config(PathBuf),
}

/// What can be served.
pub(super) struct Version {
    pub(super) module: ModuleFile,
    pub(super) spec: PluginSpec,
    /// What it was made of.
    look: Look,
}

impl fmt::Display for Sources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Code::Project(project) => {
                write!(formatter, "{}", project.folder.join("src").display())?
            }
            Code::Module(path) => write!(formatter, "{}", path.display())?,
        }
        write!(formatter, " and {}", self.declaration.path().display())
    }
}

impl Declaration {
    fn path(&self) -> &Path {
        match self {
            Self::Cases(path) | Self::Config(path) => path,
        }
    }
}

impl Sources {
    pub(super) fn find(args: &RunArgs) -> Result<Self, CliError> {
        let declaration = match (&args.config, &args.cases) {
            (Some(config), _) => Declaration::Config(config.clone()),
            (None, Some(cases)) => Declaration::Cases(cases.clone()),
            (None, None) => Declaration::Cases(args.project.path.join("cases.yaml")),
        };
        let (code, name) = match (&args.module, &declaration) {
            (Some(path), _) => (Code::Module(path.clone()), None),
            (None, Declaration::Config(path)) if !args.project.has_sources() => {
                (Code::Module(config(path)?.module), None)
            }
            _ => {
                let project = args.project.project()?;
                let name = project.name.clone();
                (Code::Project(project), Some(name))
            }
        };
        let name = match (&code, name) {
            (_, Some(name)) => name,
            (Code::Module(path), None) => path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            (Code::Project(project), None) => project.name.clone(),
        };
        Ok(Self {
            code,
            declaration,
            name,
        })
    }

    /// What is there now, built if that is how it comes to be.
    pub(super) fn first(&self) -> Result<Version, CliError> {
        // Before the build: what is saved meanwhile is seen afterwards.
        let look = self.look();
        // It is sooner seen to be wrong.
        let spec = self.spec()?;
        let module = match &self.code {
            Code::Project(project) => project.build()?,
            Code::Module(path) => ModuleFile::read(path)?,
        };
        Ok(Version { module, spec, look })
    }

    fn spec(&self) -> Result<PluginSpec, CliError> {
        match &self.declaration {
            Declaration::Config(path) => {
                let config = config(path)?;
                Ok(config.spec(config.code()))
            }
            Declaration::Cases(path) => {
                let (_, suite) = project::cases(Some(path), Path::new(""))?;
                let mut cases = suite.cases.iter();
                let served = cases.find(|case| matches!(case.kind, Kind::Exchanges(_)));
                let configuration = served.map(|case| case.configuration.as_slice());
                Ok(spec(
                    &self.name,
                    &suite.capabilities,
                    configuration.unwrap_or_default(),
                ))
            }
        }
    }

    /// Everything that makes a version, with what changes when it is saved.
    fn look(&self) -> Look {
        let code = match &self.code {
            Code::Project(project) => {
                let mut files = vec![
                    project.folder.join("Cargo.toml"),
                    project.folder.join("build.rs"),
                ];
                below(&project.folder.join("src"), &mut files);
                files
            }
            Code::Module(path) => vec![path.clone()],
        };
        Look {
            code: code.into_iter().map(stamp).collect(),
            declaration: stamp(self.declaration.path().to_owned()),
        }
    }
}

/// One entry of the gateway's `plugins`; its module is where it is for the file.
fn config(path: &Path) -> Result<PluginConfig, CliError> {
    let text = fs::read_to_string(path).map_err(|error| CliError::io("reading", path, error))?;
    let config: Result<PluginConfig, _> = serde_saphyr::from_str(&text);
    let mut config = config.map_err(|error| {
        let line = error.location().map_or(0, |at| at.line());
        CliError::Plugin {
            what: format!("{}:{line}: {}", path.display(), error.without_snippet()),
            fix: "write one entry of `plugins` as docs/running-plugins.md has it".into(),
        }
    })?;
    if let Some(folder) = path.parent() {
        config.module = folder.join(&config.module);
    }
    Ok(config)
}

/// A file and what a save changes of it; nothing where it is not there.
type Stamp = (PathBuf, Option<(u64, i64, i64, u64)>);

#[derive(Clone, PartialEq, Eq)]
struct Look {
    code: Vec<Stamp>,
    declaration: Stamp,
}

fn stamp(path: PathBuf) -> Stamp {
    let meta = fs::metadata(&path).ok();
    let seen = meta.map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()));
    (path, seen)
}

fn below(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut entries: Vec<_> = entries
        .map(|entry| (entry.path(), entry.file_type()))
        .collect();
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (path, kind) in entries {
        if files.len() >= MAX_FILES {
            return;
        }
        // A link to a folder is not entered: it may lead back.
        if kind.is_ok_and(|kind| kind.is_dir()) {
            below(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// A server, and what it is to serve.
pub(super) struct Reloading {
    runtime: Runtime,
    server: Server,
    sources: Sources,
    /// That was seen and dealt with, well or not.
    seen: Look,
    served: Version,
}

impl Reloading {
    pub(super) fn new(runtime: Runtime, server: Server, sources: Sources, served: Version) -> Self {
        Self {
            runtime,
            server,
            seen: served.look.clone(),
            sources,
            served,
        }
    }

    /// Until the process is ended.
    pub(super) fn forever(mut self) -> Result<ExitCode, CliError> {
        loop {
            thread::sleep(LOOK);
            let look = self.sources.look();
            if look == self.seen {
                continue;
            }
            thread::sleep(LOOK);
            if self.sources.look() != look {
                continue; // a save is under way
            }
            self.seen = look.clone();
            match self.reload(look) {
                Ok(said) => say(&said),
                Err(error) => say(&format!(
                    "error: {error}\nnot taken into use; the last good one serves on"
                )),
            }
        }
    }

    fn reload(&mut self, look: Look) -> Result<String, CliError> {
        // Of what is served, not of what was seen: a save that failed is still to be taken into use.
        let is_code = look.code != self.served.look.code;
        let spec = self.sources.spec()?;
        let module = match &self.sources.code {
            Code::Project(project) if is_code => {
                say("saved; building");
                project.build()?
            }
            Code::Module(path) if is_code => ModuleFile::read(path)?,
            _ => self.served.module.clone(),
        };
        let is_same = module.bytes == self.served.module.bytes
            && look.declaration == self.served.look.declaration;
        if is_same {
            self.served.look = look;
            return Ok("saved; the module is as it was".to_owned());
        }
        let refused = |error| project::refused(&module.path, &error);
        let loaded =
            Module::load(&self.runtime, &module.bytes, &Verification::none()).map_err(refused)?;
        self.server
            .plugin()
            .replace(&loaded, spec.clone())
            .map_err(refused)?;
        let said = format!("in use: {} ({})", module.path.display(), module.sha256());
        self.served = Version { module, spec, look };
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_is_seen_by_its_file_and_a_new_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.rs");
        fs::write(&file, "a").unwrap();
        let look = || {
            let mut files = Vec::new();
            below(folder.path(), &mut files);
            files.into_iter().map(stamp).collect::<Vec<_>>()
        };
        let first = look();
        assert_eq!(look(), first);
        fs::write(&file, "ab").unwrap();
        let second = look();
        assert_ne!(second, first);
        fs::create_dir(folder.path().join("b")).unwrap();
        assert_eq!(look(), second);
        fs::write(folder.path().join("b/c.rs"), "").unwrap();
        assert_ne!(look(), second);
    }

    #[test]
    fn an_entry_of_the_gateway_is_read_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.yaml");
        fs::write(
            &file,
            "name: p\nmodule: p.wasm\ncapabilities: {body: read}\n",
        )
        .unwrap();
        let read = config(&file).unwrap();
        assert_eq!(read.module, folder.path().join("p.wasm"));
        fs::write(&file, "name: p\nmodule: p.wasm\nmodul: x\n").unwrap();
        let error = config(&file).unwrap_err();
        assert_eq!(error.code(), 78);
        assert!(error.to_string().contains("p.yaml:3"), "{error}");
    }
}
