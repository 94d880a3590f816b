//! `ringwall plugin`, as an author uses it: the real binary, the installed toolchain, an empty folder.
//!
//! What is missing is named: a compiler for guests (`cargo xtask setup` installs it). All guests are built into one folder
//! beside those of `cargo xtask wasm`, whose dependencies they share.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A build may have to make the standard library first.
const PATIENCE: Duration = Duration::from_secs(240);

/// `<target>/wasm`: this test is in `<target>/TRIPLE/PROFILE/deps`.
fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(4).unwrap().join("wasm")
}

fn ringwall(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwall"));
    command
        .arg("plugin")
        .args(arguments)
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target())
        .env("RINGWALL_STATE", folder.join("state"))
        .stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    ringwall(folder, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of a command that must succeed.
fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(
        output.status.success(),
        "ringwall plugin {arguments:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Exit code and standard error of a command that must fail.
fn failed(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments);
    assert!(
        !output.status.success(),
        "{arguments:?}: {}",
        text(&output.stdout)
    );
    (output.status.code().unwrap(), text(&output.stderr))
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(folder, arguments)).unwrap()
}

#[test]
fn r93_from_an_empty_folder_to_a_signed_module_in_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    done(here, &["new", "first-filter"]);
    let plugin = here.join("first-filter");

    // The template compiles untouched, with the lock file that it brings.
    let lock = fs::read(plugin.join("Cargo.lock")).unwrap();
    let built = json(&plugin, &["build", "-o", "json"]);
    let module = built["module"].as_str().unwrap();
    assert!(module.ends_with("/first_filter.wasm"), "{module}");
    assert_eq!(
        built["size"].as_u64().unwrap(),
        fs::metadata(module).unwrap().len()
    );
    let after = fs::read(plugin.join("Cargo.lock")).unwrap();
    assert!(lock == after, "cargo has changed the lock file");

    // Its cases pass, and what they cost is told.
    let tested = json(&plugin, &["test", "-o", "json"]);
    assert_eq!(tested["failed"], 0);
    let cases = tested["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    let measured = &cases[0]["measured"];
    assert_eq!(
        measured["host_calls"]["proxy_get_header_map_value"]["count"],
        1
    );
    assert_eq!(
        measured["host_calls"]["proxy_get_header_map_value"]["refused"],
        0
    );
    assert!(measured["processor_time_us"].as_u64().unwrap() > 0);
    assert!(measured["memory_bytes"].as_u64().unwrap() >= 65_536);
    let shown = done(&plugin, &["test", module]);
    assert!(shown.contains("5 passed, 0 failed"), "{shown}");
    assert!(shown.contains("proxy_get_header_map_value 1"), "{shown}");

    let inspected = json(&plugin, &["inspect", module, "-o", "json"]);
    assert_eq!(inspected["abi"], "0.2.1");
    assert_eq!(inspected["runs"], true);
    assert_eq!(inspected["sha256"], built["sha256"]);
    let needs: Vec<&str> = inspected["capabilities_at_most"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["capability"].as_str().unwrap())
        .collect();
    for declared in ["read_headers", "write_headers", "local_response"] {
        assert!(needs.contains(&declared), "{needs:?}");
    }

    done(here, &["sign", "--generate", "--key", "author.key"]);
    let mode = fs::metadata(here.join("author.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    done(here, &["sign", module, "--key", "author.key"]);
    done(
        here,
        &["sign", module, "--verify", "--public-key", "author.key.pub"],
    );
    assert_eq!(fs::read(format!("{module}.sig")).unwrap().len(), 64);

    let push = [
        "push",
        module,
        "--public-key",
        "../author.key.pub",
        "-o",
        "json",
    ];
    let pushed = json(&plugin, &push);
    assert_eq!(pushed["is_new"], true);
    assert_eq!(json(&plugin, &push)["is_new"], false);
    let sha256 = built["sha256"].as_str().unwrap();
    let stored = plugin.join(format!("state/plugins/sha256/{sha256}.wasm"));
    assert_eq!(pushed["module"], stored.to_str().unwrap());
    assert_eq!(fs::read(&stored).unwrap(), fs::read(module).unwrap());
    assert_eq!(pushed["plugin"]["sha256"], sha256);
    assert_eq!(
        pushed["plugin"]["capabilities"]["read_headers"][0],
        "x-tenant"
    );
    assert_eq!(
        fs::read(format!("{}.sig", stored.display())).unwrap().len(),
        64
    );
}

#[test]
fn r93_what_is_wrong_is_named_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::create_dir(here.join("taken")).unwrap();
    let (code, said) = failed(here, &["new", "taken"]);
    assert_eq!(code, 73, "{said}");
    assert_eq!(fs::read_dir(here.join("taken")).unwrap().count(), 0);
    assert_eq!(failed(here, &["new", "Not/A-Name"]).0, 78);
    let (code, said) = failed(here, &["build"]);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("ringwall plugin new"), "{said}");
    assert_eq!(failed(here, &["inspect", "missing.wasm"]).0, 74);
    fs::write(here.join("no.wasm"), "no module").unwrap();
    assert_eq!(failed(here, &["inspect", "no.wasm"]).0, 78);
    assert_eq!(failed(here, &["push", "no.wasm"]).0, 78);
    assert!(!here.join("state").exists(), "nothing was stored");

    done(here, &["new", "second-filter"]);
    let plugin = here.join("second-filter");
    let module = json(&plugin, &["build", "-o", "json"]);
    let module = module["module"].as_str().unwrap();
    let cases = plugin.join("cases.yaml");
    let good = fs::read_to_string(&cases).unwrap();

    // A case that is not met: 1, with what differs.
    fs::write(&cases, good.replacen("status: 403", "status: 401", 1)).unwrap();
    let output = run(&plugin, &["test", module]);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    for part in [
        "FAIL  another tenant",
        "client.status",
        "expected 401",
        "4 passed, 1 failed",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    // A file that is none: 78, with its line.
    fs::write(&cases, good.replacen("request:", "reqest:", 1)).unwrap();
    let (code, said) = failed(&plugin, &["test", module]);
    assert_eq!(code, 78);
    assert!(said.contains("cases.yaml:12"), "{said}");
    fs::write(&cases, &good).unwrap();

    // Keys are demanded where there are any, and an unsigned module is not stored.
    done(here, &["sign", "--generate", "--key", "k"]);
    let (code, said) = failed(&plugin, &["push", module, "--public-key", "../k.pub"]);
    assert_eq!(code, 78);
    assert!(said.contains("not signed"), "{said}");
    // As the composition has them, too.
    let composition = fs::read_to_string(checkout().join("ringwall.yaml")).unwrap();
    let keyed = keyed(&composition);
    fs::write(here.join("ringwall.yaml"), keyed).unwrap();
    fs::create_dir_all(here.join("deploy/mesh")).unwrap();
    let (code, said) = failed(&plugin, &["push", module, "--file", "../ringwall.yaml"]);
    assert_eq!(code, 78);
    assert!(said.contains("not signed"), "{said}");
    assert!(!plugin.join("state").exists(), "nothing was stored");

    // Not on loopback: not at all.
    assert_eq!(
        failed(&plugin, &["run", module, "--listen", "0.0.0.0:0"]).0,
        78
    );

    // What does not compile: 1, and why.
    let rules = plugin.join("src/rules.rs");
    let good = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("{good}\nfn broken( {{")).unwrap();
    let (code, said) = failed(&plugin, &["build"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("rules.rs"), "{said}");
}

/// The composition with a key in the gateway's own configuration.
fn keyed(composition: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut is_gateway = false;
    for line in composition.lines() {
        is_gateway = match line.trim_start() {
            text if text.starts_with("- name:") => text.starts_with("- name: gateway"),
            _ => is_gateway,
        };
        lines.push(line.to_owned());
        if is_gateway && line.trim() == "config:" {
            let indent = " ".repeat(line.len() - line.trim_start().len() + 2);
            lines.push(format!("{indent}plugin_keys: [k.pub]"));
        }
    }
    let text = lines.join("\n");
    assert!(
        text.contains("plugin_keys"),
        "the gateway has a configuration"
    );
    text
}

/// `ringwall plugin run` in a folder.
struct Serving {
    child: Child,
    address: SocketAddr,
    said: Arc<Mutex<String>>,
}

impl Serving {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut all = vec!["run", "--listen", "127.0.0.1:0"];
        all.extend(arguments);
        let mut command = ringwall(folder, &all);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, heard) = (child.stderr.take().unwrap(), Arc::clone(&said));
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut heard = heard.lock().unwrap();
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("http://").map(str::parse);
        let Some(Ok(address)) = address else {
            let _ = child.kill();
            panic!("no address: {line:?}\n{}", said.lock().unwrap());
        };
        Self {
            child,
            address,
            said,
        }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(
                started.elapsed() < PATIENCE,
                "not in time: {what}\n{}",
                self.said()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_for_line(&self, part: &str) {
        self.wait(part, || self.said().contains(part));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of one request; 0 where there was no whole answer.
fn get(address: SocketAddr, tenant: Option<&str>) -> (u16, String) {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let tenant = tenant
            .map(|tenant| format!("x-tenant: {tenant}\r\n"))
            .unwrap_or_default();
        write!(
            stream,
            "GET /orders HTTP/1.1\r\nhost: a.example\r\n{tenant}connection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let Ok(answer) = exchange() else {
        return (0, String::new());
    };
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return (0, answer);
    };
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or(0), body.to_owned())
}

#[test]
fn r93_r92_a_save_is_taken_into_use_without_a_lost_request() {
    let folder = tempfile::tempdir().unwrap();
    done(folder.path(), &["new", "live-filter"]);
    let plugin = folder.path().join("live-filter");
    let serving = Serving::start(&plugin, &[]);
    let address = serving.address;
    let (status, body) = get(address, Some("acme"));
    assert_eq!(status, 200);
    let echoed: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(echoed["path"], "/orders");
    assert_eq!(echoed["headers"]["x-tenant"], "acme");
    assert_eq!(get(address, None), (400, "name a tenant\n".to_owned()));

    let ends = Arc::new(AtomicBool::new(false));
    let (asked, lost) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (ends, asked, lost) = (Arc::clone(&ends), Arc::clone(&asked), Arc::clone(&lost));
            thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    for (tenant, expected) in [(Some("acme"), 200), (None, 400)] {
                        let (status, body) = get(address, tenant);
                        asked.fetch_add(1, Ordering::Relaxed);
                        if status != expected {
                            lost.lock().unwrap().push((status, body));
                        }
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            })
        })
        .collect();

    let filter = plugin.join("src/filter.rs");
    let first = fs::read_to_string(&filter).unwrap();
    let second = first.replace("name a tenant", "who are you");
    fs::write(&filter, &second).unwrap();
    serving.wait("the second version", || {
        get(address, None).1 == "who are you\n"
    });

    // A broken save is told, and the last good one serves on.
    fs::write(&filter, format!("{second}\nfn broken( {{")).unwrap();
    serving.wait_for_line("the last good one serves on");
    assert!(serving.said().contains("filter.rs"), "{}", serving.said());
    assert_eq!(get(address, None).1, "who are you\n");

    // So is a configuration that the plugin refuses.
    let third = first.replace("name a tenant", "say your name");
    fs::write(&filter, third).unwrap();
    serving.wait("the third version", || {
        get(address, None).1 == "say your name\n"
    });
    let cases = plugin.join("cases.yaml");
    let good = fs::read_to_string(&cases).unwrap();
    fs::write(
        &cases,
        good.replacen("tenants: [acme, globex]", "tenants: []", 1),
    )
    .unwrap();
    serving.wait_for_line("nobody would be let through");
    serving.wait("the refusal", || {
        serving.said().matches("serves on").count() == 2
    });
    assert_eq!(get(address, Some("acme")).0, 200);
    fs::write(
        &cases,
        good.replacen("[acme, globex]", "[acme, initech]", 1),
    )
    .unwrap();
    serving.wait("the new configuration", || {
        get(address, Some("initech")).0 == 200
    });

    ends.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let lost = lost.lock().unwrap();
    assert!(
        lost.is_empty(),
        "{} of {asked:?} requests: {:?}",
        lost.len(),
        lost.first()
    );
    assert!(asked.load(Ordering::Relaxed) > 100, "{asked:?}");
}

#[test]
fn r93_a_module_runs_as_the_gateway_would_configure_it() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    done(here, &["new", "third-filter"]);
    let built = json(&here.join("third-filter"), &["build", "-o", "json"]);
    fs::copy(built["module"].as_str().unwrap(), here.join("m.wasm")).unwrap();
    let config = "name: third\nmodule: m.wasm\nconfiguration: {tenants: [acme], header: x-who}\ncapabilities: {read_headers: [x-who], local_response: true}\n";
    fs::write(here.join("p.yaml"), config).unwrap();
    let upstream = Serving::start(here, &["--config", "p.yaml"]);
    // Another header than the client's: nobody is known.
    assert_eq!(get(upstream.address, Some("acme")).0, 400);
    let address = format!("http://{}", upstream.address);
    let before = Serving::start(&here.join("third-filter"), &["--upstream", &address]);
    // Through the first, which lets it pass, to the second, which does not.
    let (status, body) = get(before.address, Some("acme"));
    assert_eq!((status, body.as_str()), (400, "name a tenant\n"));
    assert!(
        before.said().contains("GET /orders 400 by upstream"),
        "{}",
        before.said()
    );
    // A module is taken into use when its file is saved, and not when it is none.
    fs::write(here.join("m.wasm"), "no module").unwrap();
    upstream.wait_for_line("the last good one serves on");
    assert_eq!(get(upstream.address, Some("acme")).0, 400);
}

fn checkout() -> PathBuf {
    // Tests run in their package's folder.
    PathBuf::from("..")
}
