//! A process that calls the agent, for being placed in cgroups: this binary with `--client`.
//!
//! `--client SOCKET` reads commands, one a line, and answers each by a line: `svid` asks over a new
//! connection, `hold` keeps a stream, `next` waits for its next answer, `child` asks from a child.
//! `--client connect SOCKET` connects, leaves the connection to a child, and ends; the child asks
//! over it when its file of permission appears.
//! `--client say SOCKET LINE` says a line to the supervisor's socket, and repeats the answer.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use ringwall_mesh_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use ringwall_mesh_api::workload::{SECURITY_HEADER, X509svidRequest, X509svidResponse};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::cgroup::Cgroup;
use crate::stack::Stack;

pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match arguments {
        [verb, socket] if verb == "connect" => connect_and_leave(Path::new(socket)),
        [verb, socket, line] if verb == "say" => say(Path::new(socket), line),
        [verb, permission] if verb == "inherit" => {
            runtime.block_on(inherit(Path::new(permission)));
        }
        [socket] => runtime.block_on(answer(Path::new(socket))),
        _ => panic!("{arguments:?}"),
    }
    ExitCode::SUCCESS
}

async fn answer(socket: &Path) {
    let mut held = None;
    for command in std::io::stdin().lock().lines() {
        let line = match command.unwrap().as_str() {
            "svid" => said(first(&mut open(ringwall_workload_api::channel(socket)).await).await),
            "hold" => {
                held = Some(open(ringwall_workload_api::channel(socket)).await);
                said(first(held.as_mut().unwrap()).await)
            }
            "next" => said(first(held.as_mut().unwrap()).await),
            "child" => {
                let mut child = Caller::spawn(socket);
                child.ask("svid")
            }
            other => panic!("{other}"),
        };
        tell(&line);
    }
}

fn connect_and_leave(socket: &Path) {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    let permission = line.trim().to_owned();
    let stream = StdStream::connect(socket).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--client", "inherit", &permission])
        .stdin(Stdio::from(OwnedFd::from(stream)))
        .spawn()
        .unwrap();
    // It lives on with our standard output.
    drop(child);
}

fn say(socket: &Path, line: &str) {
    let mut stream = StdStream::connect(socket).unwrap();
    // Whoever is not heard finds the line closed.
    let _closed = writeln!(stream, "{line}");
    let mut answer = String::new();
    let _closed = BufReader::new(stream).read_line(&mut answer);
    tell(answer.trim());
}

async fn inherit(permission: &Path) {
    while !permission.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let stream = StdStream::from(stdin);
    stream.set_nonblocking(true).unwrap();
    let once = Arc::new(Mutex::new(Some(UnixStream::from_std(stream).unwrap())));
    let connect = tower::service_fn(move |_| {
        let stream = once.lock().unwrap().take();
        async move {
            stream
                .map(TokioIo::new)
                .ok_or_else(|| std::io::Error::other("once"))
        }
    });
    let channel = Endpoint::from_static("http://agent").connect_with_connector_lazy(connect);
    tell(&said(first(&mut open(channel).await).await));
}

async fn open(channel: Channel) -> Result<Streaming<X509svidResponse>, Status> {
    let mut request = Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, "true".parse().unwrap());
    let mut client = SpiffeWorkloadApiClient::new(channel);
    Ok(client.fetch_x509svid(request).await?.into_inner())
}

async fn first(
    stream: &mut Result<Streaming<X509svidResponse>, Status>,
) -> Result<Option<X509svidResponse>, Status> {
    match stream {
        Ok(stream) => stream.message().await,
        Err(status) => Err(status.clone()),
    }
}

fn said(answer: Result<Option<X509svidResponse>, Status>) -> String {
    match answer {
        Ok(Some(answer)) => format!("ok {}", answer.svids[0].spiffe_id),
        Ok(None) => "ended".to_owned(),
        Err(status) => format!("{:?} {}", status.code(), status.message()),
    }
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// The test's side of such a process.
pub(crate) struct Caller {
    child: Child,
    say: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
}

/// What a caller that is nobody hears.
pub(crate) const NOBODY: &str = "PermissionDenied no identity issued";

pub(crate) fn is(workload: &str) -> String {
    format!("ok spiffe://ringwall.local/{workload}")
}

impl Caller {
    pub(crate) fn spawn(socket: &Path) -> Self {
        Self::with(&[socket.to_str().unwrap()])
    }

    /// A caller that is placed in `cgroup` before it does anything.
    pub(crate) fn placed(stack: &Stack, cgroup: &Cgroup) -> Self {
        let caller = Self::spawn(&stack.socket());
        cgroup.add(caller.pid());
        caller
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--client")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            say: child.stdin.take(),
            hear: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.say.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.hear.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.hear()
    }

    /// Waits for the end of the process; its output stays open.
    pub(crate) fn ends(&mut self) {
        self.say = None;
        self.child.wait().unwrap();
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A file whose appearance lets an inheriting client go on.
pub(crate) fn permission(stack: &Stack) -> PathBuf {
    stack.path(&crate::stack::unique("permission"))
}
