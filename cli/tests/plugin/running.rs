//! run: a save under requests, and a module as the gateway would configure it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::*;

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

/// Requests without a pause, each of which has the answer that it must have in every version.
struct Load {
    ends: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    lost: Arc<Mutex<Vec<(u16, String)>>>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (asked, lost) = (Arc::default(), Arc::default());
        let clients = (0..2)
            .map(|_| client(address, &ends, &asked, &lost))
            .collect();
        Self {
            ends,
            asked,
            lost,
            clients,
        }
    }

    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        let (asked, lost) = (self.asked, self.lost.lock().unwrap());
        assert!(
            lost.is_empty(),
            "{} of {asked:?} requests: {:?}",
            lost.len(),
            lost.first()
        );
        assert!(asked.load(Ordering::Relaxed) > 100, "{asked:?}");
    }
}

fn client(
    address: SocketAddr,
    ends: &Arc<AtomicBool>,
    asked: &Arc<AtomicUsize>,
    lost: &Arc<Mutex<Vec<(u16, String)>>>,
) -> thread::JoinHandle<()> {
    let (ends, asked, lost) = (Arc::clone(ends), Arc::clone(asked), Arc::clone(lost));
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

    let load = Load::start(address);
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

    load.end();
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
    before.wait_for_line("GET /orders 400 by upstream");
    // A module is taken into use when its file is saved, and not when it is none.
    fs::write(here.join("m.wasm"), "no module").unwrap();
    upstream.wait_for_line("the last good one serves on");
    assert_eq!(get(upstream.address, Some("acme")).0, 400);
}
