//! A served component over real mTLS: who may call, what is answered, how it ends.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use axum::routing::{get, post};
use ringwall_http_io::{
    ClientError, Transport,
    body::{boxed, collect, full},
};
use ringwall_proto::ids::Quantity;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

use super::*;
use crate::{
    Peer,
    error::exit,
    extract::{Json, Path, Query},
    fixture::{Mesh, Running},
};

#[derive(Serialize, Deserialize)]
struct Wish {
    quantity: Quantity,
}

fn router() -> Router {
    Router::new()
        .route(
            "/whoami",
            get(|Peer(id): Peer| async move { Json(id.to_string()) }),
        )
        .route(
            "/gateway-only",
            get(|peer: Peer| async move { peer.require("gateway").map(|()| "ok") }),
        )
        .route(
            "/wishes/{n}",
            get(|Path(n): Path<u8>, Query(w): Query<Wish>| async move { Json((n, w.quantity)) }),
        )
        .route(
            "/wishes",
            post(|Json(w): Json<Wish>| async move { Json(w) }),
        )
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("on purpose")
                }
            }),
        )
}

fn slug(error: &ClientError) -> (u16, &str) {
    (
        error.status().unwrap().as_u16(),
        error.slug().unwrap_or("-"),
    )
}

#[tokio::test]
async fn the_peer_is_the_verified_identity_and_strangers_are_refused_in_the_handshake() {
    let mesh = Mesh::new();
    let running =
        Running::start(mesh.shell("inventory", &["orders"], ""), App::new(router())).await;

    let orders = mesh.client("orders", "inventory", running.mesh);
    let answer = orders.get_json::<String>("/whoami").await.unwrap();
    assert_eq!(answer.body, "spiffe://ringwall.local/orders");
    let refused = orders.get_json::<Value>("/gateway-only").await.unwrap_err();
    assert_eq!(slug(&refused), (403, "peer-refused"));

    let payments = mesh.client("payments", "inventory", running.mesh);
    let error = payments.get_json::<String>("/whoami").await.unwrap_err();
    assert!(error.status().is_none(), "{error}");

    let stranger = Mesh::new().client("orders", "inventory", running.mesh);
    assert!(
        stranger
            .get_json::<String>("/whoami")
            .await
            .unwrap_err()
            .is_connect()
    );

    let deceived = mesh.client("orders", "payments", running.mesh);
    assert!(
        deceived
            .get_json::<String>("/whoami")
            .await
            .unwrap_err()
            .is_connect()
    );

    running.stop().await.unwrap();
}

#[tokio::test]
async fn bad_input_is_a_problem_with_its_reason() {
    let mesh = Mesh::new();
    let running =
        Running::start(mesh.shell("inventory", &["orders"], ""), App::new(router())).await;
    let client = mesh.client("orders", "inventory", running.mesh);

    let three = Wish {
        quantity: Quantity::new(3).unwrap(),
    };
    let good = client.post("/wishes").json(&three).receive::<Wish>().await;
    assert_eq!(good.unwrap().body.quantity.get(), 3);

    let json = |text: &'static str| {
        client
            .post("/wishes")
            .header("content-type", "application/json")
            .body(full(text))
    };
    for (text, expected) in [
        (r#"{"quantity":0}"#, (400, "invalid-body")),
        (r#"{"quantity":"3"}"#, (400, "invalid-body")),
        ("{", (400, "invalid-body")),
    ] {
        let error = json(text).receive::<Value>().await.unwrap_err();
        assert_eq!(slug(&error), expected, "{text}");
    }
    let error = json(r#"{"quantity":100}"#)
        .receive::<Value>()
        .await
        .unwrap_err();
    let detail = error.problem().unwrap().detail_text().unwrap();
    assert!(detail.contains("quantity must be from 1 to 99"), "{detail}");

    for (path, expected) in [
        ("/wishes/300?quantity=1", (400, "invalid-body")),
        ("/wishes/1?quantity=x", (400, "invalid-body")),
        ("/nothing", (404, "not-found")),
        ("/wishes", (405, "method-not-allowed")),
    ] {
        let error = client.get_json::<Value>(path).await.unwrap_err();
        assert_eq!(slug(&error), expected, "{path}");
    }
    let untyped = client
        .post("/wishes")
        .body(full("{}"))
        .receive::<Value>()
        .await
        .unwrap_err();
    assert_eq!(slug(&untyped), (415, "unsupported-media-type"));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_declared_or_not() {
    let mesh = Mesh::new();
    let app = App::new(router().route("/raw", post(raw))).max_body(64);
    let running = Running::start(mesh.shell("inventory", &["orders"], ""), app).await;
    let client = mesh.client("orders", "inventory", running.mesh);

    let large = format!(r#"{{"quantity":1,"x":"{}"}}"#, "x".repeat(100));
    let declared = client
        .post("/wishes")
        .header("content-type", "application/json")
        .body(full(large.clone()));
    assert_eq!(
        slug(&declared.receive::<Value>().await.unwrap_err()),
        (413, "body-too-large")
    );

    let chunks = large
        .into_bytes()
        .chunks(10)
        .map(bytes::Bytes::copy_from_slice)
        .collect::<Vec<_>>();
    let frames = futures_util::stream::iter(
        chunks
            .into_iter()
            .map(|c| Ok::<_, std::convert::Infallible>(http_body::Frame::data(c))),
    );
    let body = boxed(http_body_util::StreamBody::new(frames));
    let chunked = client
        .post("/wishes")
        .header("content-type", "application/json")
        .body(body);
    assert_eq!(
        slug(&chunked.receive::<Value>().await.unwrap_err()),
        (413, "body-too-large")
    );

    let streamed = client.post("/raw").body(full("y".repeat(65)));
    assert_eq!(
        streamed.receive::<Value>().await.unwrap_err().status(),
        Some(StatusCode::PAYLOAD_TOO_LARGE)
    );
    running.stop().await.unwrap();
}

/// A handler that reads the body by itself still cannot read more than the limit.
async fn raw(body: axum::body::Body) -> StatusCode {
    match collect(body, usize::MAX).await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::PAYLOAD_TOO_LARGE,
    }
}

#[tokio::test]
async fn a_panic_ends_its_own_request_only() {
    let mesh = Mesh::new();
    let running =
        Running::start(mesh.shell("inventory", &["orders"], ""), App::new(router())).await;
    let client = mesh.client("orders", "inventory", running.mesh);
    let error = client.get_json::<Value>("/panic").await.unwrap_err();
    assert_eq!(slug(&error), (500, "internal"));
    client.get_json::<String>("/whoami").await.unwrap();
    assert_eq!(running.shell.metrics.panics.get(), 1);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn the_admin_listener_tells_operators_and_nobody_else() {
    let mesh = Mesh::new();
    let broken = Arc::new(AtomicBool::new(false));
    let check = {
        let broken = broken.clone();
        move || {
            let broken = broken.load(Ordering::Relaxed);
            async move {
                if broken {
                    Err("connection refused".to_owned())
                } else {
                    Ok(())
                }
            }
        }
    };
    let app = App::new(router()).ready_check("postgres", check);
    let running = Running::start(mesh.shell("inventory", &["orders"], ""), app).await;
    mesh.client("orders", "inventory", running.mesh)
        .get_json::<String>("/whoami")
        .await
        .unwrap();

    let operator = mesh.client("ringwall", "inventory", running.admin);
    let text = async |path: &str| {
        let response = operator.get(path).send().await.unwrap();
        let status = response.status();
        let body = collect(response.into_body(), 1 << 20).await.unwrap();
        (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(text("/healthz").await, (200, "ok\n".into()));
    assert_eq!(
        text("/readyz").await,
        (200, r#"{"ready":true,"failing":[]}"#.into())
    );
    broken.store(true, Ordering::Relaxed);
    let expected =
        r#"{"ready":false,"failing":[{"name":"postgres","reason":"connection refused"}]}"#;
    assert_eq!(text("/readyz").await, (503, expected.into()));
    let (_, metrics) = text("/metrics").await;
    let line = r#"http_server_request_duration_seconds_count{method="GET",route="/whoami",status="200"} 1"#;
    assert!(metrics.contains(line), "{metrics}");

    let orders = mesh.client("orders", "inventory", running.admin);
    assert!(
        orders
            .get_json::<Value>("/readyz")
            .await
            .unwrap_err()
            .status()
            .is_none()
    );
    let prometheus = mesh.client("prometheus", "inventory", running.admin);
    assert_eq!(
        prometheus.get("/metrics").send().await.unwrap().status(),
        200
    );
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_component_s_own_admin_routes_are_the_operator_s_alone() {
    let mesh = Mesh::new();
    let own = Router::new().route("/observe", get(|| async { "flows" }));
    let app = App::new(router()).admin(own);
    let running = Running::start(mesh.shell("inventory", &["orders"], ""), app).await;
    for (caller, status) in [("ringwall", 200), ("prometheus", 403)] {
        let client = mesh.client(caller, "inventory", running.admin);
        let response = client.get("/observe").send().await.unwrap();
        assert_eq!(response.status(), status, "{caller}");
    }
    let inside = mesh.client("orders", "inventory", running.mesh);
    let response = inside.get("/observe").send().await.unwrap();
    assert_eq!(response.status(), 404, "not on the mesh listener");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn the_drain_finishes_open_requests_and_takes_no_new_ones() {
    let mesh = Mesh::new();
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (entered, release) = (entered.clone(), release.clone());
        move || async move {
            entered.notify_one();
            release.notified().await;
            "done"
        }
    };
    let app = App::new(Router::new().route("/slow", get(slow)));
    let running = Running::start(mesh.shell("inventory", &["orders"], ""), app).await;
    let client = mesh.client("orders", "inventory", running.mesh);
    let open = tokio::spawn({
        let client = client.clone();
        async move { client.get("/slow").send().await }
    });
    entered.notified().await;
    running.shell.begin_shutdown();
    // The listener is closed as soon as the accept loop has seen the signal.
    let refused = async {
        while tokio::net::TcpStream::connect(running.mesh).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused)
        .await
        .unwrap();
    assert!(!running.task.is_finished());
    release.notify_one();
    let response = open.await.unwrap().unwrap();
    assert_eq!(collect(response.into_body(), 64).await.unwrap(), "done");
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_outlives_the_drain_is_cut() {
    let mesh = Mesh::new();
    let app = App::new(Router::new().route("/never", get(std::future::pending::<()>)));
    let running = Running::start(mesh.shell("inventory", &["orders"], "drain: 200ms"), app).await;
    let client = mesh.client("orders", "inventory", running.mesh);
    let open = tokio::spawn(async move { client.get("/never").send().await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = Instant::now();
    running.stop().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(open.await.unwrap().is_err());
}

#[tokio::test]
async fn a_data_path_gets_the_drain_time_and_background_work_ends_with_it() {
    let mesh = Mesh::new();
    let shell = mesh.shell("gateway", &["orders"], "");
    let finished = Arc::new(AtomicBool::new(false));
    let data_path = {
        let (shutdown, finished) = (shell.shutdown(), finished.clone());
        async move {
            shutdown.await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            finished.store(true, Ordering::Relaxed);
        }
    };
    let app = App::new(router())
        .data_path(data_path)
        .background("for ever", std::future::pending())
        .background("short", async {});
    let running = Running::start(shell, app).await;
    mesh.client("orders", "gateway", running.mesh)
        .get_json::<String>("/whoami")
        .await
        .unwrap();
    running.stop().await.unwrap();
    assert!(finished.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_data_path_that_ends_or_work_that_panics_ends_the_process() {
    let mesh = Mesh::new();
    let apps = [
        App::new(router()).background("relay", async { panic!("on purpose") }),
        App::new(router()).data_path(async {}),
        App::custom(async {}),
    ];
    for app in apps {
        let running = Running::start(mesh.shell("inventory", &["orders"], ""), app).await;
        let error = running.task.await.unwrap().unwrap_err();
        assert_eq!(error.code(), exit::SOFTWARE, "{error}");
    }
}

#[tokio::test]
async fn a_taken_port_ends_the_start_with_its_number() {
    let mesh = Mesh::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = (*mesh.shell("inventory", &["orders"], "").config).clone();
    config.listen = taken.local_addr().unwrap();
    let shell = Shell::open("inventory", config).unwrap();
    let error = serve(shell, App::new(router())).await.unwrap_err();
    assert_eq!(error.code(), exit::OS);
    assert!(
        error
            .to_string()
            .contains(&taken.local_addr().unwrap().port().to_string())
    );
}

#[tokio::test]
async fn a_shell_does_not_open_with_another_s_identity() {
    let mesh = Mesh::new();
    let mut config = (*mesh.shell("inventory", &[], "").config).clone();
    config.identity = mesh.shell("payments", &[], "").config.identity.clone();
    let error = Shell::open("inventory", config).err().unwrap();
    assert_eq!(error.code(), exit::CONFIG);
    assert!(
        error
            .to_string()
            .contains("holds the identity spiffe://ringwall.local/payments")
    );
}

#[tokio::test]
async fn an_undeclared_upstream_is_a_configuration_error() {
    let shell = Mesh::new().shell("inventory", &[], "");
    let error = StartError::from(shell.upstream("payments").err().unwrap());
    assert_eq!(error.code(), exit::CONFIG);
    assert!(
        error.to_string().contains("a declared upstream `payments`"),
        "{error}"
    );
}
