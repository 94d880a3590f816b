//! Roles and databases: one of each per workload, the password only as its SCRAM verifier.

use ringwall_secret::SecretString;

use super::{Server, scram};
use crate::error::CliError;
use crate::provision::secrets;
use crate::state::StateDir;

/// The secret by which a workload logs in to its database.
pub(crate) const DATABASE_PASSWORD: &str = "postgres-password";

/// The password of a workload's role.
pub(crate) fn password_of(name: &str, state: &StateDir) -> Result<SecretString, CliError> {
    secrets::read(state, name, DATABASE_PASSWORD)?.ok_or_else(|| CliError::State {
        what: format!("`{name}` has no secret `{DATABASE_PASSWORD}` for its database"),
        fix: format!("declare it: `- password: {{ for: {{ {name}: {DATABASE_PASSWORD} }} }}`"),
    })
}

/// Makes the role and the database of a workload, and sets the role's password.
///
/// The name comes from the composition, where it is checked to be `[a-z0-9-]`; the verifier is
/// base64 with `$` and `:`. Nothing in the text needs escaping.
pub(crate) fn ensure(server: &Server, name: &str, password: &SecretString) -> Result<(), CliError> {
    let verifier = scram::verifier(password)?;
    server.sql(&statements(name, &verifier)).map(|_| ())
}

/// The same for every workload of a server, as a script for psql. It may run any number of times:
/// a verifier has a new salt each time that it is made, and any of them fits the password.
pub(super) fn script(names: &[String], state: &StateDir) -> Result<String, CliError> {
    let mut text = String::from(
        "-- Made by `ringwall` from the composition: changes here are lost.\n\
         \\set ON_ERROR_STOP on\n",
    );
    for name in names {
        let verifier = scram::verifier(&password_of(name, state)?)?;
        text.push_str(&statements(name, &verifier));
    }
    Ok(text)
}

fn statements(name: &str, verifier: &str) -> String {
    format!(
        "SELECT 'CREATE ROLE \"{name}\"' WHERE NOT EXISTS \
         (SELECT FROM pg_roles WHERE rolname = '{name}') \\gexec\n\
         ALTER ROLE \"{name}\" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION \
         CONNECTION LIMIT 40 PASSWORD '{verifier}';\n\
         SELECT 'CREATE DATABASE \"{name}\" OWNER \"{name}\"' WHERE NOT EXISTS \
         (SELECT FROM pg_database WHERE datname = '{name}') \\gexec\n\
         REVOKE ALL ON DATABASE \"{name}\" FROM PUBLIC;\n"
    )
}
