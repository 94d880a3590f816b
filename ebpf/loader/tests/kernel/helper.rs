//! A process inside a control group that does what it is told, one line at a time, and answers with one line.
//!
//! `ok …` or `err NAME`, where NAME is the errno. Sockets are known by the number that the answer gave them.

use std::io::{self, BufRead, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// How long anything may take that is not refused at once; `patience` changes it where nothing is expected to come.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GROUP NETWORK`: joins the group, in the network namespace of process NETWORK (`-` for its own).
pub(crate) fn run(words: &[String]) -> ExitCode {
    let [group, network] = words else {
        return ExitCode::from(2);
    };
    if network != "-" {
        let file = std::fs::File::open(format!("/proc/{network}/ns/net")).unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    }
    if group != "-" {
        std::fs::write(format!("{group}/cgroup.procs"), "0").unwrap();
    }
    let mut shell = Shell {
        sockets: Vec::new(),
        patience: PATIENCE,
    };
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match shell.obey(&words) {
            Ok(answer) => format!("ok {answer}"),
            Err(error) => match error.raw_os_error() {
                Some(number) => format!("err {:?}", Errno::from_raw(number)),
                None => format!("err {:?}", error.kind()),
            },
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}").unwrap();
        out.flush().unwrap();
    }
    ExitCode::SUCCESS
}

struct Shell {
    sockets: Vec<Socket>,
    patience: Duration,
}

impl Shell {
    fn obey(&mut self, words: &[&str]) -> io::Result<String> {
        match words {
            ["connect", to] => self.connect(to, |_| Ok(())),
            ["connect-marked", to] => self.connect(to, |socket| socket.set_mark(0x52)),
            ["connect-lo", to] => self.connect(to, |socket| socket.bind_device(Some(b"lo"))),
            ["connect-reuse", id, to] => {
                let socket = self.socket(id)?;
                socket.connect_timeout(&address(to), self.patience)?;
                shown(socket)
            }
            ["patience", milliseconds] => {
                self.patience = Duration::from_millis(milliseconds.parse().unwrap());
                Ok(String::new())
            }
            ["disconnect", id] => {
                disconnect(self.socket(id)?)?;
                Ok(String::new())
            }
            ["fastopen", to, text] => self.fast_open(to, text),
            ["uring", to] => self.uring(to),
            ["listen", at] => self.listen(at),
            ["accept", id] => self.accept(id),
            ["send", id, text] => {
                self.socket(id)?.send(text.as_bytes())?;
                Ok(String::new())
            }
            ["receive", id] => self.receive(id),
            ["peer", id] => Ok(self.peer(id)?.to_string()),
            ["close", id] => {
                let number: usize = id.parse().unwrap();
                // The number stays taken: another socket stands in.
                self.sockets[number] = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                Ok(String::new())
            }
            ["udp", domain] => {
                let domain = if *domain == "4" {
                    Domain::IPV4
                } else {
                    Domain::IPV6
                };
                let socket = Socket::new(domain, Type::DGRAM, None)?;
                self.keep(socket)
            }
            ["udp-connect", id, to] => {
                self.socket(id)?.connect(&address(to))?;
                Ok(self.peer(id)?.to_string())
            }
            ["send-to", id, to, text] => {
                self.socket(id)?.send_to(text.as_bytes(), &address(to))?;
                Ok(String::new())
            }
            ["receive-from", id] => self.receive_from(id),
            ["bind", kind, at] => self.bind(kind, at),
            ["socket", domain, kind, protocol] => {
                let number = |word: &str| word.parse::<i32>().unwrap();
                let socket = Socket::new(
                    Domain::from(number(domain)),
                    Type::from(number(kind)),
                    Some(Protocol::from(number(protocol))),
                )?;
                self.keep(socket)
            }
            ["join", group] => {
                std::fs::write(format!("{group}/cgroup.procs"), "0")?;
                Ok(String::new())
            }
            _ => self.obey_as_root(words),
        }
    }

    /// What the tests need done outside of any slice.
    fn obey_as_root(&mut self, words: &[&str]) -> io::Result<String> {
        match words {
            ["new-network"] => {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(std::process::id().to_string())
            }
            ["sniff", interface] => {
                let all = i32::from(0x0003_u16.to_be());
                let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all)))?;
                crate::wire::bind_to_interface(&socket, interface)?;
                self.keep(socket)
            }
            ["count", id, text] => crate::wire::count(self.socket(id)?, text),
            ["equivalence", pins, slice, seed] => crate::equivalence::rehearse(pins, slice, seed),
            ["try-acceleration", switch, slice] => crate::acceleration::shapes(switch, slice),
            ["descriptor", id] => Ok(self.socket(id)?.as_raw_fd().to_string()),
            ["local", id] => Ok(inet(&self.socket(id)?.local_addr()?).to_string()),
            ["relay", listener, way, to, folder] => {
                let listener = self.socket(listener)?.try_clone()?;
                crate::hosts::relay(listener, way, to, folder)
            }
            ["send-body", id, from, length] => {
                crate::acceleration::send_body(self.socket(id)?, from, length)
            }
            ["receive-body", id, from, length] => {
                crate::acceleration::receive_body(self.socket(id)?, from, length)
            }
            ["by-packets", id] => crate::acceleration::by_packets(self.socket(id)?),
            ["open", pins, slice] => crate::lifecycle::open_and_hold(pins, slice),
            ["shield", pins, interface, denied] => crate::shield::hold(pins, interface, denied),
            ["run", command @ ..] => {
                let status = std::process::Command::new(command[0])
                    .args(&command[1..])
                    .status()?;
                if status.success() {
                    return Ok(String::new());
                }
                Err(io::Error::other(status.to_string()))
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn socket(&self, id: &str) -> io::Result<&Socket> {
        let number: usize = id.parse().unwrap();
        self.sockets
            .get(number)
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn keep(&mut self, socket: Socket) -> io::Result<String> {
        socket.set_read_timeout(Some(self.patience))?;
        socket.set_write_timeout(Some(self.patience))?;
        self.sockets.push(socket);
        Ok((self.sockets.len() - 1).to_string())
    }

    /// `NUMBER PEER LOCAL`
    fn connect(
        &mut self,
        to: &str,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<String> {
        let to = address(to);
        let socket = Socket::new(to.domain(), Type::STREAM, None)?;
        prepare(&socket)?;
        socket.connect_timeout(&to, self.patience)?;
        let shown = shown(&socket)?;
        Ok(format!("{} {shown}", self.keep(socket)?))
    }

    fn fast_open(&mut self, to: &str, text: &str) -> io::Result<String> {
        let to = address(to);
        let socket = Socket::new(to.domain(), Type::STREAM, None)?;
        socket.set_write_timeout(Some(self.patience))?;
        socket.send_to_with_flags(text.as_bytes(), &to, nix::libc::MSG_FASTOPEN)?;
        self.keep(socket)
    }

    fn uring(&mut self, to: &str) -> io::Result<String> {
        let to = address(to);
        let socket = Socket::new(to.domain(), Type::STREAM, None)?;
        crate::ring::connect(&socket, &to, self.patience)?;
        let shown = shown(&socket)?;
        Ok(format!("{} {shown}", self.keep(socket)?))
    }

    /// `NUMBER ADDRESS`
    fn listen(&mut self, at: &str) -> io::Result<String> {
        let at = address(at);
        let socket = Socket::new(at.domain(), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if at.is_ipv6() {
            // `::` is a listener of both families.
            socket.set_only_v6(false)?;
        }
        socket.bind(&at)?;
        socket.listen(64)?;
        let local = inet(&socket.local_addr()?);
        Ok(format!("{} {local}", self.keep(socket)?))
    }

    /// `NUMBER PEER ORIGINAL`, the original destination being `-` where there is none.
    fn accept(&mut self, id: &str) -> io::Result<String> {
        let (socket, peer) = self.socket(id)?.accept()?;
        let original = socket
            .original_dst_v4()
            .or_else(|_| socket.original_dst_v6());
        let original = original.map_or("-".to_owned(), |address| inet(&address).to_string());
        let peer = inet(&peer);
        Ok(format!("{} {peer} {original}", self.keep(socket)?))
    }

    fn receive(&mut self, id: &str) -> io::Result<String> {
        let mut buffer = [0; 4096];
        let read = self.socket(id)?.read(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
    }

    /// `SOURCE TEXT`
    fn receive_from(&mut self, id: &str) -> io::Result<String> {
        let mut buffer = [MaybeUninit::new(0_u8); 4096];
        let (read, from) = self.socket(id)?.recv_from(&mut buffer)?;
        let text: Vec<u8> = buffer[..read]
            .iter()
            // SAFETY: the buffer was initialised with zeroes.
            .map(|byte| unsafe { byte.assume_init() })
            .collect();
        Ok(format!(
            "{} {}",
            inet(&from),
            String::from_utf8_lossy(&text)
        ))
    }

    /// `NUMBER ADDRESS`: where it has come to.
    fn bind(&mut self, kind: &str, at: &str) -> io::Result<String> {
        let at = address(at);
        let kind = if kind == "tcp" {
            Type::STREAM
        } else {
            Type::DGRAM
        };
        let socket = Socket::new(at.domain(), kind, None)?;
        socket.bind(&at)?;
        if kind == Type::STREAM {
            socket.listen(16)?;
        }
        let local = inet(&socket.local_addr()?);
        Ok(format!("{} {local}", self.keep(socket)?))
    }

    fn peer(&self, id: &str) -> io::Result<SocketAddr> {
        Ok(inet(&self.socket(id)?.peer_addr()?))
    }
}

/// AF_UNSPEC makes a connected socket a fresh one.
fn disconnect(socket: &Socket) -> io::Result<()> {
    // SAFETY: integers alone, for which zero is a value: AF_UNSPEC.
    let nowhere: nix::libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: the address is one, of the length that is given.
    let done = unsafe {
        nix::libc::connect(
            socket.as_raw_fd(),
            std::ptr::from_ref(&nowhere),
            size_of::<nix::libc::sockaddr>() as u32,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn shown(socket: &Socket) -> io::Result<String> {
    let peer = inet(&socket.peer_addr()?);
    Ok(format!("{peer} {}", inet(&socket.local_addr()?)))
}

fn address(text: &str) -> SockAddr {
    let address: SocketAddr = text.parse().unwrap();
    address.into()
}

fn inet(address: &SockAddr) -> SocketAddr {
    address
        .as_socket()
        .unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
}
