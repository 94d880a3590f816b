//! Proxies as processes, with sockets of their own or handed over as a supervisor does.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::app::App;
use super::mesh::{HTTP, Mesh, TCP, TOKEN};

const BINARY: &str = env!("CARGO_BIN_EXE_ringwall-proxy");
/// The slowest step of a start under a debugger's nose.
const PATIENCE: Duration = Duration::from_secs(60);

/// The listeners of one proxy, which outlive its processes.
pub(crate) struct Sockets(Vec<StdListener>);

impl Sockets {
    /// As many as that, on free ports.
    pub(crate) fn free(count: usize) -> Self {
        let bind = |_| StdListener::bind("127.0.0.1:0").expect("bind");
        Self((0..count).map(bind).collect())
    }

    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        self.0[index].local_addr().expect("address")
    }

    /// Their descriptors, which children inherit from now on.
    fn descriptors(&self) -> Vec<i32> {
        for socket in &self.0 {
            fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty())).expect("fcntl");
        }
        self.0.iter().map(|socket| socket.as_raw_fd()).collect()
    }
}

/// A running process; killed when it is dropped.
pub(crate) struct Proxy {
    child: Child,
    lines: watch::Receiver<Vec<String>>,
}

/// The file of the proxy of `orders`, which serves `app`.
pub(crate) fn orders(mesh: &Mesh, app: App, sockets: &Sockets) -> PathBuf {
    let lines = format!(
        "inbound:\n  - {{ listen: \"{}\", app: \"{}\", port: {HTTP} }}\n  - {{ listen: \"{}\", app: \"{}\", port: {TCP}, protocol: tcp }}\n",
        sockets.address(0),
        app.http,
        sockets.address(1),
        app.tcp,
    );
    write(mesh, "orders", &lines)
}

/// The file of the proxy of `gateway`, which calls.
pub(crate) fn gateway(mesh: &Mesh, sockets: &Sockets) -> PathBuf {
    let lines = format!(
        "outbound:\n  http: {}\n  tcp: [ {{ listen: \"{}\", service: orders }} ]\n",
        sockets.address(0),
        sockets.address(1),
    );
    write(mesh, "gateway", &lines)
}

pub(crate) fn write(mesh: &Mesh, name: &str, lines: &str) -> PathBuf {
    let root = mesh.root();
    let state = root.join(format!("state-{name}"));
    std::fs::create_dir_all(&state).expect("state");
    let text = format!(
        "service:
  name: {name}-proxy
  workload: {name}
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:0
  admin: 127.0.0.1:0
  identity: {}
  drain: 8s
  secrets: {{ provider: file, directory: {}/secrets }}
  state: {}
  upstreams: {{ control-plane: {{ address: \"{}\", identity: control-plane }} }}
{lines}loopback_token: loopback-token
access_log: {{ file: {}/{name}.log }}
",
        mesh.identity(name).display(),
        root.display(),
        state.display(),
        mesh.address,
        root.display(),
    );
    let file = root.join(format!("{name}-proxy.yaml"));
    std::fs::write(&file, text).expect("write");
    file
}

/// The start of a process, on `sockets` where there are some.
pub(crate) fn command(file: &PathBuf, sockets: Option<&Sockets>) -> Command {
    let descriptors = sockets.map(Sockets::descriptors).unwrap_or_default();
    // The shell gives descriptors the numbers that the protocol wants, and its own process id to the binary.
    let moved: String = descriptors
        .iter()
        .enumerate()
        .map(|(index, from)| format!(" {}<&{from}", 50 + index))
        .collect();
    let mut command = Command::new("bash");
    command
        .arg("-c")
        .arg(format!(
            "export LISTEN_PID=$$; exec \"$0\" --config \"$1\"{moved}"
        ))
        .arg(BINARY)
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if !descriptors.is_empty() {
        command
            .env("LISTEN_FDS", descriptors.len().to_string())
            .env("LISTEN_FDS_FIRST_FD", "50");
    }
    command
}

impl Proxy {
    /// Starts a process and waits until it listens.
    pub(crate) async fn start(file: &PathBuf, sockets: &Sockets) -> Self {
        let mut child = command(file, Some(sockets)).spawn().expect("spawn");
        let (sender, lines) = watch::channel(Vec::new());
        let output = child.stdout.take().expect("stdout");
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(line)) = output.next_line().await {
                sender.send_modify(|lines: &mut Vec<String>| lines.push(line));
            }
        });
        let mut errors = child.stderr.take().expect("stderr");
        tokio::spawn(async move {
            let mut text = String::new();
            let _ended = errors.read_to_string(&mut text).await;
            eprint!("{text}");
        });
        let proxy = Self { child, lines };
        proxy.says("proxy listens").await;
        proxy
    }

    /// Waits for a line of the log.
    pub(crate) async fn says(&self, words: &str) {
        let mut lines = self.lines.clone();
        let said = lines.wait_for(|lines| lines.iter().any(|line| line.contains(words)));
        let said = tokio::time::timeout(PATIENCE, said).await;
        assert!(
            matches!(said, Ok(Ok(_))),
            "{words}: {:?}",
            *self.lines.borrow()
        );
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("running");
        kill(Pid::from_raw(i32::try_from(id).expect("id")), signal).expect("signal");
    }

    /// Waits for the end; whether it was an orderly one.
    pub(crate) async fn ended(mut self) -> bool {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        status.expect("in time").expect("status").success()
    }
}

/// One answer of an application's call: status and text.
pub(crate) async fn get(at: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut socket = TcpStream::connect(at).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: orders\r\nX-Ringwall-Loopback: {TOKEN}\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    socket.read_to_string(&mut text).await?;
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    Ok((status.unwrap_or(0), text))
}

/// Asks until the answer is `status`.
pub(crate) async fn until(at: SocketAddr, path: &str, status: u16) {
    let mut last = None;
    for _ in 0..600 {
        last = get(at, path).await.ok();
        if last.as_ref().is_some_and(|(seen, _)| *seen == status) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path}: not {status} but {last:?}");
}
