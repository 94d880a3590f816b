//! What stands behind the proxies: HTTP/1.1 that says what it was asked, and bytes that come back.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Where the application listens, in plaintext on loopback.
#[derive(Debug, Clone, Copy)]
pub(crate) struct App {
    pub(crate) http: SocketAddr,
    pub(crate) tcp: SocketAddr,
}

impl App {
    pub(crate) async fn start() -> Self {
        let http = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let app = Self {
            http: http.local_addr().expect("address"),
            tcp: tcp.local_addr().expect("address"),
        };
        tokio::spawn(serve(http, |socket| async move {
            let _ended = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service_fn(answer))
                .await;
        }));
        tokio::spawn(serve(tcp, echo));
        app
    }
}

async fn serve<F>(listener: TcpListener, work: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(work(socket));
    }
}

async fn echo(mut socket: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    if socket.write_all(b"hello").await.is_err() {
        return;
    }
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        let read = buffer.get(..read).expect("within");
        if socket.write_all(read).await.is_err() {
            return;
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let seen = |headers: &HeaderMap, name: &str| {
        let value = headers.get(name).map(|value| value.as_bytes().to_vec());
        String::from_utf8(value.unwrap_or_default()).unwrap_or_default()
    };
    let caller = seen(request.headers(), "x-forwarded-client-cert");
    let text = format!("{} {} {caller}", request.method(), request.uri());
    // An answer before the end of the message would close the connection, and break what is still being written.
    let _whole = request.into_body().collect().await;
    Ok(Response::new(Full::new(Bytes::from(text))))
}
