//! The three files that say how the server runs and who may connect how.

use crate::composition::OPERATOR;
use crate::state::StateDir;

/// Map from the operating system's user to the operator's role.
const OPERATOR_MAP: &str = "operator";

/// `postgresql.conf`: loopback and our socket only, TLS 1.3, SCRAM, durable commits.
pub(super) fn server(state: &StateDir, port: u16) -> String {
    let tls = state.postgres().join("tls");
    let file = |name: &str| quoted(&tls.join(name).to_string_lossy());
    let socket = quoted(&state.socket().to_string_lossy());
    format!(
        "# Made by `ringwall up`: changes here are lost.\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = {socket}\n\
         unix_socket_permissions = 0700\n\
         ssl = on\n\
         ssl_min_protocol_version = 'TLSv1.3'\n\
         ssl_cert_file = {}\n\
         ssl_key_file = {}\n\
         ssl_ca_file = {}\n\
         password_encryption = scram-sha-256\n\
         fsync = on\n\
         synchronous_commit = on\n\
         max_connections = 60\n\
         shared_buffers = 32MB\n\
         dynamic_shared_memory_type = posix\n\
         max_wal_size = 256MB\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n\
         log_line_prefix = '%m [%p] %q%u@%d '\n\
         log_connections = off\n",
        file("server.pem"),
        file("server.key"),
        file("bundle.pem"),
    )
}

/// `pg_hba.conf`: the operator on the socket, each workload with its certificate **and** its
/// password; no other line, so everything else is refused.
pub(super) fn access(databases: &[String]) -> String {
    let mut text = format!("local all {OPERATOR} peer map={OPERATOR_MAP}\n");
    for name in databases {
        let line =
            format!("hostssl {name} {name} 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n");
        text.push_str(&line);
    }
    text
}

/// `pg_ident.conf`: which user of the machine is the operator.
pub(super) fn operator_map(user: &str) -> String {
    format!("{OPERATOR_MAP} \"{user}\" {OPERATOR}\n")
}

/// A string of postgresql.conf.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_needs_certificate_and_password_and_nothing_else_is_let_in() {
        assert_eq!(
            access(&["orders".into()]),
            "local all ringwall peer map=operator\n\
             hostssl orders orders 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n"
        );
    }

    #[test]
    fn the_server_listens_on_loopback_with_tls() {
        let text = server(&StateDir::new("/state".into()), 7432);
        for line in [
            "listen_addresses = '127.0.0.1'",
            "port = 7432",
            "unix_socket_directories = '/state/run/postgres'",
            "ssl = on",
            "ssl_cert_file = '/state/postgres/tls/server.pem'",
            "fsync = on",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}");
        }
    }

    #[test]
    fn a_quote_in_a_path_does_not_end_the_string() {
        assert_eq!(quoted("/o'brien"), "'/o''brien'");
    }
}
