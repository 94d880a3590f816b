//! The life of a component's process, from the command line to the exit code.

use std::{io::Write as _, path::Path, process::ExitCode, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{
    app::App,
    cli::Cli,
    config::{ComponentConfig, ConfigError, Profile, parse_yaml, place, read, validate_production},
    error::{StartError, exit},
    serve::serve,
    shell::Shell,
    telemetry::Telemetry,
};

/// How often rotated identity files are looked for.
const IDENTITY_RELOAD: Duration = Duration::from_secs(5);
/// Threads for blocking work: name resolution, files, password hashing.
const MAX_BLOCKING_THREADS: usize = 16;

/// Runs a component: command line, configuration, runtime, `start`, serving, drain. `main` returns
/// its result. `name` is the component's name in the mesh.
pub fn run<C, F, Fut>(name: &'static str, start: F) -> ExitCode
where
    C: ComponentConfig,
    F: FnOnce(Shell, C) -> Fut,
    Fut: Future<Output = Result<App, StartError>>,
{
    let cli = Cli::parse_as(name);
    if cli.schema {
        return say(&schema::<C>());
    }
    let config = match load::<C>(name, cli.config()) {
        Ok(config) => config,
        Err(error) => return fail(name, &error),
    };
    if cli.check {
        return say(&format!("{}: the configuration is valid", cli.config().display()));
    }
    match runtime(&config).and_then(|runtime| runtime.block_on(Box::pin(live(name, config, start))))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(name, &error),
    }
}

/// Reads and checks the configuration, as `--check` does.
fn load<C: ComponentConfig>(name: &str, path: &Path) -> Result<C, StartError> {
    let text = read(path)?;
    let config: C = parse_yaml(&text, path)?;
    let checked: Result<(), ConfigError> =
        config.service().validate(name).and_then(|()| config.validate());
    checked.map_err(|error| place(error, path, &text))?;
    let mut refusals = validate_production(config.service());
    if config.service().profile == Profile::Production {
        refusals.extend(config.production_refusals());
    }
    if refusals.is_empty() {
        return Ok(config);
    }
    let list: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    Err(StartError::config(format!(
        "{}: the production profile refuses this configuration\n{}\nOn a machine of your own, `profile: demo` allows all of it.",
        path.display(),
        list.join("\n")
    )))
}

fn runtime<C: ComponentConfig>(config: &C) -> Result<Runtime, StartError> {
    Builder::new_multi_thread()
        .worker_threads(config.service().workers.get())
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(StartError::from)
}

async fn live<C, F, Fut>(name: &'static str, config: C, start: F) -> Result<(), StartError>
where
    C: ComponentConfig,
    F: FnOnce(Shell, C) -> Fut,
    Fut: Future<Output = Result<App, StartError>>,
{
    let shell = Shell::open(name, config.service().clone())?;
    let telemetry = Telemetry::init(&shell)?;
    log_panics();
    let _reload = shell.identity.spawn_reload(IDENTITY_RELOAD);
    watch_signals(&shell)?;
    // A signal during a slow start ends it at once: nothing is being served yet.
    let started = tokio::select! {
        started = start(shell.clone(), config) => started,
        () = shell.shutdown() => {
            tracing::info!(reason = "signal before the start was complete", "stopped");
            return Ok(());
        }
    };
    let result = match started {
        Ok(app) => Box::pin(serve(shell.clone(), app)).await,
        Err(error) => Err(error),
    };
    match &result {
        Ok(()) => tracing::info!(reason = "asked to stop", "stopped"),
        Err(error) => tracing::error!(reason = %error, code = error.code(), "stopped"),
    }
    telemetry.shutdown().await;
    result
}

/// SIGTERM and SIGINT begin the drain; a second one ends the process at once.
fn watch_signals(shell: &Shell) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shell = shell.clone();
    tokio::spawn(async move {
        for round in 0..2 {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "signal received");
            if round == 0 {
                shell.begin_shutdown();
            } else {
                std::process::exit(i32::from(exit::SOFTWARE));
            }
        }
    });
    Ok(())
}

/// Panics become log lines, so that they carry the trace id and reach the collector.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panic");
    }));
}

fn schema<C: ComponentConfig>() -> String {
    let schema = schemars::schema_for!(C);
    serde_json::to_string_pretty(&schema).expect("a schema is a JSON value")
}

fn say(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(name: &str, error: &StartError) -> ExitCode {
    // Where stderr is closed, the exit code still tells.
    let _closed = writeln!(std::io::stderr(), "ringwall-{name}: {error}");
    ExitCode::from(error.code())
}
