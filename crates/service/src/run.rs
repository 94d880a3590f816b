//! The life of a component's process, from the command line to the exit code.

mod capture;
mod health;
mod identity;

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use ringwall_secret::SecretProvider;
use ringwall_tls::IdentitySource;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{
    app::App,
    cli::Cli,
    config::{
        ComponentConfig, ConfigError, Profile, ServiceConfig, parse_yaml, place, read,
        validate_production,
    },
    error::{StartError, exit},
    serve::serve,
    shell::Shell,
    telemetry::Telemetry,
};

use health::Unhealthy;

/// How often rotated identity files are looked for.
const IDENTITY_RELOAD: Duration = Duration::from_secs(5);
/// Threads for blocking work: name resolution, files, password hashing.
const MAX_BLOCKING_THREADS: usize = 16;

/// What a component has while it gets its identity in its own way.
pub struct Seed {
    pub config: Arc<ServiceConfig>,
    /// The configuration file, for a component that reads a part of it again while it runs.
    pub file: PathBuf,
    pub secrets: Arc<SecretProvider>,
}

/// Runs a component: command line, configuration, runtime, `start`, serving, drain. `main` returns
/// its result. `name` is the component's name in the mesh.
pub fn run<C, F, Fut>(name: &'static str, start: F) -> ExitCode
where
    C: ComponentConfig,
    F: FnOnce(Shell, C) -> Fut,
    Fut: Future<Output = Result<App, StartError>>,
{
    let identify = |seed: Seed, config: C| async move {
        let identity = identity::configured(&seed.config).await?;
        Ok((identity, config))
    };
    run_as(name, identify, start)
}

/// [`run`] for a component whose `service.identity` is `self`: `identify` gets the identity, and
/// hands on to `start` whatever it has made on the way, its configuration at least.
///
/// For `--health`, which is another process, such a component keeps its SVID in the directory
/// `identity` of its `service.state` (see [`ringwall_tls::IdentitySource::load`] for the files).
pub fn run_with_identity<C, I, IFut, R, F, Fut>(
    name: &'static str,
    identify: I,
    start: F,
) -> ExitCode
where
    C: ComponentConfig,
    I: FnOnce(Seed, C) -> IFut,
    IFut: Future<Output = Result<(Arc<IdentitySource>, R), StartError>>,
    F: FnOnce(Shell, R) -> Fut,
    Fut: Future<Output = Result<App, StartError>>,
{
    let identify = |seed: Seed, config: C| async move {
        let (identity, ready) = identify(seed, config).await?;
        Ok((Some(identity), ready))
    };
    run_as(name, identify, start)
}

fn run_as<C, I, IFut, R, F, Fut>(name: &'static str, identify: I, start: F) -> ExitCode
where
    C: ComponentConfig,
    I: FnOnce(Seed, C) -> IFut,
    IFut: Future<Output = Result<(Option<Arc<IdentitySource>>, R), StartError>>,
    F: FnOnce(Shell, R) -> Fut,
    Fut: Future<Output = Result<App, StartError>>,
{
    let cli = Cli::parse_as(name);
    if cli.health {
        return report_health(name, cli.config());
    }
    match execute(name, &cli, identify, start) {
        Ok(Some(text)) => say(&text),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => fail(name, &error),
    }
}

/// What [`run`] does, without the process around it: a text to print, or the end of a served life.
fn execute<C, I, IFut, R, F, Fut>(
    name: &'static str,
    cli: &Cli,
    identify: I,
    start: F,
) -> Result<Option<String>, StartError>
where
    C: ComponentConfig,
    I: FnOnce(Seed, C) -> IFut,
    IFut: Future<Output = Result<(Option<Arc<IdentitySource>>, R), StartError>>,
    F: FnOnce(Shell, R) -> Fut,
    Fut: Future<Output = Result<App, StartError>>,
{
    if cli.schema {
        return Ok(Some(schema::<C>()));
    }
    let config = load::<C>(name, cli.config())?;
    if cli.check {
        return Ok(Some(format!(
            "{}: the configuration is valid",
            cli.config().display()
        )));
    }
    config.before_threads()?;
    if config.service().is_enforced_in_a_container() {
        // Natively whoever starts it has done so.
        ringwall_confine::refuse_ways_out()
            .map_err(|failed| StartError::permission(failed.to_string()))?;
    }
    runtime(&config)?.block_on(Box::pin(live(name, cli, config, identify, start)))?;
    Ok(None)
}

/// Reads and checks the configuration, as `--check` does.
fn load<C: ComponentConfig>(name: &str, path: &Path) -> Result<C, StartError> {
    let text = read(path)?;
    let config: C = parse_yaml(&text, path)?;
    let checked: Result<(), ConfigError> = config
        .service()
        .validate(name)
        .and_then(|()| config.validate());
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

async fn live<C, I, IFut, R, F, Fut>(
    name: &'static str,
    cli: &Cli,
    config: C,
    identify: I,
    start: F,
) -> Result<(), StartError>
where
    C: ComponentConfig,
    I: FnOnce(Seed, C) -> IFut,
    IFut: Future<Output = Result<(Option<Arc<IdentitySource>>, R), StartError>>,
    F: FnOnce(Shell, R) -> Fut,
    Fut: Future<Output = Result<App, StartError>>,
{
    ringwall_tls::install_crypto_provider();
    let service = Arc::new(config.service().clone());
    let secrets = Arc::new(SecretProvider::open(&service.secrets)?);
    let seed = Seed {
        config: Arc::clone(&service),
        file: cli.config().to_owned(),
        secrets: Arc::clone(&secrets),
    };
    let (identity, ready) = Box::pin(identify(seed, config)).await?;
    let shell = Shell::assemble(name, service, secrets, identity)?;
    let telemetry = Telemetry::init(&shell)?;
    log_panics();
    if let Ok(identity) = shell.identity() {
        identity.spawn_reload(IDENTITY_RELOAD);
    }
    watch_signals(&shell)?;
    if cli.exit_on_stdin_eof {
        watch_stdin(&shell);
    }
    let enforced = shell.config.is_enforced_in_a_container();
    let begin = async {
        if enforced {
            capture::awaited().await;
            capture::tell_health(&shell)?;
        }
        start(shell.clone(), ready).await
    };
    // A signal during a slow start ends it at once: nothing is being served yet.
    let started = tokio::select! {
        started = begin => started,
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

/// The end of standard input begins the drain. A thread of its own: reading there cannot be
/// cancelled, and must not hold up the end of the runtime.
fn watch_stdin(shell: &Shell) {
    let shell = shell.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                _ => {}
            }
        }
        tracing::info!("standard input closed");
        shell.begin_shutdown();
    });
}

/// Panics become log lines, so that they carry the trace id and reach the collector.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
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

/// What a container engine asks every few seconds.
fn report_health(name: &str, config: &Path) -> ExitCode {
    match health::ask(name, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Unhealthy::Config(error)) => fail(name, &error),
        Err(Unhealthy::NotReady(why)) => {
            // Where stderr is closed, the exit code still tells.
            let _closed = writeln!(std::io::stderr(), "ringwall-{name}: not ready: {why}");
            ExitCode::FAILURE
        }
    }
}

fn fail(name: &str, error: &StartError) -> ExitCode {
    // Where stderr is closed, the exit code still tells.
    let _closed = writeln!(std::io::stderr(), "ringwall-{name}: {error}");
    ExitCode::from(error.code())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::*;
    use crate::config::Refusal;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Config {
        service: ServiceConfig,
        #[serde(default)]
        demo_users: bool,
        #[serde(default)]
        shelves: u8,
    }

    impl ComponentConfig for Config {
        fn service(&self) -> &ServiceConfig {
            &self.service
        }
        fn validate(&self) -> Result<(), ConfigError> {
            if self.shelves > 9 {
                let seen = self.shelves.to_string();
                return Err(ConfigError::invalid(
                    "shelves",
                    &seen,
                    "at most 9",
                    "write `shelves: 9`",
                ));
            }
            Ok(())
        }
        fn production_refusals(&self) -> Vec<Refusal> {
            let users =
                || Refusal::new("demo_users: true", "everybody knows them", "remove the key");
            self.demo_users.then(users).into_iter().collect()
        }
    }

    async fn nobody(
        _: Seed,
        _: Config,
    ) -> Result<(Option<Arc<IdentitySource>>, Config), StartError> {
        Err(StartError::software("not started in these tests"))
    }

    async fn unused(_: Shell, _: Config) -> Result<App, StartError> {
        Err(StartError::software("not started in these tests"))
    }

    fn check(extra: &str) -> Result<Option<String>, StartError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("inventory.yaml");
        let text = format!(
            "service:\n  name: inventory\n  trust_domain: example.org\n  listen: 127.0.0.1:1\n  \
             admin: 127.0.0.1:2\n  identity: /i\n  \
             secrets: {{ provider: sealed, file: /a, key_file: /b }}\n{extra}"
        );
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let cli = Cli::parse_from(["x", "--config", file, "--check"]);
        execute::<Config, _, _, _, _, _>("inventory", &cli, nobody, unused)
    }

    #[test]
    fn a_good_configuration_passes_the_check() {
        assert!(
            check("")
                .unwrap()
                .unwrap()
                .ends_with("the configuration is valid")
        );
    }

    #[test]
    fn a_component_s_own_check_names_the_line() {
        let error = check("shelves: 12\n").unwrap_err();
        assert_eq!(error.code(), exit::CONFIG);
        assert!(
            error.to_string().contains("inventory.yaml:8:1: "),
            "{error}"
        );
    }

    #[test]
    fn the_production_profile_lists_every_refusal() {
        let error = check("demo_users: true\n").unwrap_err();
        assert_eq!(error.code(), exit::CONFIG);
        let expected =
            "- demo_users: true\n    why: everybody knows them\n    fix: remove the key\n";
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn the_schema_is_json() {
        let cli = Cli::parse_from(["x", "--schema"]);
        let text = execute::<Config, _, _, _, _, _>("inventory", &cli, nobody, unused)
            .unwrap()
            .unwrap();
        let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(schema["properties"]["demo_users"].is_object());
    }
}
