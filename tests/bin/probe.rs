//! What a process inside a container can reach, read and write. It is told by one JSON argument and
//! answers with one JSON object; `harness/stack/probe.rs` has both types and runs it.

#![allow(
    clippy::disallowed_methods,
    reason = "a blocking look-up is what a component without a resolver of its own does"
)]

use std::fs::OpenOptions;
use std::io;
use std::net::ToSocketAddrs as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use e2e::mesh;
use e2e::stack::probe::{Dial, Dialled, Identity, Outcome, Report, Task};
use http::Request;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::unistd::Pid;
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_tls::{IdentityMaterial, IdentitySource, mesh_client_config};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A packet that a network drops is answered by nobody: so long is waited for it.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    ringwall_tls::install_crypto_provider();
    match run() {
        Ok(report) => {
            // The one line that the harness reads.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), report.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String> {
    let task = std::env::args().nth(1).context("no task")?;
    let task: Task = serde_json::from_str(&task).context("the task is no JSON")?;
    if let Some(pid) = task.kill {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let identity = task.identity.as_ref().map(source).transpose()?;
    let dials = task.dials.iter().map(|to| dial(to, identity.as_ref()));
    let dials = runtime.block_on(futures_util::future::join_all(dials));
    let report = Report {
        dials,
        names: task
            .names
            .into_iter()
            .map(|name| (name.clone(), look_up(&name)))
            .collect(),
        reads: task
            .reads
            .into_iter()
            .map(|path| (path.clone(), read(&path)))
            .collect(),
        writes: task
            .writes
            .into_iter()
            .map(|path| (path.clone(), write(&path)))
            .collect(),
        sockets: task
            .sockets
            .into_iter()
            .map(|name| (name.clone(), make(&name)))
            .collect(),
    };
    Ok(serde_json::to_string(&report)?)
}

fn source(identity: &Identity) -> Result<Arc<IdentitySource>> {
    let certificates = |list: &[Vec<u8>]| list.iter().cloned().map(CertificateDer::from).collect();
    let material = IdentityMaterial {
        chain: certificates(&identity.chain),
        key: PrivatePkcs8KeyDer::from(identity.key.clone()).into(),
        bundle: certificates(&identity.roots),
        crls: Vec::new(),
    };
    Ok(IdentitySource::from_material(material)?)
}

async fn dial(dial: &Dial, identity: Option<&Arc<IdentitySource>>) -> Dialled {
    let connecting = tokio::net::TcpStream::connect(dial.to);
    let refused = match tokio::time::timeout(CONNECT, connecting).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer".to_owned()),
    };
    if let (Some(path), None) = (&dial.get, &refused) {
        let answer = Some(plain(dial.to, path).await);
        return Dialled { refused, answer };
    }
    let answer = match (&dial.peer, identity) {
        (Some(peer), Some(identity)) if refused.is_none() => {
            Some(request(dial, peer, identity).await)
        }
        _ => None,
    };
    Dialled { refused, answer }
}

async fn request(dial: &Dial, peer: &str, identity: &Arc<IdentitySource>) -> Outcome {
    let asked = async {
        let peer = SpiffeId::workload(&TrustDomain::parse("ringwall.local")?, peer)?;
        let config = mesh_client_config(identity, peer)?;
        let request = Request::get("/").body(Bytes::new())?;
        anyhow::Ok(mesh::call_at(dial.to, config, request).await?.status)
    };
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok(status)) => Ok(status.to_string()),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// The status line of an answer in plaintext.
async fn plain(to: std::net::SocketAddr, path: &str) -> Outcome {
    let asked = async {
        let mut socket = tokio::net::TcpStream::connect(to).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        std::io::Result::Ok(answer.lines().next().unwrap_or_default().to_owned())
    };
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Ways that are no connection of TCP.
fn make(name: &str) -> Outcome {
    let (family, kind, protocol) = match name {
        "tcp" => (AddressFamily::Inet, SockType::Stream, None),
        "udp" => (AddressFamily::Inet, SockType::Datagram, None),
        "packet" => (AddressFamily::Packet, SockType::Raw, None),
        "raw" => (AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Icmp)),
        "vsock" => (AddressFamily::Vsock, SockType::Stream, None),
        "crypto" => (AddressFamily::Alg, SockType::SeqPacket, None),
        "netlink-audit" => (
            AddressFamily::Netlink,
            SockType::Raw,
            Some(SockProtocol::NetlinkAudit),
        ),
        other => return Err(format!("`{other}` is not known")),
    };
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol);
    made.map(|_| "made".to_owned())
        .map_err(|error| error.to_string())
}

fn look_up(name: &str) -> Vec<String> {
    let found = (name, 0).to_socket_addrs();
    found
        .map(|found| found.map(|address| address.ip().to_string()).collect())
        .unwrap_or_default()
}

fn read(path: &str) -> Outcome {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write(path: &str) -> Outcome {
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let opened = OpenOptions::new().write(true).open(path);
            opened
                .map(|_| "opened".to_owned())
                .map_err(|error| error.to_string())
        }
        Ok(_) => {
            // A probe leaves nothing.
            let _ = std::fs::remove_file(path);
            Ok("written".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}
