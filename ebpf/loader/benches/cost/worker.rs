//! A process in a control group and a network namespace that does what it is told, one line at a time.
//!
//! `ok FIGURE` or a panic, which ends the measurement.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

/// A write of a bulk stream.
const CHUNK: usize = 64 * 1024;
const MESSAGE: [u8; 64] = [7; 64];

/// Joins the group (`-`: stays) and obeys until its input ends.
pub(crate) fn run(core: &str, group: &str) {
    if group != "-" {
        std::fs::write(format!("{group}/cgroup.procs"), "0").unwrap();
    }
    let mut only = CpuSet::new();
    only.set(core.parse().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &only).unwrap();
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["drop"] => listen_without_waking(),
            ["echo"] => listen(echo),
            ["sink"] => listen(sink),
            ["connects", to, count] => connects(to.parse().unwrap(), count.parse().unwrap()),
            ["exchanges", to, count] => exchanges(to.parse().unwrap(), count.parse().unwrap()),
            ["bulk", to, ms] => bulk(to.parse().unwrap(), ms.parse().unwrap()),
            _ => panic!("{line}"),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "ok {answer}").unwrap();
        out.flush().unwrap();
    }
}

/// The address where connections get their due, one after the other.
fn listen(mut serve: impl FnMut(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap());
        }
    });
    address.to_string()
}

/// The address where connections are made by the kernel alone and let go once a millisecond: were somebody woken for each, a connect
/// would cost what it takes to wake the other core, which on a virtual machine is more than anything that is measured here.
fn listen_without_waking() -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).unwrap();
    // Room for what comes while this thread does not run: a connection without room is tried again after a second.
    socket.listen(4096).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    thread::spawn(move || {
        loop {
            while socket.accept().is_ok() {}
            thread::sleep(Duration::from_millis(1));
        }
    });
    address.to_string()
}

fn echo(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut message = MESSAGE;
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&message).unwrap();
    }
}

fn sink(mut stream: TcpStream) {
    let mut buffer = vec![0; 4 * CHUNK];
    // A reset is an end as well.
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
}

/// Nanoseconds of a connect(2), the middle of all. Connections are reset, so that none of them waits for its port.
fn connects(to: SocketAddr, count: usize) -> String {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        let begin = Instant::now();
        socket.connect(&to.into()).unwrap();
        times.push(begin.elapsed());
    }
    middle(times)
}

/// The middle of all times of a message there and back.
fn exchanges(to: SocketAddr, count: usize) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut message = MESSAGE;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        stream.write_all(&message).unwrap();
        stream.read_exact(&mut message).unwrap();
        times.push(begin.elapsed());
    }
    middle(times)
}

fn middle(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    times[times.len() / 2].as_nanos().to_string()
}

/// Bytes a second.
fn bulk(to: SocketAddr, milliseconds: u64) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    let chunk = vec![7; CHUNK];
    let begin = Instant::now();
    let end = begin + Duration::from_millis(milliseconds);
    let mut sent = 0.0;
    while Instant::now() < end {
        stream.write_all(&chunk).unwrap();
        sent += CHUNK as f64;
    }
    (sent / begin.elapsed().as_secs_f64()).to_string()
}
