//! The escape matrix as a program: `ways-out TEXT ADDRESS…` tries every way out of the control group that it runs in, with TEXT
//! as what is sent, and prints one JSON object for each: `{"by": …, "to": …, "outcome": {"Ok": …} or {"Err": …}}`.
//!
//! Owns: what a workload can try by itself, without a privilege. Must not: judge what came of it. Somebody who watches the wire
//! for TEXT does (`tests/scenarios/kernel.rs`).

#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

#[path = "../tests/kernel/ring.rs"]
mod ring;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What a network drops is answered by nobody: so long is waited for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Brings the text to the address.
type Way = fn(&str, &SocketAddr) -> io::Result<()>;

const WAYS: [(&str, Way); 9] = [
    ("connect", connect),
    ("connect with a mark", marked),
    ("connect on a device", on_device),
    ("fast open", fast_open),
    ("io_uring", by_ring),
    ("datagram", datagram),
    ("connected datagram", connected_datagram),
    ("raw", raw),
    ("multipath TCP", multipath),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((text, targets)) = words.split_first() else {
        eprintln!("ways-out TEXT ADDRESS…: no text was given");
        return ExitCode::from(2);
    };
    for target in targets {
        let Ok(to) = target.parse::<SocketAddr>() else {
            eprintln!("`{target}` is no address and port");
            return ExitCode::from(2);
        };
        for (by, way) in WAYS {
            let outcome = match way(text, &to) {
                Ok(()) => r#"{"Ok":"sent"}"#.to_owned(),
                Err(error) => format!(r#"{{"Err":"{}"}}"#, error.to_string().replace('"', "'")),
            };
            println!(r#"{{"by":"{by}","to":"{to}","outcome":{outcome}}}"#);
        }
    }
    ExitCode::SUCCESS
}

fn stream(to: &SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(*to), Type::STREAM, None)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn sent(socket: &Socket, text: &str, to: &SocketAddr) -> io::Result<()> {
    socket.connect_timeout(&SockAddr::from(*to), PATIENCE)?;
    socket.send(text.as_bytes()).map(drop)
}

fn connect(text: &str, to: &SocketAddr) -> io::Result<()> {
    sent(&stream(to)?, text, to)
}

fn marked(text: &str, to: &SocketAddr) -> io::Result<()> {
    let socket = stream(to)?;
    // A mark may take a privilege; without it, it is a connect.
    let _ = socket.set_mark(0x52);
    sent(&socket, text, to)
}

fn on_device(text: &str, to: &SocketAddr) -> io::Result<()> {
    let socket = stream(to)?;
    socket.bind_device(Some(b"eth0"))?;
    sent(&socket, text, to)
}

fn fast_open(text: &str, to: &SocketAddr) -> io::Result<()> {
    let to_address = SockAddr::from(*to);
    let socket = stream(to)?;
    let sent = socket.send_to_with_flags(text.as_bytes(), &to_address, libc::MSG_FASTOPEN);
    sent.map(drop)
}

fn by_ring(text: &str, to: &SocketAddr) -> io::Result<()> {
    let socket = stream(to)?;
    ring::connect(&socket, &SockAddr::from(*to), PATIENCE)?;
    socket.send(text.as_bytes()).map(drop)
}

fn datagram(text: &str, to: &SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(*to), Type::DGRAM, None)?;
    let sent = socket.send_to(text.as_bytes(), &SockAddr::from(*to));
    sent.map(drop)
}

fn connected_datagram(text: &str, to: &SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(*to), Type::DGRAM, None)?;
    socket.connect(&SockAddr::from(*to))?;
    socket.send(text.as_bytes()).map(drop)
}

fn raw(text: &str, to: &SocketAddr) -> io::Result<()> {
    let protocol = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(Domain::for_address(*to), Type::RAW, Some(protocol))?;
    let sent = socket.send_to(text.as_bytes(), &SockAddr::from(*to));
    sent.map(drop)
}

fn multipath(text: &str, to: &SocketAddr) -> io::Result<()> {
    let domain = Domain::for_address(*to);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    sent(&socket, text, to)
}
