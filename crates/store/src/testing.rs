//! A throw-away PostgreSQL as components meet it in earnest: TLS, client certificate and SCRAM.
//!
//! Owns: the server of a test process. Only with the feature `testing`, which no shipped package names.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "support of tests: a failure here is a failed test"
)]

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use ringwall_identity::TrustDomain;
use ringwall_identity::authority::Authority;
use ringwall_secret::{Secret, private_file};
use time::OffsetDateTime;

use crate::postgres::{Postgres, PostgresConfig};

const BIN: &str = "/usr/lib/postgresql/15/bin";
/// Password of the role.
pub const PASSWORD: &str = "a password for tests";

/// A running server; it ends when the last test that uses it has ended.
pub struct Server {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
    databases: AtomicU32,
    role: &'static str,
    authority: Authority,
}

impl Server {
    /// The server of this test process, started by the first test that asks, for the one `role` that the
    /// process tests with.
    pub fn shared(role: &'static str) -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        assert!(
            Path::new(BIN).join("initdb").exists(),
            "PostgreSQL 15 is not installed: `cargo xtask setup` installs it"
        );
        let mut shared = SHARED
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start(role));
        *shared = Arc::downgrade(&server);
        server
    }

    /// A server of one test alone, which may [`Server::kill`] it.
    #[must_use]
    pub fn own(role: &'static str) -> Self {
        Self::start(role)
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        quit(&mut self.process);
    }

    /// Starts it again, with what it had.
    pub fn start_again(&mut self) {
        let run = self.directory.path().join("run");
        self.process = serve(&self.directory, &run, self.port);
        self.wait_until_ready();
    }

    fn start(role: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let run = directory.path().join("run");
        fs::create_dir(&run).unwrap();
        give_to_server(&run);
        let data = run.join("data");
        let output = run_as_server(&directory, "initdb")
            .args([
                "--no-sync",
                "--username=postgres",
                "--auth=trust",
                "--pgdata",
            ])
            .arg(&data)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );

        let authority = issue(directory.path(), &run, role);
        fs::write(run.join("root.pem"), authority.cert_pem()).unwrap();
        fs::write(
            data.join("pg_hba.conf"),
            format!(
                "local all postgres trust\n\
                 hostssl all \"{role}\" 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n"
            ),
        )
        .unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let process = serve(&directory, &run, port);
        let server = Self {
            process,
            port,
            directory,
            databases: AtomicU32::new(0),
            role,
            authority,
        };
        server.wait_until_ready();
        server.sql(&format!(
            "CREATE ROLE \"{role}\" LOGIN PASSWORD '{PASSWORD}'"
        ));
        server
    }

    /// The root whose certificates the server takes, and that has issued its own.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Where it listens, on 127.0.0.1; its certificate is for the name `postgres`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A pool on a new, empty database.
    pub async fn database(&self) -> Postgres {
        self.connect(&self.create_database()).await
    }

    /// The name of a new, empty database.
    pub fn create_database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE DATABASE {name} OWNER \"{}\"", self.role));
        name
    }

    /// One more pool on a database that is there: as another replica has.
    pub async fn connect(&self, name: &str) -> Postgres {
        let config: PostgresConfig = serde_json::from_value(serde_json::json!({
            "address": format!("127.0.0.1:{}", self.port),
            "server_name": "postgres",
            "database": name,
            "user": self.role,
            "tls": self.directory.path().join("client"),
            "connect_timeout": "30s",
            "wait_timeout": "30s",
            "statement_timeout": "30s",
        }))
        .unwrap();
        Postgres::connect(&config, || Ok(Secret::new(PASSWORD.to_owned())))
            .await
            .unwrap()
    }

    fn wait_until_ready(&self) {
        for _ in 0..600 {
            if self.psql("SELECT 1").status().unwrap().success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("PostgreSQL did not start");
    }

    fn sql(&self, statement: &str) {
        assert!(
            self.psql(statement).status().unwrap().success(),
            "{statement}"
        );
    }

    fn psql(&self, statement: &str) -> Command {
        let mut command = run_as_server(&self.directory, "psql");
        command
            .args([
                "--no-psqlrc",
                "--quiet",
                "--username=postgres",
                "--command",
                statement,
            ])
            .arg(format!("--port={}", self.port))
            .arg(format!(
                "--host={}",
                self.directory.path().join("run").display()
            ))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        quit(&mut self.process);
    }
}

/// SIGQUIT: end at once, with all children, and recover at the next start. A second time it does nothing.
fn quit(process: &mut Child) {
    if matches!(process.try_wait(), Ok(Some(_))) {
        return;
    }
    let pid = process.id().to_string();
    let _sent = Command::new("kill").args(["-QUIT", &pid]).status();
    let _ended = process.wait();
}

/// PostgreSQL refuses to run as root; as root, it runs as the user of Debian's package.
fn server_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<_> = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .unwrap()
        .split(':')
        .collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn run_as_server(directory: &tempfile::TempDir, program: &str) -> Command {
    let mut command = Command::new(PathBuf::from(BIN).join(program));
    command.current_dir(directory.path());
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group);
    }
    command
}

fn serve(directory: &tempfile::TempDir, run: &Path, port: u16) -> Child {
    let setting = |name: &str, file: &str| format!("{name}={}", run.join(file).display());
    run_as_server(directory, "postgres")
        .arg("-D")
        .arg(run.join("data"))
        .args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            &format!("port={port}"),
        ])
        .args([
            "-c",
            "ssl=on",
            "-c",
            &setting("ssl_cert_file", "server.pem"),
        ])
        .args(["-c", &setting("ssl_key_file", "server.key")])
        .args(["-c", &setting("ssl_ca_file", "root.pem")])
        .args([
            "-c",
            &setting("unix_socket_directories", ""),
            "-c",
            "fsync=off",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn give_to_server(path: &Path) {
    if let Some((user, group)) = server_user() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

/// Certificates of the server (in `run`) and of the role (in `client`); answers the root that issued both.
fn issue(directory: &Path, run: &Path, role: &str) -> Authority {
    let (now, hour) = (OffsetDateTime::now_utc(), Duration::from_secs(3600));
    let domain = TrustDomain::parse("ringwall.local").unwrap();
    let authority = Authority::generate(&domain, now).unwrap();
    let server = authority
        .issue_server(&["postgres".to_owned()], &[], hour, now)
        .unwrap();
    let role = authority.issue_client(role, hour, now).unwrap();

    fs::write(run.join("server.pem"), &server.chain_pem).unwrap();
    private_file::write(&run.join("server.key"), server.key_pem.as_bytes()).unwrap();
    give_to_server(&run.join("server.key"));
    let client = directory.join("client");
    fs::create_dir(&client).unwrap();
    fs::write(client.join("client.pem"), &role.chain_pem).unwrap();
    private_file::write(&client.join("client.key"), role.key_pem.as_bytes()).unwrap();
    fs::write(client.join("bundle.pem"), authority.cert_pem()).unwrap();
    authority
}
