//! `ringwall plugin run`: the plugin in traffic while it is written.
//!
//! Owns: what is served, where, and what is said about it. Read next: `reload.rs`, what happens at a save.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use http::uri::Authority;
use ringwall_plugin_host::{LogLevel, Module, Verification};
use ringwall_plugin_runner::serve::{Event, Options, Server, StartError, Tell, Upstream, origin};

use super::inspect::engine;
use super::project::{self, ProjectArgs};
use super::reload::{Reloading, Sources};
use super::shown::time;
use crate::error::CliError;
use crate::output::{print, say};

#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    /// A module [default: the folder's, built now and at every save of its sources]
    #[arg(value_name = "FILE.wasm")]
    pub(super) module: Option<PathBuf>,
    /// Where to listen; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Where requests go [default: an upstream that answers with what it has got]
    #[arg(long, value_name = "http://HOST:PORT", value_parser = origin)]
    upstream: Option<Authority>,
    /// What the plugin may call under this name, if its capabilities allow it
    #[arg(long, value_name = "NAME=http://HOST:PORT", value_parser = cluster)]
    cluster: Vec<(String, Authority)>,
    /// Capabilities, and the configuration of the first case that is not refused [default: cases.yaml in the folder]
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub(super) cases: Option<PathBuf>,
    /// The same as the gateway has them: one entry of its `plugins`
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) project: ProjectArgs,
}

fn cluster(text: &str) -> Result<(String, Authority), String> {
    let (name, to) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("it is not of the form NAME=http://HOST:PORT")?;
    Ok((name.to_owned(), origin(to)?))
}

pub(super) fn run(args: &RunArgs) -> Result<ExitCode, CliError> {
    if !args.listen.ip().is_loopback() {
        return Err(CliError::Plugin {
            what: format!(
                "{} is not on loopback, and this server is for trying only",
                args.listen
            ),
            fix: "listen on 127.0.0.1 or [::1]; the gateway is what others are served by".into(),
        });
    }
    let sources = Sources::find(args)?;
    let version = sources.first()?;
    let runtime = engine()?;
    let module = Module::load(&runtime, &version.module.bytes, &Verification::none());
    let module = module.map_err(|error| project::refused(&version.module.path, &error))?;
    let listener =
        TcpListener::bind(args.listen).map_err(|error| cannot_listen(args.listen, error))?;
    let clusters: BTreeMap<String, Authority> = args.cluster.iter().cloned().collect();
    let options = Options {
        listener,
        upstream: args.upstream.clone().map_or(Upstream::Echo, Upstream::Http),
        clusters,
        tell: Arc::new(tell) as Tell,
    };
    let server = Server::start(&runtime, &module, version.spec.clone(), options);
    let server = server.map_err(|error| match error {
        StartError::Plugin(error) => project::refused(&version.module.path, &error),
        StartError::Io(source) => CliError::Io {
            what: "starting the server".into(),
            source,
        },
    })?;
    let upstream = match &args.upstream {
        Some(upstream) => format!("http://{upstream}"),
        None => "an echo".to_owned(),
    };
    say(&format!(
        "serving {} before {upstream}; saves of {sources} are taken into use; Ctrl-C ends",
        version.spec.name
    ));
    print(&format!("http://{}", server.address()))?;
    Reloading::new(runtime, server, sources, version).forever()
}

fn cannot_listen(address: SocketAddr, error: io::Error) -> CliError {
    if error.kind() == io::ErrorKind::AddrInUse {
        return CliError::PortsTaken(vec![format!(
            "{address} is taken\n  fix: choose another port: --listen 127.0.0.1:0 takes any free one"
        )]);
    }
    CliError::Io {
        what: format!("listening on {address}"),
        source: error,
    }
}

/// One line for each request, log line and refusal.
fn tell(event: &Event<'_>) {
    match event {
        Event::Answered {
            method,
            path,
            status,
            by_plugin,
            took,
        } => {
            let by = if *by_plugin { "plugin" } else { "upstream" };
            say(&format!(
                "{method} {path} {status} by {by} in {}",
                time(*took)
            ));
        }
        Event::Logged { level, line } => {
            let level = match level {
                LogLevel::Trace => "trace",
                LogLevel::Debug => "debug",
                LogLevel::Info => "info",
                LogLevel::Warn => "warn",
                LogLevel::Error => "error",
                LogLevel::Critical => "critical",
            };
            say(&format!("  log {level}: {}", line.escape_debug()));
        }
        Event::Refused { what } => say(&format!(
            "  refused: {what} (not declared, or beyond a limit)"
        )),
    }
}
