//! The end of a process: nothing new, everything that is there to its end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::peers::{get2, is_over, read_answer, read_some, read2, tls};
use super::world::{HTTP, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_finish_and_peers_are_told_to_go() {
    let mut world = World::start().await;
    let at = world.at(HTTP);
    let mut peer = world.http2("gateway", HTTP).await;
    let request = get2("/slow").map(|_| ());
    let (slow, _) = peer.sender.send_request(request, true).expect("send");
    let echo = Request::post("http://orders/echo")
        .body(())
        .expect("request");
    let (echo, mut send) = peer.sender.send_request(echo, false).expect("send");
    send.send_data("x".into(), false).expect("data");
    let mut echo = echo.await.expect("response").into_body();
    let mut http1 = tls(&world.source("gateway"), at).await.expect("TLS");
    http1
        .write_all(b"GET /slow HTTP/1.1\r\nHost: orders\r\n\r\n")
        .await
        .expect("write");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let running = world.running.take().expect("running");
    let started = Instant::now();
    let draining = tokio::spawn(running.drain(Duration::from_secs(5)));
    let answer = read_answer(&mut http1).await;
    assert_eq!((answer.status, answer.closed), (200, true));
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(read2(slow.await.expect("response")).await.head.status, 200);
    // A stream goes on until its ends agree that it is over.
    send.send_data("y".into(), false).expect("data");
    while let Some(data) = echo.data().await {
        if data.expect("data") == "y" {
            break;
        }
    }
    assert!(TcpStream::connect(at).await.is_err(), "nothing new");
    send.send_data(Bytes::new(), true).expect("end");
    assert!(is_over(&mut echo).await);
    draining.await.expect("drained");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    let ended = peer.driver.await.expect("driver");
    // The proxy may be gone before the client has written its own goodbye.
    let came_late = |error: &h2::Error| {
        let error = error.get_io();
        error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    assert!(
        ended.as_ref().is_ok() || ended.as_ref().is_err_and(came_late),
        "GOAWAY, not a cut: {ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_may_still_bring_a_request() {
    let mut world = World::start().await;
    let mut http1 = tls(&world.source("gateway"), world.at(HTTP))
        .await
        .expect("TLS");
    http1
        .write_all(b"GET /x HTTP/1.1\r\nHost: orders\r\n\r\n")
        .await
        .expect("write");
    assert!(read_some(&mut http1, &mut Vec::new()).await > 0);
    let running = world.running.take().expect("running");
    let draining = tokio::spawn(running.drain(Duration::from_secs(5)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    http1
        .write_all(b"GET /x HTTP/1.1\r\nHost: orders\r\n\r\n")
        .await
        .expect("write");
    let answer = read_answer(&mut http1).await;
    assert_eq!((answer.status, answer.closed), (200, true));
    draining.await.expect("drained");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_is_cut_when_the_time_is_over() {
    let mut world = World::start().await;
    let mut peer = world.http2("gateway", HTTP).await;
    let request = get2("/lingering").map(|_| ());
    let (response, _) = peer.sender.send_request(request, true).expect("send");
    let _body = response.await.expect("response");
    let running = world.running.take().expect("running");
    let started = Instant::now();
    running.drain(Duration::from_millis(500)).await;
    assert!(started.elapsed() < Duration::from_secs(1));
}
