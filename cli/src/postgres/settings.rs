//! The three files that say how the server runs and who may connect how, natively and in containers.

use crate::composition::OPERATOR;
use crate::site::DatabasePlace;

/// Map from the operating system's user to the operator's role.
const OPERATOR_MAP: &str = "operator";
/// The file that says how the server runs.
pub(super) const SERVER: &str = "postgresql.conf";
/// The file that says who may connect how.
pub(super) const ACCESS: &str = "pg_hba.conf";
/// The file that says who is the operator.
pub(super) const OPERATORS: &str = "pg_ident.conf";

/// `postgresql.conf`: TLS 1.3, SCRAM, durable commits; the place says where it listens.
pub(super) fn server(place: &DatabasePlace, port: u16) -> String {
    let file = |name: &str| quoted(&place.tls.join(name).to_string_lossy());
    let socket = quoted(&place.socket.to_string_lossy());
    let listen = quoted(place.listen);
    let mut text = format!(
        "# Made by `ringwall` from the composition: changes here are lost.\n\
         listen_addresses = {listen}\n\
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
    );
    if let Some(folder) = &place.access {
        for (key, name) in [("hba_file", ACCESS), ("ident_file", OPERATORS)] {
            let path = quoted(&folder.join(name).to_string_lossy());
            text.push_str(&format!("{key} = {path}\n"));
        }
    }
    text
}

/// `pg_hba.conf`: the operator on the socket, each workload with its certificate **and** its
/// password; no other line, so everything else is refused.
pub(super) fn access(place: &DatabasePlace, databases: &[String]) -> String {
    let mut text = format!("local all {OPERATOR} peer map={OPERATOR_MAP}\n");
    for name in databases {
        let clients = place.clients;
        let line =
            format!("hostssl {name} {name} {clients} scram-sha-256 clientcert=verify-full\n");
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
    use crate::site::Site;
    use crate::state::StateDir;

    fn native() -> DatabasePlace {
        DatabasePlace::native(&StateDir::new("/state".into()))
    }

    fn container() -> DatabasePlace {
        let state = StateDir::new("/state".into());
        Site::containers(&state, std::path::Path::new("/volumes")).database()
    }

    #[test]
    fn a_workload_needs_certificate_and_password_and_nothing_else_is_let_in() {
        assert_eq!(
            access(&native(), &["orders".into()]),
            "local all ringwall peer map=operator\n\
             hostssl orders orders 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n"
        );
    }

    #[test]
    fn the_server_listens_on_loopback_with_tls() {
        let text = server(&native(), 7432);
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
    fn in_a_container_every_path_is_the_container_s_and_only_its_networks_are_let_in() {
        let text = server(&container(), 7432);
        for line in [
            "listen_addresses = '*'",
            "port = 7432",
            "unix_socket_directories = '/tmp'",
            "ssl = on",
            "ssl_min_protocol_version = 'TLSv1.3'",
            "ssl_cert_file = '/run/ringwall/tls/server.pem'",
            "ssl_key_file = '/run/ringwall/tls/server.key'",
            "ssl_ca_file = '/run/ringwall/tls/bundle.pem'",
            "hba_file = '/run/ringwall/pg_hba.conf'",
            "ident_file = '/run/ringwall/pg_ident.conf'",
            "password_encryption = scram-sha-256",
            "fsync = on",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}");
        }
        assert!(
            !text.contains("/state") && !text.contains("/volumes"),
            "{text}"
        );
        assert_eq!(
            access(&container(), &["orders".into()]),
            "local all ringwall peer map=operator\n\
             hostssl orders orders samenet scram-sha-256 clientcert=verify-full\n"
        );
    }

    #[test]
    fn a_quote_in_a_path_does_not_end_the_string() {
        assert_eq!(quoted("/o'brien"), "'/o''brien'");
    }
}
