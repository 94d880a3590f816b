//! The sockets of workers: one per worker and address, spread by the kernel (SO_REUSEPORT).

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted, per socket.
const BACKLOG: i32 = 1024;

/// Binds `address` once for each of `workers`; port 0 becomes one and the same free port for all.
///
/// # Errors
/// When another process has the port: SO_REUSEPORT would let two share it in silence, so that it is asked for
/// without at first.
pub fn bind_each(
    address: SocketAddr,
    workers: usize,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    drop(TcpListener::bind(address)?);
    let mut bound = address;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = bind(bound)?;
        bound = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok((bound, sockets))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_and_strangers_do_not() {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
        let (bound, sockets) = bind_each(any, 3).expect("bind");
        assert_eq!(sockets.len(), 3);
        assert!(sockets.iter().all(|s| s.local_addr().ok() == Some(bound)));
        assert!(bind_each(bound, 1).is_err(), "the port is taken");
    }
}
