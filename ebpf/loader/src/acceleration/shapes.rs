//! Shapes of traffic that must look the same to an application, accelerated or not. Each is one that a kernel has got wrong.
//!
//! Owns: what each end does, and how a deviation is told. Must not: know why a line is fast; it gets connections.

use std::fmt;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

/// How long a call may block. What has waited as long has stalled.
pub const DEADLINE: Duration = Duration::from_secs(2);
const BODY: usize = 2 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;
/// Bytes that wait unread: far more than TCP's largest buffers on both sides hold.
const UNREAD: usize = 48 * 1024 * 1024;
const SPLICED: usize = 256 * 1024;
const HASTY: usize = 100;
const SHORT: usize = 300;
const QUESTION: [u8; 32] = [7; 32];

/// Where connections come from.
pub trait Line {
    /// A new connection, from its client's end. Calls on it may block for `DEADLINE`.
    fn dial(&mut self) -> io::Result<TcpStream>;
    /// The other end of the oldest one.
    fn accept(&mut self) -> io::Result<TcpStream>;
}

/// One that is told by name when it is not right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A body of 2 MB.
    Bulk,
    /// A reader that takes its time: the writer waits, and nothing is lost.
    SlowReader,
    /// A client that has said all and waits for the answer.
    HalfClose,
    /// Reading and writing by splice(2).
    Splice,
    /// What waits to be read, by ioctl(2).
    Fionread,
    /// Messages that are sent before the other end has accepted.
    QueuedBefore,
    /// Short connections whose readers block.
    BlockingReaders,
}

impl Shape {
    pub const ALL: [Self; 7] = [
        Self::Bulk,
        Self::SlowReader,
        Self::HalfClose,
        Self::Splice,
        Self::Fionread,
        Self::QueuedBefore,
        Self::BlockingReaders,
    ];

    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bulk => "2 MB body",
            Self::SlowReader => "slow reader",
            Self::HalfClose => "half-close",
            Self::Splice => "splice(2)",
            Self::Fionread => "FIONREAD",
            Self::QueuedBefore => "data queued before insertion",
            Self::BlockingReaders => "blocking readers",
        }
    }

    /// Runs it in both directions. The error says what was seen instead.
    pub fn run(self, line: &mut impl Line) -> Result<(), Deviation> {
        match self {
            Self::Bulk => both(line, bulk),
            Self::SlowReader => both(line, slow_reader),
            Self::HalfClose => both(line, half_close),
            Self::Splice => both(line, spliced),
            Self::Fionread => both(line, fionread),
            Self::QueuedBefore => (0..HASTY).try_for_each(|_| hasty(line)),
            Self::BlockingReaders => (0..SHORT).try_for_each(|round| short(line, round)),
        }
    }
}

/// What was seen instead.
#[derive(Debug, PartialEq, Eq)]
pub struct Deviation(pub String);

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Seen<T = ()> = Result<T, Deviation>;

fn deviates<T>(what: impl Into<String>) -> Seen<T> {
    Err(Deviation(what.into()))
}

/// A call that may block; says whether it gave up at once or after its time.
fn timed<T>(what: &str, call: impl FnOnce() -> io::Result<T>) -> Seen<T> {
    let begin = Instant::now();
    call().map_err(|error| {
        let spent = begin.elapsed();
        let again = error.kind() == io::ErrorKind::WouldBlock;
        Deviation(if again && spent >= DEADLINE / 2 {
            format!("{what} stalled for {} ms", spent.as_millis())
        } else if again {
            format!(
                "{what} returned EAGAIN after {} µs, though it blocks",
                spent.as_micros()
            )
        } else {
            format!("{what}: {error}")
        })
    })
}

fn pair(line: &mut impl Line) -> Seen<(TcpStream, TcpStream)> {
    let client = timed("connect", || line.dial())?;
    let server = timed("accept", || line.accept())?;
    Ok((client, server))
}

/// From client to server, then the other way on another connection.
fn both(line: &mut impl Line, shape: fn(&TcpStream, &TcpStream) -> Seen) -> Seen {
    let (client, server) = pair(line)?;
    shape(&client, &server)?;
    let (client, server) = pair(line)?;
    shape(&server, &client)
}

/// Both at the same time. Whoever fails first lets the other one go, and is told of.
fn together(
    writer: &TcpStream,
    reader: &TcpStream,
    write: impl FnOnce(&TcpStream) -> Seen + Send,
    read: impl FnOnce(&TcpStream) -> Seen,
) -> Seen {
    thread::scope(|scope| {
        let writing = scope.spawn(move || write(writer));
        let read = read(reader);
        if read.is_err() {
            let _ = reader.shutdown(Shutdown::Both);
        }
        let written = writing.join();
        read?;
        written.unwrap_or_else(|_| deviates("the writer has ended"))
    })
}

fn byte(at: usize) -> u8 {
    // Neither a page nor a segment is a multiple of it.
    (at % 251) as u8
}

fn body(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(byte).collect()
}

fn write_body(mut writer: &TcpStream, from: usize, length: usize) -> Seen {
    let body = body(from, length);
    body.chunks(CHUNK)
        .try_for_each(|chunk| timed("a write", || writer.write_all(chunk)))
}

/// Reads until `length` bytes have come, each the right one.
fn read_body(mut reader: &TcpStream, length: usize, pause: Duration) -> Seen {
    let mut buffer = vec![0; CHUNK];
    let mut come = 0;
    while come < length {
        let room = CHUNK.min(length - come);
        let part = buffer.get_mut(..room).unwrap_or_default();
        let read = timed("a read", || reader.read(part))?;
        let part = part.get(..read).unwrap_or_default();
        verify(part, come)?;
        if read == 0 {
            return deviates(format!("ended after {come} of {length} bytes"));
        }
        come += read;
        thread::sleep(pause);
    }
    Ok(())
}

fn verify(part: &[u8], from: usize) -> Seen {
    let wrong = part
        .iter()
        .enumerate()
        .find(|(at, found)| **found != byte(from + at));
    match wrong {
        Some((at, _)) => deviates(format!("another byte at {}", from + at)),
        None => Ok(()),
    }
}

fn read_end(mut reader: &TcpStream) -> Seen {
    match timed("a read at the end", || reader.read(&mut [0; 1]))? {
        0 => Ok(()),
        _ => deviates("a byte after the end"),
    }
}

fn bulk(writer: &TcpStream, reader: &TcpStream) -> Seen {
    let write = |writer: &TcpStream| {
        write_body(writer, 0, BODY)?;
        timed("shutdown", || writer.shutdown(Shutdown::Write))
    };
    together(writer, reader, write, |reader| {
        read_body(reader, BODY, Duration::ZERO)?;
        read_end(reader)
    })
}

fn slow_reader(writer: &TcpStream, reader: &TcpStream) -> Seen {
    let told = |error: io::Error| Deviation(format!("a write without blocking: {error}"));
    writer.set_nonblocking(true).map_err(told)?;
    let (mut sent, mut out) = (0, writer);
    while sent < UNREAD {
        match out.write(&body(sent, CHUNK)) {
            Ok(some) => sent += some,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(told(error)),
        }
    }
    if sent >= UNREAD {
        return deviates(format!(
            "a writer is not held back: {} MB were taken, and none was read",
            sent / (1024 * 1024)
        ));
    }
    writer.set_nonblocking(false).map_err(told)?;
    let write = |writer: &TcpStream| write_body(writer, sent, BODY);
    together(writer, reader, write, |reader| {
        read_body(reader, sent + BODY, Duration::from_micros(200))
    })
}

fn half_close(writer: &TcpStream, reader: &TcpStream) -> Seen {
    let ask = |writer: &TcpStream| {
        write_body(writer, 0, CHUNK)?;
        timed("shutdown", || writer.shutdown(Shutdown::Write))?;
        read_body(writer, BODY, Duration::ZERO)?;
        read_end(writer)
    };
    together(writer, reader, ask, |reader| {
        read_body(reader, CHUNK, Duration::ZERO)?;
        read_end(reader)?;
        write_body(reader, 0, BODY)?;
        timed("shutdown", || reader.shutdown(Shutdown::Write))
    })
}

/// From a socket into a pipe, or from a pipe into a socket.
fn move_bytes(from: RawFd, to: RawFd, length: usize) -> io::Result<usize> {
    // SAFETY: the descriptors are open, and no offsets are given.
    let moved = unsafe {
        let none = std::ptr::null_mut();
        libc::splice(
            from,
            none,
            to,
            std::ptr::null_mut(),
            length,
            libc::SPLICE_F_MOVE,
        )
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

fn pipe() -> Seen<(PipeReader, PipeWriter)> {
    io::pipe().map_err(|error| Deviation(format!("a pipe: {error}")))
}

fn spliced(writer: &TcpStream, reader: &TcpStream) -> Seen {
    const PART: usize = 16 * 1024;
    let write = |writer: &TcpStream| {
        let (outlet, mut inlet) = pipe()?;
        for part in 0..SPLICED / PART {
            timed("a pipe", || inlet.write_all(&body(part * PART, PART)))?;
            let mut left = PART;
            while left > 0 {
                left -= timed("splice(2) into a socket", || {
                    move_bytes(outlet.as_raw_fd(), writer.as_raw_fd(), left)
                })?;
            }
        }
        Ok(())
    };
    together(writer, reader, write, |reader| {
        let (mut outlet, inlet) = pipe()?;
        let mut come = 0;
        let mut buffer = vec![0; PART];
        while come < SPLICED {
            let moved = timed("splice(2) from a socket", || {
                move_bytes(reader.as_raw_fd(), inlet.as_raw_fd(), PART)
            })?;
            if moved == 0 {
                return deviates(format!("splice(2) ended after {come} of {SPLICED} bytes"));
            }
            let part = buffer.get_mut(..moved).unwrap_or_default();
            timed("a pipe", || outlet.read_exact(part))?;
            verify(part, come)?;
            come += moved;
        }
        Ok(())
    })
}

/// Bytes that wait to be read.
fn waiting(socket: &TcpStream) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the call writes one integer.
    let done = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::FIONREAD,
            std::ptr::from_mut(&mut bytes),
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(bytes).map_err(io::Error::other)
}

fn fionread(writer: &TcpStream, reader: &TcpStream) -> Seen {
    const SENT: usize = 1000;
    write_body(writer, 0, SENT)?;
    let mut seen = 0;
    let end = Instant::now() + DEADLINE / 4;
    while seen != SENT && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
        seen = timed("FIONREAD", || waiting(reader))?;
    }
    if seen != SENT {
        return deviates(format!("{SENT} bytes wait, FIONREAD says {seen}"));
    }
    read_body(reader, SENT / 2, Duration::ZERO)?;
    match timed("FIONREAD", || waiting(reader))? {
        left if left == SENT - SENT / 2 => Ok(()),
        left => deviates(format!(
            "{} bytes wait, FIONREAD says {left}",
            SENT - SENT / 2
        )),
    }
}

/// The other end accepts when everything has been said.
fn hasty(line: &mut impl Line) -> Seen {
    let client = timed("connect", || line.dial())?;
    let lengths = [1, 700, 3000];
    let mut from = 0;
    for length in lengths {
        write_body(&client, from, length)?;
        from += length;
    }
    let server = timed("accept", || line.accept())?;
    read_body(&server, from, Duration::ZERO)?;
    write_body(&server, 0, CHUNK)?;
    read_body(&client, CHUNK, Duration::ZERO)
}

/// Both ends read before there is anything to read.
fn short(line: &mut impl Line, round: usize) -> Seen {
    let (client, server) = pair(line)?;
    let pause = Duration::from_micros(round as u64 % 4 * 40);
    let serve = |mut server: &TcpStream| {
        let mut question = [0; QUESTION.len()];
        timed("a server's read", || server.read_exact(&mut question))?;
        thread::sleep(pause);
        timed("a write", || server.write_all(&question))?;
        timed("shutdown", || server.shutdown(Shutdown::Write))?;
        read_end(server)
    };
    together(&server, &client, serve, |mut client| {
        thread::sleep(pause);
        timed("a write", || client.write_all(&QUESTION))?;
        let mut answer = [0; QUESTION.len()];
        timed("a client's read", || client.read_exact(&mut answer))?;
        read_end(client)?;
        timed("shutdown", || client.shutdown(Shutdown::Write))
    })
}
