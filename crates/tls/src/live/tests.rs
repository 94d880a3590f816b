//! Servers that lose their callers' trust, over real handshakes.

use std::time::Instant;

use ringwall_identity::authority::{Authority, Issued};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::fixture::{HOUR, authority, id, material, now};
use crate::{PeerPolicy, mesh_client_config, mesh_server_config};

type Opened = Severable<TlsStream<DuplexStream>>;
type Far = tokio_rustls::server::TlsStream<DuplexStream>;

/// `gateway` calls `orders`, whose certificate ends `left` from now.
struct Pair {
    root: Authority,
    gateway: Issued,
    client: Arc<IdentitySource>,
    server: Arc<IdentitySource>,
    live: Arc<LiveServers>,
}

impl Pair {
    fn new(left: Duration) -> Self {
        let root = authority("ringwall.local");
        let gateway = root.issue_svid(&id("gateway"), &[], HOUR, now()).unwrap();
        let begun = now() - HOUR + left;
        let orders = root.issue_svid(&id("orders"), &[], HOUR, begun).unwrap();
        let source =
            |issued| IdentitySource::from_material(material(issued, &[&root], &[])).unwrap();
        let (client, server) = (source(&gateway), source(&orders));
        let live = LiveServers::new(&client);
        Self {
            root,
            gateway,
            client,
            server,
            live,
        }
    }

    async fn open(&self) -> (Opened, Far) {
        let callers = PeerPolicy::AnyOf(vec![id("gateway")]);
        let server = mesh_server_config(&self.server, callers).unwrap();
        let client = mesh_client_config(&self.client, id("orders")).unwrap();
        let (near, far) = tokio::io::duplex(1024);
        let (connector, acceptor) = (TlsConnector::from(client), TlsAcceptor::from(server));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let (near, far) = tokio::join!(
            self.live.connect(&connector, name, near),
            acceptor.accept(far)
        );
        (near.unwrap(), far.unwrap())
    }

    /// Nobody certified by the root is believed any more.
    fn disbelieve(&self) {
        let next = material(&self.gateway, &[&authority("ringwall.local")], &[]);
        self.client.update(next).unwrap();
    }

    fn believe(&self) {
        let next = material(&self.gateway, &[&self.root], &[]);
        self.client.update(next).unwrap();
    }
}

async fn severed(stream: &mut Opened) -> io::Error {
    let read = tokio::time::timeout(Duration::from_secs(1), stream.read_u8());
    read.await.expect("within a second").unwrap_err()
}

#[tokio::test]
async fn r34_a_server_that_is_believed_no_more_is_cut_off() {
    let pair = Pair::new(HOUR);
    let (mut waits, far) = pair.open().await;
    let (mut writes, also_far) = pair.open().await;
    // Another change of the identity ends nothing.
    pair.believe();
    tokio::time::sleep(Duration::from_millis(20)).await;
    writes.write_all(b"more").await.unwrap();
    assert_eq!((pair.live.len(), pair.live.take_severed()), (2, 0));
    let filling = tokio::spawn(async move {
        loop {
            if let Err(error) = writes.write_all(&[0; 4096]).await {
                return error;
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    pair.disbelieve();
    assert_eq!(
        severed(&mut waits).await.kind(),
        io::ErrorKind::ConnectionReset
    );
    let filled = tokio::time::timeout(Duration::from_secs(1), filling).await;
    let error = filled.expect("a writer that waits is woken").unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(pair.live.take_severed(), 2);
    drop((waits, far, also_far));
    assert!(pair.live.is_empty());
}

#[tokio::test]
async fn r34_a_change_during_the_handshake_is_not_missed() {
    let pair = Pair::new(HOUR);
    let callers = PeerPolicy::AnyOf(vec![id("gateway")]);
    let server = mesh_server_config(&pair.server, callers).unwrap();
    let client = mesh_client_config(&pair.client, id("orders")).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let near = Treacherous {
        inner: near,
        writes: 0,
        at_second: || pair.disbelieve(),
    };
    let (connector, acceptor) = (TlsConnector::from(client), TlsAcceptor::from(server));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let (near, far) = tokio::join!(
        pair.live.connect(&connector, name, near),
        acceptor.accept(far)
    );
    assert!(far.is_ok(), "the server was believed in the handshake");
    assert!(near.is_err(), "and nobody believes it any more");
    assert!(pair.live.is_empty());
}

/// Does something at the second write, which is when a client has verified the server.
struct Treacherous<F> {
    inner: DuplexStream,
    writes: u8,
    at_second: F,
}

impl<F: Unpin> AsyncRead for Treacherous<F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<F: Fn() + Unpin> AsyncWrite for Treacherous<F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        if self.writes == 2 {
            (self.at_second)();
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn r34_a_server_is_cut_off_when_its_certificate_ends() {
    let left = Duration::from_millis(1500);
    let pair = Pair::new(left);
    let begun = Instant::now();
    let (mut stream, _far) = pair.open().await;
    assert!(stream.usable_for() < left * 3 / 4 + Duration::from_millis(1));
    let read = tokio::time::timeout(left + Duration::from_secs(1), stream.read_u8());
    assert!(read.await.expect("it is cut").is_err());
    // Certificates count in whole seconds.
    assert!(begun.elapsed() + Duration::from_secs(1) > left);
}

#[test]
fn r33_connections_are_replaced_in_time() {
    let seconds = Duration::from_secs;
    assert_eq!(usable_for(seconds(3600)), seconds(3570));
    assert_eq!(usable_for(seconds(60)), seconds(45));
    assert_eq!(usable_for(seconds(0)), seconds(0));
}
