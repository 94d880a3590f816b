//! Building the binaries that run, and handing over to `ringwall`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::ebpf;
use crate::layers::metadata::Metadata;
use crate::process::{human, run, say};
use crate::wasm;

/// Cargo profile of the binaries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    /// What `up` starts: optimised, and built in minutes.
    Release,
    /// What images hold and measurements of the mesh run: optimised across crates, which takes much longer.
    Dist,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
            Self::Dist => "dist",
        }
    }
}

/// The cargo command that builds every deployable and `ringwall` itself.
pub(crate) fn deployables(config: &Config, profile: Profile) -> Result<Command> {
    let metadata = Metadata::load(config)?;
    Ok(packages(config, profile, metadata.deployables()))
}

/// The cargo command that builds some packages as they are released, or in the dev profile.
pub(crate) fn packages<'name>(
    config: &Config,
    profile: Profile,
    names: impl Iterator<Item = &'name str>,
) -> Command {
    let mut command = Command::new(&config.cargo);
    command
        .current_dir(&config.root)
        .env("CARGO_TARGET_DIR", &config.target)
        .args(["build", "--locked"]);
    if profile != Profile::Dev {
        command.args(["--profile", profile.folder()]);
        command.args(["--config", &without_paths(config)]);
    }
    for name in names {
        command.args(["--package", name]);
    }
    command
}

/// The same for the packages of some images.
pub(crate) fn for_images<'name>(
    config: &Config,
    profile: Profile,
    names: impl Iterator<Item = &'name str>,
) -> Command {
    match profile {
        Profile::Release | Profile::Dist => packages(config, profile, names),
        Profile::Dev => workspace(config),
    }
}

/// Everything in the dev profile, the tests included: with another selection of packages or of targets cargo would
/// build a hundred dependencies once more, with other features.
pub(crate) fn workspace(config: &Config) -> Command {
    let mut command = Command::new(&config.cargo);
    command
        .current_dir(&config.root)
        .env("CARGO_TARGET_DIR", &config.target)
        .args(["build", "--workspace", "--all-targets", "--locked"]);
    command
}

/// rustc flags that keep this machine's folders out of the binaries: what is built elsewhere from the same sources is
/// the same, byte for byte. The flags of .cargo/config.toml stay, cargo joins both.
pub(crate) fn without_paths(config: &Config) -> String {
    let triple = config.outputs.file_name().unwrap_or_default();
    let registry = config.cargo_home.join("registry/src");
    format!(
        "target.{}.rustflags = ['--remap-path-prefix={}=/cargo', '--remap-path-prefix={}=/target']",
        triple.to_string_lossy(),
        registry.display(),
        config.target.display()
    )
}

/// Builds in release mode and becomes `ringwall up`.
pub(crate) fn up(config: &Config, arguments: &[String]) -> Result<ExitCode> {
    let started = Instant::now();
    wasm::build(config)?;
    say("building the platform (release); the first build takes some minutes");
    run(&mut deployables(config, Profile::Release)?)?;
    say(&format!("built in {}", human(started.elapsed())));
    // Without them the platform runs all the same, and says in which tier.
    if let Err(error) = ebpf::build(config) {
        say(&format!("the kernel takes no part: {error:#}"));
    }
    let mut arguments = arguments.to_vec();
    if !arguments
        .iter()
        .any(|argument| argument.starts_with("--web-dir"))
    {
        // This checkout's, whichever one has built the binary.
        let bundle = config.web().join("dist");
        arguments.extend(["--web-dir".to_owned(), bundle.display().to_string()]);
    }
    become_ringwall(&binary(config, Profile::Release), "up", &arguments)
}

/// Becomes `ringwall down`; builds it first when it is not there.
pub(crate) fn down(config: &Config, arguments: &[String]) -> Result<ExitCode> {
    let release = binary(config, Profile::Release);
    let dev = binary(config, Profile::Dev);
    if let Some(built) = [&release, &dev]
        .into_iter()
        .find(|candidate| candidate.is_file())
    {
        return become_ringwall(built, "down", arguments);
    }
    let mut build = Command::new(&config.cargo);
    build.current_dir(&config.root);
    run(build.args([
        "build",
        "--locked",
        "--release",
        "--package",
        "ringwall-cli",
    ]))?;
    become_ringwall(&release, "down", arguments)
}

/// Where cargo puts the binaries of a profile.
pub(crate) fn outputs(config: &Config, profile: Profile) -> PathBuf {
    config.outputs.join(profile.folder())
}

/// Where cargo puts `ringwall`, with the components' binaries beside it.
pub(crate) fn binary(config: &Config, profile: Profile) -> PathBuf {
    outputs(config, profile).join("ringwall")
}

/// Replaces this process, so that signals and the exit code are those of `ringwall`.
fn become_ringwall(binary: &Path, command: &str, arguments: &[String]) -> Result<ExitCode> {
    let error = Command::new(binary).arg(command).args(arguments).exec();
    Err(error).with_context(|| format!("starting {}", binary.display()))
}
