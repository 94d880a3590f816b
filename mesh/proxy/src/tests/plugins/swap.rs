//! Plugins that change while the proxy serves, and configurations that are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use listenfd::ListenFd;
use ringwall_service::config::parse_yaml;

use super::super::peers::{http2, seen};
use super::super::world::{HTTP, World};
use super::guests::{HEADERS, Modules, marker};
use super::inbound::before_http;
use crate::app::{Running, shared};
use crate::config::Config;
use crate::control::State;
use crate::reload::Reloader;

fn reloader(world: &World) -> Reloader {
    let shared = Arc::clone(&world.running().shared);
    let config = Config::clone(&world.config);
    Reloader::new(shared, world.config_file.clone(), config)
}

fn edit(world: &World, from: &str, to: &str) {
    let text = std::fs::read_to_string(&world.config_file).expect("configuration");
    assert!(text.contains(from), "{from}");
    std::fs::write(&world.config_file, text.replace(from, to)).expect("configuration");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r92_a_module_is_replaced_without_a_failed_or_half_filtered_request() {
    let modules = Modules::one(marker("7"));
    let world = Arc::new(World::start_with(&before_http(&modules, HEADERS)).await);
    let done = Arc::new(AtomicBool::new(false));
    let source = world.source("gateway");
    let clients = (0..4).map(|_| {
        let (world, done) = (Arc::clone(&world), Arc::clone(&done));
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            let mut http2 = http2(&source, world.at(HTTP)).await;
            let mut versions = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let answer = http2.get("/a").await;
                assert_eq!(answer.head.status, 200);
                let out = seen(&answer.json(), "x-filter");
                let back = answer.head.headers["x-filter"].to_str().unwrap().to_owned();
                assert_eq!(out, [&*back], "one version has seen both ways");
                versions.push(back);
            }
            versions
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut reloader = reloader(&world);
    tokio::time::sleep(Duration::from_millis(200)).await;
    modules.write("p", &marker("8"));
    assert!(reloader.reload());
    tokio::time::sleep(Duration::from_millis(200)).await;
    // One that cannot be used changes nothing.
    std::fs::write(modules.path("p"), b"no module").expect("module");
    assert!(!reloader.reload());
    tokio::time::sleep(Duration::from_millis(100)).await;
    done.store(true, Ordering::Relaxed);
    for client in clients {
        let versions = client.await.expect("client");
        assert_eq!(versions.first().map(String::as_str), Some("7"));
        assert_eq!(versions.last().map(String::as_str), Some("8"));
        assert!(versions.is_sorted(), "{versions:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r92_plugins_come_and_go_with_the_file() {
    let modules = Modules::one(marker("7"));
    let world = World::start().await;
    let marked = async || {
        let answer = world.get("gateway", "/a").await;
        assert_eq!(answer.status, 200);
        answer.field("x-filter").is_some()
    };
    assert!(!marked().await);
    let mut reloader = reloader(&world);
    let key = format!("{}\nhbone:", modules.key(HEADERS));
    edit(&world, "hbone:", &key);
    edit(&world, "port: 7105 }", "port: 7105, filters: [p] }");
    assert!(reloader.reload());
    assert!(marked().await);
    // A chain of what is not there is refused as a whole.
    edit(&world, "filters: [p]", "filters: [q]");
    assert!(!reloader.reload());
    assert!(marked().await);
    edit(&world, ", filters: [q] }", " }");
    assert!(reloader.reload());
    assert!(!marked().await);
    // What needs a restart is left as it was.
    edit(&world, "header_timeout: 10s", "max_requests: 1");
    assert!(reloader.reload());
    assert_eq!(world.running().shared.config.limits.max_requests, 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r91_a_proxy_whose_plugins_are_missing_does_not_start() {
    let world = World::start().await;
    let modules = Modules::one(marker("7"));
    edit(
        &world,
        "hbone:",
        &format!("{}\nhbone:", modules.key(HEADERS)),
    );
    let start = || {
        let text = std::fs::read_to_string(&world.config_file).expect("configuration");
        let config: Config = parse_yaml(&text, &world.config_file).expect("parse");
        let shell = ringwall_service::Shell::open("proxy", config.service.clone()).expect("shell");
        let shared = shared(&shell, &Arc::new(config), &State::new())?;
        Running::over(shared, ListenFd::empty()).map(|_| ())
    };
    start().expect("sound");
    std::fs::remove_file(modules.path("p")).expect("module");
    let error = start().expect_err("a missing module").to_string();
    assert!(
        error.contains("plugins: ") && error.contains("p.wasm"),
        "{error}"
    );
}
