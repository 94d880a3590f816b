//! Taking an identity out of use: what is open ends within a second, and nothing new begins.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::mesh;
use e2e::operator;
use e2e::person::Person;
use e2e::stack::StackInfo;
use http::Request;
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// From the operator's command, which returns when the control plane has written it down.
const ENDS: Duration = Duration::from_secs(1);
/// Until a workload that is believed again serves, with a new certificate.
const BELIEVED_AGAIN: Duration = Duration::from_secs(20);

const STREAM: &str = "/api/notifications/stream";
const ORDERS: &str = "/api/orders";
const MINE: &str = "/v1/topics/order.placed/events?group=notifications";

/// R34: a stolen identity of notifications holds a request open at orders, and another connection idle. The
/// operator revokes the workload: both end within a second, and no new connection is accepted, while
/// everybody else goes on. Restored, the workload serves again.
pub(super) async fn r34_revoking_a_workload_ends_its_streams_within_a_second(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    let mut stream = connect(&stack, "notifications", "orders").await?;
    // Far beyond the end of the log: the answer waits for 25 seconds.
    ask(&mut stream, &format!("{MINE}&after=1000000000&wait=25")).await?;
    let mut idle = connect(&stack, "notifications", "orders").await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(is_open(&mut stream).await, "the stream was cut before");
    ensure!(
        is_open(&mut idle).await,
        "the idle connection was cut before"
    );
    let why = ["cert", "revoke", "notifications", "--reason", "a scenario"];
    operator::command(&stack, &why).await?;
    let outcome = revoked(&stack, &alice, stream, idle).await;
    restore(&stack, "notifications").await?;
    outcome?;
    let order = alice.place_order().await?;
    let id = order["id"].as_str().context("no id")?;
    let begun = Instant::now();
    loop {
        let list = alice.api(Method::GET, "/api/notifications", None);
        if list.await?.text().await?.contains(id) {
            break;
        }
        ensure!(
            begun.elapsed() < BELIEVED_AGAIN,
            "notifications does not serve {BELIEVED_AGAIN:?} after it was restored"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let request = Request::get(MINE).body(Bytes::new())?;
    let answer = mesh::call_as(&stack, "notifications", "orders", request).await?;
    ensure!(answer.status.is_success(), "restored: {}", answer.status);
    Ok(())
}

/// R34: a page is open that hears of its orders from notifications, and the gateway has connections to orders that
/// it uses again and again. The operator revokes both services: within a second the page's stream breaks off, and the
/// gateway has no answer of orders any more. Restored, both serve again.
pub(super) async fn r34_revoking_a_callee_ends_what_the_gateway_has_open_to_it(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    let mut page = alice.api(Method::GET, STREAM, None).await?;
    ensure!(page.status().is_success(), "no stream: {}", page.status());
    // A comment or nothing at all: no event is due.
    let quiet = tokio::time::timeout(Duration::from_millis(300), page.chunk()).await;
    ensure!(
        !matches!(quiet, Ok(Ok(None) | Err(_))),
        "the stream was cut before"
    );
    alice.api_json(Method::GET, ORDERS, None).await?;
    for callee in ["notifications", "orders"] {
        let why = ["cert", "revoke", callee, "--reason", "a scenario"];
        operator::command(&stack, &why).await?;
    }
    let outcome = async {
        let begun = Instant::now();
        let broken = async { while let Ok(Some(_)) = page.chunk().await {} };
        let ended = tokio::time::timeout(ENDS, broken).await;
        ensure!(ended.is_ok(), "the stream is open {ENDS:?} after");
        eprintln!("the stream ended {:?} after the command", begun.elapsed());
        let status = loop {
            let status = alice.api(Method::GET, ORDERS, None).await?.status();
            if !status.is_success() || begun.elapsed() > ENDS {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        ensure!(
            status.is_server_error(),
            "the gateway still has answers of orders: {status}"
        );
        Ok(())
    }
    .await;
    for callee in ["notifications", "orders"] {
        restore(&stack, callee).await?;
    }
    outcome?;
    alice.place_order_within(BELIEVED_AGAIN).await?;
    let begun = Instant::now();
    loop {
        let page = alice.api(Method::GET, STREAM, None).await?;
        if page.status().is_success() {
            break;
        }
        ensure!(
            begun.elapsed() < BELIEVED_AGAIN,
            "no stream {BELIEVED_AGAIN:?} after notifications was restored: {}",
            page.status()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The proxy of orders was told nothing while it was revoked itself.
    loop {
        let request = Request::get(MINE).body(Bytes::new())?;
        match mesh::call_as(&stack, "notifications", "orders", request).await {
            Ok(answer) if answer.status.is_success() => return Ok(()),
            other => ensure!(
                begun.elapsed() < BELIEVED_AGAIN,
                "orders does not believe notifications {BELIEVED_AGAIN:?} after: {other:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Until it is done: what came after would find a platform without the service.
async fn restore(stack: &StackInfo, workload: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        match operator::command(stack, &["cert", "restore", workload]).await {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > BELIEVED_AGAIN => return Err(error),
            Err(error) => eprintln!("not restored yet: {error:#}"),
        }
    }
}

async fn revoked(
    stack: &StackInfo,
    alice: &Person,
    mut stream: TlsStream<TcpStream>,
    mut idle: TlsStream<TcpStream>,
) -> Result<()> {
    let begun = Instant::now();
    for (what, connection) in [("stream", &mut stream), ("idle connection", &mut idle)] {
        let left = ENDS.saturating_sub(begun.elapsed());
        let ended = tokio::time::timeout(left, connection.read_u8()).await;
        ensure!(
            matches!(ended, Ok(Err(_))),
            "the {what} is open {ENDS:?} after the revocation: {ended:?}"
        );
    }
    eprintln!("ended {:?} after the command", begun.elapsed());
    let request = Request::get(MINE).body(Bytes::new())?;
    let outcome = mesh::call_as(stack, "notifications", "orders", request).await;
    mesh::refused_in_the_handshake(outcome).context("a new connection of the revoked workload")?;
    alice
        .place_order()
        .await
        .context("orders serves others meanwhile")?;
    Ok(())
}

/// An HTTP/1.1 connection as a workload.
async fn connect(stack: &StackInfo, caller: &str, callee: &str) -> Result<TlsStream<TcpStream>> {
    let callee = stack.component(callee)?;
    let source = mesh::identity(stack, caller)?;
    let mut config =
        Arc::unwrap_or_clone(ringwall_tls::mesh_client_config(&source, callee.peer()?)?);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let address: SocketAddr = callee.address;
    let tcp = TcpStream::connect(address).await?;
    let name = ringwall_tls::mesh_server_name(address);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Ok(connector.connect(name, tcp).await?)
}

async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: orders\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(())
}

/// Nothing has come, not even an end.
async fn is_open(stream: &mut TlsStream<TcpStream>) -> bool {
    let look = tokio::time::timeout(Duration::from_millis(20), stream.read_u8());
    look.await.is_err()
}
