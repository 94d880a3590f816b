//! What an idle connection costs.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tunnels::{Calling, endpoint};
use super::world::{HTTP, TCP, World};
use crate::tunnel::{Moved, splice};

const TUNNELS: usize = 1000;

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = status.split(' ').nth(1).expect("pages");
    pages.parse::<usize>().expect("number") * 4096
}

/// Set in the process that measures.
const ALONE: &str = "RINGWALL_TEST_ALONE";

/// Other tests of this process take memory meanwhile, so that it measures in a process of its own.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "by the environment it tells itself that it is alone"
)]
fn idle_tunnelled_connections_are_small() {
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        return runtime.expect("runtime").block_on(measure());
    }
    let this = std::env::current_exe().expect("the test's own binary");
    let name = "tests::memory::idle_tunnelled_connections_are_small";
    let output = std::process::Command::new(this)
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("the test by itself");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{complaint}"
    );
}

/// Both proxies, the client and the server are in this one process, so that the figure is more than the sum of what two
/// proxies need.
async fn measure() {
    let world = World::start_with(&[("header_timeout: 10s", "max_streams: 2000")]).await;
    let calling = Calling::new(&world, "");
    let at = endpoint(world.at(HTTP));
    let target = format!("orders:{TCP}");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let local = listener.local_addr().expect("address");
    let mut held = Vec::with_capacity(TUNNELS);
    let mut before = 0;
    for number in 0..TUNNELS + 100 {
        if number == 100 {
            before = resident();
        }
        let app = tokio::net::TcpStream::connect(local)
            .await
            .expect("connect");
        let (socket, _) = listener.accept().await.expect("accept");
        let tunnel = calling
            .worker
            .tunnels
            .connect(&calling.service, &at, &target)
            .await;
        let tunnel = tunnel.expect("tunnel");
        let moved = Arc::new(Moved::default());
        tokio::spawn(async move { splice(socket, tunnel, &moved).await });
        let mut app = app;
        let mut greeting = [0; 5];
        app.read_exact(&mut greeting).await.expect("greeting");
        app.write_all(b"query").await.expect("write");
        app.read_exact(&mut greeting).await.expect("answer");
        held.push(app);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let each = resident().saturating_sub(before) / TUNNELS;
    println!(
        "an idle tunnelled connection costs {each} bytes, both proxies and both ends together"
    );
    // The test's server keeps a buffer of 64 KiB for each, of which it has touched a page.
    assert!(each < 24 * 1024, "{each} bytes");
    assert_eq!(calling.worker.tunnels.open(), 1);
}
