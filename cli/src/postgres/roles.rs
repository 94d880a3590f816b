//! Roles and databases: one of each per workload, the password only as its SCRAM verifier.

use ringwall_secret::SecretString;

use super::{Server, scram};
use crate::error::CliError;

/// Makes the role and the database of a workload, and sets the role's password.
///
/// The name comes from the composition, where it is checked to be `[a-z0-9-]`; the verifier is
/// base64 with `$` and `:`. Nothing in the text needs escaping.
pub(crate) fn ensure(server: &Server, name: &str, password: &SecretString) -> Result<(), CliError> {
    let verifier = scram::verifier(password)?;
    server.sql(&statements(name, &verifier)).map(|_| ())
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
