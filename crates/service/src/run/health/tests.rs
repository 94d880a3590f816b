//! The question against components that serve, on real sockets.

use axum::Router;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::{
    App, Shell,
    error::exit,
    fixture::{Mesh, Running},
};

const LETS_ITSELF_IN: &str = "admin_callers: [ringwall, inventory]\n";

/// The configuration file of a component whose admin listener is at `admin`.
fn file(shell: &Shell, admin: SocketAddr) -> TempDir {
    let mut service = (*shell.config).clone();
    service.admin = admin;
    let service = serde_json::to_value(service).unwrap();
    // Keys of the component's own are not looked at.
    let text = serde_json::json!({ "service": service, "shelves": 12 }).to_string();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.yaml"), text).unwrap();
    folder
}

/// Asks from a thread of its own, as a process would.
async fn asked(folder: &TempDir) -> Result<(), Unhealthy> {
    let path = folder.path().join("config.yaml");
    tokio::task::spawn_blocking(move || ask("inventory", &path))
        .await
        .unwrap()
}

/// Why it is not ready.
fn reason(answer: Result<(), Unhealthy>) -> String {
    match answer {
        Err(Unhealthy::NotReady(why)) => why,
        Err(Unhealthy::Config(error)) => panic!("the configuration is refused: {error}"),
        Ok(()) => panic!("it counts as ready"),
    }
}

#[tokio::test]
async fn a_ready_component_is_healthy() {
    let mesh = Mesh::new();
    let shell = mesh.shell("inventory", &[], LETS_ITSELF_IN);
    let running = Running::start(shell, App::new(Router::new())).await;
    let folder = file(&running.shell, running.admin);
    assert!(asked(&folder).await.is_ok());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn behind_a_service_proxy_it_is_asked_past_the_proxy() {
    let mesh = Mesh::new();
    mesh.secret("loopback-token", &"t".repeat(43));
    let extra = format!("{LETS_ITSELF_IN}sidecar: {{ outbound: \"127.0.0.1:9\" }}\n");
    let shell = mesh.shell_behind_a_proxy("inventory", &[], &extra);
    let running = Running::start(shell, App::new(Router::new())).await;
    let folder = file(&running.shell, running.admin);
    assert!(asked(&folder).await.is_ok());
    mesh.secret("loopback-token", &"u".repeat(43));
    let why = reason(asked(&folder).await);
    assert!(why.starts_with("answers 403"), "{why}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_failing_check_is_repeated() {
    let mesh = Mesh::new();
    let shell = mesh.shell("inventory", &[], LETS_ITSELF_IN);
    let app =
        App::new(Router::new()).ready_check("database", || async { Err("it is away".to_owned()) });
    let running = Running::start(shell, app).await;
    let why = reason(asked(&file(&running.shell, running.admin)).await);
    assert!(why.starts_with("answers 503"), "{why}");
    assert!(why.contains("it is away"), "{why}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn nobody_and_a_silent_listener_are_not_ready_within_the_limit() {
    let mesh = Mesh::new();
    let shell = mesh.shell("inventory", &[], LETS_ITSELF_IN);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let folder = file(&shell, address);
    let begun = std::time::Instant::now();
    // The kernel accepts, and nobody ever speaks.
    reason(asked(&folder).await);
    assert!(begun.elapsed() < PATIENCE + Duration::from_secs(1));
    drop(listener);
    let why = reason(asked(&folder).await);
    assert!(why.starts_with("cannot connect"), "{why}");
}

#[tokio::test]
async fn another_component_at_the_address_does_not_count() {
    let mesh = Mesh::new();
    let shell = mesh.shell("inventory", &[], LETS_ITSELF_IN);
    let other = mesh.shell("payments", &[], LETS_ITSELF_IN);
    let running = Running::start(other, App::new(Router::new())).await;
    let why = reason(asked(&file(&shell, running.admin)).await);
    assert!(why.starts_with("cannot connect"), "{why}");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_component_that_does_not_let_itself_in_is_not_ready() {
    let mesh = Mesh::new();
    let shell = mesh.shell("inventory", &[], "");
    let running = Running::start(shell, App::new(Router::new())).await;
    reason(asked(&file(&running.shell, running.admin)).await);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn an_identity_that_cannot_be_read_is_named() {
    let mesh = Mesh::new();
    let shell = mesh.shell("inventory", &[], LETS_ITSELF_IN);
    std::fs::remove_file(shell.config.identity.directory().unwrap().join("svid.key")).unwrap();
    let why = reason(asked(&file(&shell, "127.0.0.1:9".parse().unwrap())).await);
    assert!(why.contains("svid.key"), "{why}");
}

#[tokio::test]
async fn a_wrong_configuration_is_one() {
    let mesh = Mesh::new();
    let payments = mesh.shell("payments", &[], "");
    let folder = file(&payments, "127.0.0.1:9".parse().unwrap());
    let Err(Unhealthy::Config(error)) = asked(&folder).await else {
        panic!("another component's configuration is taken");
    };
    assert_eq!(error.code(), exit::CONFIG);
    assert!(error.to_string().contains("service.name"), "{error}");
    std::fs::remove_file(folder.path().join("config.yaml")).unwrap();
    let Err(Unhealthy::Config(error)) = asked(&folder).await else {
        panic!("a missing configuration is taken");
    };
    assert_eq!(error.code(), exit::CONFIG);
}

#[test]
fn a_listener_on_every_address_is_asked_on_loopback() {
    for (listen, asked) in [
        ("0.0.0.0:7203", "127.0.0.1:7203"),
        ("[::]:7203", "[::1]:7203"),
        ("10.1.2.3:7203", "10.1.2.3:7203"),
    ] {
        assert_eq!(own_address(listen.parse().unwrap()).to_string(), asked);
    }
}
