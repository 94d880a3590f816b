//! A new binary takes over under load: new process, same sockets, then SIGTERM to the old one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::app::App;
use super::mesh::{Mesh, TOKEN};
use super::proxies::{Proxy, Sockets, gateway, orders, until};

const SWAPS: usize = 20;
const CLIENTS: usize = 8;

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    done: AtomicUsize,
    failed: parking_lot::Mutex<Vec<String>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_exchanges_of_the_binary_under_load_fail_no_request() {
    let mesh = Mesh::start().await;
    let app = App::start().await;
    let (inbound, outbound) = (Sockets::free(2), Sockets::free(2));
    mesh.orders_at(inbound.address(0));
    let files = (orders(&mesh, app, &inbound), gateway(&mesh, &outbound));
    let mut callee = Proxy::start(&files.0, &inbound).await;
    let mut caller = Proxy::start(&files.1, &outbound).await;
    until(outbound.address(0), "/v1/orders", 200).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut opaque = TcpStream::connect(outbound.address(1))
        .await
        .expect("connect");
    let mut buffer = [0; 5];
    opaque.read_exact(&mut buffer).await.expect("greeting");
    let load = Arc::new(Load::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(Arc::clone(&load).run(outbound.address(0))))
        .collect();
    let mut old = Vec::new();
    for swap in 0..SWAPS {
        let before = load.done.load(Ordering::Relaxed);
        let (process, file, sockets) = if swap % 2 == 0 {
            (&mut callee, &files.0, &inbound)
        } else {
            (&mut caller, &files.1, &outbound)
        };
        let new = Proxy::start(file, sockets).await;
        let former = std::mem::replace(process, new);
        former.signal(Signal::SIGTERM);
        if swap == 0 {
            // A connection without messages stays where it is, and works while the drain lasts.
            opaque.write_all(b"still").await.expect("write");
            opaque.read_exact(&mut buffer).await.expect("echo");
            assert_eq!(&buffer, b"still");
        }
        old.push(former);
        while load.done.load(Ordering::Relaxed) < before + 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("client");
    }
    drop(opaque);
    for process in old {
        assert!(process.ended().await, "an orderly end");
    }
    let failed = load.failed.lock();
    if !failed.is_empty() {
        for name in ["gateway.log", "orders.log"] {
            let log = std::fs::read_to_string(mesh.root().join(name)).expect("log");
            let refused = log.lines().filter(|line| line.contains("refusal"));
            refused.for_each(|line| println!("{name}: {line}"));
        }
    }
    let done = load.done.load(Ordering::Relaxed);
    println!(
        "{done} requests over {SWAPS} exchanges, {} failed",
        failed.len()
    );
    assert!(
        failed.is_empty(),
        "{} of {done}: {:?}",
        failed.len(),
        failed.first()
    );
}

impl Load {
    /// Calls one after another, on a connection for as long as that is offered.
    async fn run(self: Arc<Self>, at: SocketAddr) {
        let mut connection = None;
        while !self.stop.load(Ordering::Relaxed) {
            match call(at, &mut connection).await {
                Ok(()) => self.done.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    connection = None;
                    self.failed.lock().push(error);
                    0
                }
            };
        }
    }
}

async fn call(
    at: SocketAddr,
    connection: &mut Option<SendRequest<Full<Bytes>>>,
) -> Result<(), String> {
    let text = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let mut sender = match connection.take() {
        Some(sender) => sender,
        None => {
            let socket = TcpStream::connect(at)
                .await
                .map_err(|e| text("connect", &e))?;
            let (sender, driver) = handshake(TokioIo::new(socket))
                .await
                .map_err(|e| text("handshake", &e))?;
            tokio::spawn(driver);
            sender
        }
    };
    sender.ready().await.map_err(|e| text("ready", &e))?;
    // No idempotent method: nothing but what was certainly not seen may be sent again.
    let request = Request::post("/v1/orders")
        .header(header::HOST, "orders")
        .header("x-ringwall-loopback", TOKEN)
        .body(Full::new(Bytes::from_static(b"one more")))
        .map_err(|e| text("request", &e))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|e| text("send", &e))?;
    let close = response
        .headers()
        .get(header::CONNECTION)
        .is_some_and(|value| value == "close");
    let status = response.status();
    let body = response.into_body().collect().await;
    let body = body.map_err(|e| text("body", &e))?.to_bytes();
    if status != 200 {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
    }
    if !close {
        *connection = Some(sender);
    }
    Ok(())
}
