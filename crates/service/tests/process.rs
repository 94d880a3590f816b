//! A component as its supervisor sees it: arguments, exit codes, log lines, signals.
//!
//! With `--config` this binary is the component of `examples/minimal.rs`; without, it is the tests,
//! which run it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test; the lint's own exception knows `#[test]` only"
)]

#[path = "../examples/minimal.rs"]
mod minimal;

use std::{
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
    time::Duration,
};

use libtest_mimic::{Arguments, Trial};
use ringwall_http_io::{Client, ClientLimits, Transport, body::collect};
use ringwall_identity::{SpiffeId, TrustDomain, authority::Authority};
use ringwall_secret::private_file;
use ringwall_tls::{IdentitySource, mesh_client_config};
use serde_json::Value;
use tempfile::TempDir;
use time::OffsetDateTime;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--config") {
        return minimal::main();
    }
    // A failed test panics, as everywhere.
    let passes = |test: fn()| {
        move || {
            test();
            Ok(())
        }
    };
    let trials = vec![
        Trial::test(
            "it_serves_logs_json_and_ends_with_the_reason_on_sigterm",
            passes(it_serves_logs_json_and_ends_with_the_reason_on_sigterm),
        ),
        Trial::test(
            "it_ends_with_its_supervisor",
            passes(it_ends_with_its_supervisor),
        ),
        Trial::test(
            "a_taken_port_is_exit_71_and_names_the_fix",
            passes(a_taken_port_is_exit_71_and_names_the_fix),
        ),
        Trial::test(
            "a_wrong_configuration_is_exit_78_with_file_and_line",
            passes(a_wrong_configuration_is_exit_78_with_file_and_line),
        ),
        Trial::test(
            "a_missing_identity_is_exit_78_and_names_the_file",
            passes(a_missing_identity_is_exit_78_and_names_the_file),
        ),
        Trial::test("the_check_opens_nothing", passes(the_check_opens_nothing)),
        Trial::test(
            "the_health_question_is_answered_by_the_exit_code",
            passes(the_health_question_is_answered_by_the_exit_code),
        ),
        Trial::test(
            "an_idle_component_is_small",
            passes(an_idle_component_is_small),
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Directory with identities and the configuration of one component.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let now = OffsetDateTime::now_utc();
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        let authority = Authority::generate(&domain, now).unwrap();
        for name in ["minimal", "orders"] {
            let directory = place.path(name);
            std::fs::create_dir(&directory).unwrap();
            let id = SpiffeId::workload(&domain, name).unwrap();
            let issued = authority
                .issue_svid(&id, &[], Duration::from_secs(3600), now)
                .unwrap();
            let write = |file: &str, text: &str| {
                private_file::write(&directory.join(file), text.as_bytes()).unwrap();
            };
            write("bundle.pem", authority.cert_pem());
            write("svid.key", &issued.key_pem);
            write("svid.pem", &issued.chain_pem);
        }
        std::fs::create_dir(place.path("secrets")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, listen: &str, extra: &str) -> Command {
        let text = format!(
            "service:\n  name: minimal\n  trust_domain: ringwall.local\n  profile: demo\n  \
             listen: {listen}\n  admin: 127.0.0.1:0\n  identity: {}\n  callers: [orders]\n  \
             secrets: {{ provider: file, directory: {} }}\n{extra}greeting: hello\n",
            self.path("minimal").display(),
            self.path("secrets").display(),
        );
        std::fs::write(self.path("minimal.yaml"), text).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--config").arg(self.path("minimal.yaml"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

fn ready(child: &mut Child) -> (SocketAddr, BufReader<ChildStdout>) {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let line: Value =
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no ready line: {line}"));
    assert_eq!(
        (&line["message"], &line["component"]),
        (&"ready".into(), &"minimal".into())
    );
    (line["listen"].as_str().unwrap().parse().unwrap(), lines)
}

fn terminate(child: &Child) {
    let kill = format!("kill -TERM {}", child.id());
    assert!(
        Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
}

fn rest(mut lines: BufReader<ChildStdout>) -> Vec<Value> {
    let mut text = String::new();
    lines.read_to_string(&mut text).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn it_serves_logs_json_and_ends_with_the_reason_on_sigterm() {
    let place = Place::new();
    // Nobody receives the traces: requests must not notice.
    let extra = "  telemetry: { endpoint: \"http://127.0.0.1:9\" }\n";
    let mut child = place.command("127.0.0.1:0", extra).spawn().unwrap();
    let (address, lines) = ready(&mut child);

    let source = IdentitySource::load(&place.path("orders")).unwrap();
    let peer = SpiffeId::parse("spiffe://ringwall.local/minimal").unwrap();
    let tls = mesh_client_config(&source, peer).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::mesh(address, tls, ClientLimits::default());
        let secret = "rwk_canary-that-must-not-be-logged";
        let response = client
            .get("/?q=canary")
            .header("x-api-key", secret)
            .send()
            .await
            .unwrap();
        assert_eq!(
            collect(response.into_body(), 64).await.unwrap(),
            "hello, orders"
        );
    });

    terminate(&child);
    assert!(child.wait().unwrap().success());
    let lines = rest(lines);
    let find = |message: &str| {
        lines
            .iter()
            .find(|line| line["message"] == message)
            .unwrap()
    };
    let request = find("request");
    assert_eq!(
        (&request["route"], &request["status"], &request["peer"]),
        (&"/".into(), &200.into(), &"orders".into())
    );
    assert_eq!(request["trace_id"].as_str().map(str::len), Some(32));
    assert_eq!(find("signal received")["signal"], "SIGTERM");
    assert_eq!(find("stopped")["reason"], "asked to stop");
    assert!(!format!("{lines:?}").contains("canary"));
}

fn it_ends_with_its_supervisor() {
    let place = Place::new();
    let mut command = place.command("127.0.0.1:0", "");
    let mut child = command
        .arg("--exit-on-stdin-eof")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let (_, lines) = ready(&mut child);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(
        rest(lines)
            .iter()
            .any(|line| line["message"] == "standard input closed")
    );
}

fn a_taken_port_is_exit_71_and_names_the_fix() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = place.command(&address.to_string(), "").output().unwrap();
    assert_eq!(output.status.code(), Some(71));
    let text = String::from_utf8(output.stderr).unwrap();
    let port = address.port();
    assert!(
        text.starts_with(&format!(
            "ringwall-minimal: port {port} on 127.0.0.1 is taken"
        )),
        "{text}"
    );
    assert!(
        text.contains(&format!("ss -ltnp 'sport = :{port}'")),
        "{text}"
    );
}

fn a_wrong_configuration_is_exit_78_with_file_and_line() {
    let place = Place::new();
    let output = place
        .command("127.0.0.1:0", "  drian: 1s\n")
        .arg("--check")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("minimal.yaml:10:3: the configuration is not valid"),
        "{text}"
    );
    assert!(
        text.contains("fix:      write `drain`, or remove `drian`"),
        "{text}"
    );
}

fn a_missing_identity_is_exit_78_and_names_the_file() {
    let place = Place::new();
    std::fs::remove_file(place.path("minimal").join("bundle.pem")).unwrap();
    let output = place.command("127.0.0.1:0", "").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("bundle.pem")
    );
}

fn the_check_opens_nothing() {
    let place = Place::new();
    std::fs::remove_dir_all(place.path("minimal")).unwrap();
    let output = place
        .command("127.0.0.1:0", "")
        .arg("--check")
        .output()
        .unwrap();
    assert!(output.status.success());
}

fn the_health_question_is_answered_by_the_exit_code() {
    let place = Place::new();
    let lets_itself_in = "  admin_callers: [minimal]\n";
    let mut child = place
        .command("127.0.0.1:0", lets_itself_in)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    let admin = line["admin"].as_str().unwrap();
    // The same component as a second process knows it: by the port that was chosen.
    let ask = |admin: &str| {
        let mut command = place.command("127.0.0.1:0", lets_itself_in);
        let file = place.path("minimal.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("admin: 127.0.0.1:0", admin)).unwrap();
        command.arg("--health").output().unwrap()
    };
    let output = ask(&format!("admin: {admin}"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    terminate(&child);
    assert!(child.wait().unwrap().success());
    let output = ask(&format!("admin: {admin}"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("ringwall-minimal: not ready: cannot connect to minimal"),
        "{text}"
    );
    assert_eq!(ask("admin: nowhere").status.code(), Some(78));
}

fn an_idle_component_is_small() {
    let place = Place::new();
    let mut child = place.command("127.0.0.1:0", "").spawn().unwrap();
    let (_, _lines) = ready(&mut child);
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // Eight components share one machine's 250 MB; unoptimised code is larger than what is shipped.
    assert!(field("VmRSS:") < 40_000, "{status}");
    assert!(field("Threads:") <= 4, "{status}");
    terminate(&child);
    assert!(child.wait().unwrap().success());
}
