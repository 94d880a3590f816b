//! From the first start to a restart without a control plane (R57), and the last good state's limits (R32).

use nix::sys::signal::Signal;
use ringwall_mesh_api::v1::Health;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::app::App;
use super::mesh::Mesh;
use super::proxies::{Proxy, Sockets, gateway, get, orders, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r57_a_restart_without_control_plane_decides_from_the_last_good_state() {
    let mut mesh = Mesh::start().await;
    let app = App::start().await;
    let (inbound, outbound) = (Sockets::free(2), Sockets::free(2));
    mesh.orders_at(inbound.address(0));
    let files = (orders(&mesh, app, &inbound), gateway(&mesh, &outbound));
    let callee = Proxy::start(&files.0, &inbound).await;
    let caller = Proxy::start(&files.1, &outbound).await;
    let at = outbound.address(0);
    until(at, "/v1/orders", 200).await;
    let (_, text) = get(at, "/v1/orders").await.expect("answer");
    assert!(
        text.contains("URI=spiffe://ringwall.local/gateway"),
        "{text}"
    );
    assert_eq!(get(at, "/forbidden").await.expect("answer").0, 403);
    let mut tcp = TcpStream::connect(outbound.address(1))
        .await
        .expect("connect");
    let mut greeting = [0; 5];
    tcp.read_exact(&mut greeting)
        .await
        .expect("the server speaks first");
    drop(tcp);
    let reported = |health: Health| {
        let reports = mesh.plane.reports();
        reports.iter().any(|report| {
            report.health == i32::from(health) && report.address == inbound.address(0).to_string()
        })
    };
    assert!(reported(Health::Ready), "{:?}", mesh.plane.reports());
    // Long enough for the state to be on disk.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    callee.signal(Signal::SIGTERM);
    caller.signal(Signal::SIGTERM);
    assert!(callee.ended().await && caller.ended().await);
    assert!(reported(Health::Draining), "it takes itself out of use");
    mesh.lose_the_plane().await;
    let callee = Proxy::start(&files.0, &inbound).await;
    let caller = Proxy::start(&files.1, &outbound).await;
    assert_eq!(get(at, "/v1/orders").await.expect("answer").0, 200);
    assert_eq!(get(at, "/forbidden").await.expect("answer").0, 403);
    callee.says("the last good state serves").await;
    drop((callee, caller));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_without_control_plane_and_without_a_saved_state_everything_is_denied() {
    let mut mesh = Mesh::start().await;
    let app = App::start().await;
    let (inbound, outbound) = (Sockets::free(2), Sockets::free(2));
    mesh.orders_at(inbound.address(0));
    let files = (orders(&mesh, app, &inbound), gateway(&mesh, &outbound));
    mesh.lose_the_plane().await;
    let _callee = Proxy::start(&files.0, &inbound).await;
    let _caller = Proxy::start(&files.1, &outbound).await;
    let (status, text) = get(outbound.address(0), "/v1/orders")
        .await
        .expect("answer");
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("not-ready"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_pushed_policy_ends_a_live_connection_within_a_second() {
    let mesh = Mesh::start().await;
    let app = App::start().await;
    let (inbound, outbound) = (Sockets::free(2), Sockets::free(2));
    mesh.orders_at(inbound.address(0));
    let files = (orders(&mesh, app, &inbound), gateway(&mesh, &outbound));
    let _callee = Proxy::start(&files.0, &inbound).await;
    let _caller = Proxy::start(&files.1, &outbound).await;
    until(outbound.address(0), "/v1/orders", 200).await;
    let mut tcp = TcpStream::connect(outbound.address(1))
        .await
        .expect("connect");
    let mut greeting = [0; 5];
    tcp.read_exact(&mut greeting)
        .await
        .expect("the server speaks first");
    mesh.policy(2, false);
    let second = std::time::Duration::from_secs(1);
    let ended = tokio::time::timeout(second, tcp.read(&mut greeting)).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    until(outbound.address(0), "/v1/orders", 403).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r28_weight_and_zone_of_the_configuration_are_what_is_registered() {
    let mesh = Mesh::start().await;
    let app = App::start().await;
    let sockets = Sockets::free(2);
    let file = orders(&mesh, app, &sockets);
    let said = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, format!("{said}zone: eu-1\nweight: 7\n")).expect("write");
    let proxy = Proxy::start(&file, &sockets).await;
    let ready = || {
        let mut reports = mesh.plane.reports().into_iter();
        reports.find(|report| report.health == i32::from(Health::Ready))
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while ready().is_none() && std::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(ready().expect("registered").weight, Some(7));
    assert_eq!(mesh.plane.hellos()[0].zone, "eu-1");
    drop(proxy);
}
