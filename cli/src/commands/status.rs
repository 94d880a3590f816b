//! `ringwall status`: every component asked just now, and the words that greet after `up`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{StateArgs, print_json, runtime};
use crate::composition::{Composition, Profile, Shown};
use crate::config::Source;
use crate::error::CliError;
use crate::files;
use crate::output::{Format, ago, print, table};
use crate::probe::Prober;
use crate::provision::secrets::{self, Credential};
use crate::record::{ComponentRecord, Condition, Record};
use crate::state::StateDir;

#[derive(Args, Clone, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Users and clients of the demo with their secrets
    #[arg(long)]
    credentials: bool,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Asks and prints; exit code 1 when nothing runs or a component is not ready.
pub(super) fn run(args: &StatusArgs) -> Result<ExitCode, CliError> {
    let state = args.state.open()?;
    if args.credentials {
        return credentials(args, &state);
    }
    let running = Record::read(&state)?.filter(|record| record.supervisor().is_alive());
    let record = running.ok_or_else(|| CliError::NotRunning(state.root().to_path_buf()))?;
    let health = runtime()?.block_on(probe_all(&record, &state))?;
    let healthy = health.iter().all(|health| health == READY);
    match args.output {
        Format::Json => print_json(&as_json(&record, &health)?)?,
        Format::Text => print(&format!(
            "{}\n\n{}",
            components(&record, &health),
            record.url
        ))?,
    }
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

const READY: &str = "ready";

/// The health of each component, in the record's order, asked at the same time.
async fn probe_all(record: &Record, state: &StateDir) -> Result<Vec<String>, CliError> {
    let prober = Prober::load(state, &record.trust_domain)?;
    let mut questions = Vec::new();
    for component in &record.components {
        let (prober, component) = (prober.clone(), component.clone());
        questions.push(tokio::spawn(
            async move { probe(&prober, &component).await },
        ));
    }
    let mut health = Vec::new();
    for question in questions {
        health.push(question.await.unwrap_or_else(|error| error.to_string()));
    }
    Ok(health)
}

async fn probe(prober: &Prober, component: &ComponentRecord) -> String {
    let unwatched = component.condition == Condition::Unwatched;
    if !unwatched
        && !component
            .process()
            .is_some_and(|process| process.is_alive())
    {
        return match component.condition {
            Condition::Ready | Condition::Starting => "dead".into(),
            other => other.as_str().into(),
        };
    }
    match &component.admin {
        Some(admin) => match prober.ready(&component.name, admin).await {
            Ok(()) => READY.into(),
            Err(why) => format!("not ready: {why}"),
        },
        // PostgreSQL answers a connection when it can serve one.
        None => match tokio::net::TcpStream::connect(component.address.to_string()).await {
            Ok(_) => READY.into(),
            Err(error) => format!("not ready: {error}"),
        },
    }
}

fn components(record: &Record, health: &[String]) -> String {
    let now = OffsetDateTime::now_utc();
    let rows: Vec<[String; 7]> = record
        .components
        .iter()
        .zip(health)
        .map(|(component, health)| {
            let rss = component.process().and_then(|process| process.rss_kib());
            [
                component.name.clone(),
                component.address.to_string(),
                health.clone(),
                component.pid.to_string(),
                rss.map_or_else(
                    || "-".into(),
                    |kib| format!("{:.1} MiB", kib as f64 / 1024.0),
                ),
                component.restarts.to_string(),
                ago((now - component.since).whole_seconds()),
            ]
        })
        .collect();
    table(
        [
            "component",
            "address",
            "health",
            "pid",
            "memory",
            "restarts",
            "since",
        ],
        &rows,
    )
}

fn as_json(record: &Record, health: &[String]) -> Result<Value, CliError> {
    let mut value = serde_json::to_value(record)
        .map_err(|error| CliError::internal("writing the record", error))?;
    let list = value.get_mut("components").and_then(Value::as_array_mut);
    for ((entry, component), health) in list
        .into_iter()
        .flatten()
        .zip(&record.components)
        .zip(health)
    {
        if let Some(fields) = entry.as_object_mut() {
            fields.insert("health".into(), json!(health));
            let rss = component.process().and_then(|process| process.rss_kib());
            fields.insert("rss_kib".into(), json!(rss));
        }
    }
    Ok(value)
}

fn credentials(args: &StatusArgs, state: &StateDir) -> Result<ExitCode, CliError> {
    let started = state.composition();
    let Some(text) = files::read_if_there(&started)? else {
        return Err(CliError::NotRunning(state.root().to_path_buf()));
    };
    let composition = Composition::read(&Source {
        name: started.display().to_string(),
        text,
    })?;
    let credentials = secrets::credentials(&composition, state)?;
    if args.output == Format::Json {
        print_json(&credentials_json(&credentials))?;
        return Ok(ExitCode::SUCCESS);
    }
    if credentials.is_empty() {
        print("no demo identities in this state directory")?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<[String; 3]> = credentials
        .iter()
        .map(|credential| {
            let (kind, name) = match &credential.whose {
                Shown::User(name) => ("user", name),
                Shown::Client(name) => ("client", name),
            };
            [
                kind.into(),
                name.clone(),
                credential.secret.expose().clone(),
            ]
        })
        .collect();
    print(&table(["kind", "name", "secret"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn credentials_json(credentials: &[Credential]) -> Value {
    let mut users = Vec::new();
    let mut clients = Vec::new();
    for credential in credentials {
        let secret = credential.secret.expose();
        match &credential.whose {
            Shown::User(name) => users.push(json!({ "name": name, "password": secret })),
            Shown::Client(name) => clients.push(json!({ "client_id": name, "secret": secret })),
        }
    }
    json!({ "users": users, "clients": clients })
}

/// What `up` prints when everything is ready.
pub(super) fn welcome(
    record: &Record,
    composition: &Composition,
    state: &StateDir,
) -> Result<String, CliError> {
    let rows: Vec<[String; 4]> = record
        .components
        .iter()
        .map(|component| {
            let health = component.condition.as_str().to_owned();
            let (name, address) = (component.name.clone(), component.address.to_string());
            [name, address, health, component.pid.to_string()]
        })
        .collect();
    let mut text = table(["component", "address", "health", "pid"], &rows);
    let _ = write!(text, "\n\n  {}\n", record.url);
    if record.profile == Profile::Demo {
        let credentials = secrets::credentials(composition, state)?;
        let first = credentials
            .iter()
            .find_map(|credential| match &credential.whose {
                Shown::User(name) => Some((name, &credential.secret)),
                Shown::Client(_) => None,
            });
        if let Some((user, password)) = first {
            let _ = writeln!(text, "\n  sign in as {user} with {}", password.expose());
            let _ = writeln!(text, "  (others: ringwall status --credentials)");
        }
    }
    let bundle = record.ca_bundle.display();
    let issuer = &record.issuer;
    let _ = write!(
        text,
        "\n  Trust this machine's authority, once:\n    \
         curl      curl --cacert {bundle} {issuer}/.well-known/openid-configuration\n    \
         Chromium  mkdir -p ~/.pki/nssdb && certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n ringwall -i {bundle}\n    \
         Firefox   Settings → Privacy & Security → Certificates → View → Authorities → Import {bundle}\n    \
         system    sudo install -m 644 {bundle} /usr/local/share/ca-certificates/ringwall.crt && sudo update-ca-certificates\n\n  \
         Ctrl-C stops everything; so does `ringwall down`."
    );
    Ok(text)
}
