//! What stops a start, in words that help.

use std::path::PathBuf;

use super::app::App;
use super::mesh::Mesh;
use super::proxies::{Sockets, command, gateway, orders, write};

/// Exit code and what was said.
async fn refused(file: &PathBuf, sockets: Option<&Sockets>) -> (i32, String) {
    let output = command(file, sockets).output().await.expect("output");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

#[tokio::test]
async fn sockets_of_another_configuration_stop_the_start() {
    let mesh = Mesh::start().await;
    let app = App::start().await;
    let sockets = Sockets::free(2);
    let file = orders(&mesh, app, &sockets);
    let (code, text) = refused(&file, Some(&Sockets::free(1))).await;
    assert_eq!(code, 78, "{text}");
    assert!(
        text.contains("hands over 1 sockets for 2 listeners"),
        "{text}"
    );
    let (code, text) = refused(&file, Some(&Sockets::free(2))).await;
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("the configuration says"), "{text}");
    // Without a hand-over the addresses are taken.
    let (code, text) = refused(&file, None).await;
    assert_eq!(code, 71, "{text}");
    let port = sockets.address(0).port();
    assert!(text.contains(&format!("port {port} on")), "{text}");
}

#[tokio::test]
async fn a_missing_key_or_secret_stops_the_start_and_says_where() {
    let mesh = Mesh::start().await;
    let sockets = Sockets::free(2);
    let file = gateway(&mesh, &sockets);
    let text = std::fs::read_to_string(&file).expect("read");
    let without = text.replace("control-plane: {", "plane: {");
    std::fs::write(&file, without).expect("write");
    let (code, said) = refused(&file, None).await;
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("service.upstreams") && said.contains("fix:"),
        "{said}"
    );
    let other = text.replace("loopback_token: loopback-token", "loopback_token: missing");
    std::fs::write(&file, other).expect("write");
    let (code, said) = refused(&file, Some(&sockets)).await;
    assert_ne!(code, 0);
    assert!(said.contains("missing"), "{said}");
    let file = write(&mesh, "orders", "outbound: { http: 0.0.0.0:1 }\n");
    let (code, said) = refused(&file, None).await;
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("an address of loopback"), "{said}");
}
