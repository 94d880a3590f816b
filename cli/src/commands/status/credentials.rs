//! The demo's users and clients with their generated secrets.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::super::print_json;
use super::StatusArgs;
use crate::composition::{Composition, Shown};
use crate::config::Source;
use crate::engine::{Container, Project};
use crate::error::CliError;
use crate::files;
use crate::output::{Format, print, table};
use crate::provision::secrets::{self, Credential};
use crate::state::StateDir;

/// Reads the sealed files of a state directory, whether or not the platform runs.
pub(super) fn native(args: &StatusArgs, state: &StateDir) -> Result<ExitCode, CliError> {
    let started = state.composition();
    let Some(text) = files::read_if_there(&started)? else {
        return Err(CliError::NotRunning(state.root().to_path_buf()));
    };
    let composition = Composition::read(&Source {
        name: started.display().to_string(),
        text,
    })?;
    let credentials = secrets::credentials(&composition, state)?;
    show(args, &as_json(&credentials))
}

/// Lets the provisioner read its own.
pub(super) fn containers(
    args: &StatusArgs,
    project: &Project<'_>,
    provisioner: &Container,
) -> Result<ExitCode, CliError> {
    show(
        args,
        &project.ask(provisioner, &["status", "--credentials"])?,
    )
}

fn show(args: &StatusArgs, credentials: &Value) -> Result<ExitCode, CliError> {
    if args.output == Format::Json {
        print_json(credentials)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = rows(credentials, "users", ["user", "name", "password"]);
    rows.extend(self::rows(
        credentials,
        "clients",
        ["client", "client_id", "secret"],
    ));
    if rows.is_empty() {
        print("no demo identities in this state directory")?;
    } else {
        print(&table(["kind", "name", "secret"], &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(credentials: &Value, list: &str, [kind, name, secret]: [&str; 3]) -> Vec<[String; 3]> {
    let entries = credentials.get(list).and_then(Value::as_array);
    let text = |entry: &Value, key: &str| {
        let value = entry.get(key).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    entries
        .into_iter()
        .flatten()
        .map(|entry| [kind.to_owned(), text(entry, name), text(entry, secret)])
        .collect()
}

fn as_json(credentials: &[Credential]) -> Value {
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
