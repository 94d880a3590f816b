//! R28, R31, R32: what proxies are told over their streams, and what they say.

use std::time::{Duration, Instant};

use ringwall_mesh_api::v1::{self, RevokeRequest, revoke_request::What};
use ringwall_store::testing::Server;
use serde_json::json;
use tonic::Code;

use super::policies::obedient;
use super::replicas;
use crate::testing::{Site, id};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r31_a_proxy_that_refuses_is_told_by_name_and_the_next_version_reaches_it() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let desk = running.desk(&site.caller("ringwall"));
    let mut orders = running.connected(&site.caller("orders"), "local").await;
    let gateway = obedient(running.connected(&site.caller("gateway"), "local").await);
    let mut payments = running.connected(&site.caller("payments"), "other").await;

    let mut next = desk.bundle().await;
    next["dry_run"] = json!(["gateway-reads"]);
    next["examples"].as_array_mut().unwrap().remove(0);
    let refusing = orders.refuse("policy", "no room\nfor it");
    let (applied, refused) = tokio::join!(desk.apply(&next, 1, "300ms"), refusing);
    assert_eq!(refused.changed[0].name, "policy");
    let spread = &applied.body["proxies"];
    assert_eq!(spread["applied"], json!(1), "{applied:?}");
    assert_eq!(spread["pending"][0]["workload"], "payments");
    assert_eq!(spread["refused"][0]["workload"], "orders");
    assert_eq!(
        spread["refused"][0]["version"],
        json!(1),
        "what it still applies"
    );
    assert_eq!(spread["refused"][0]["refused"]["version"], json!(2));
    assert_eq!(spread["refused"][0]["refused"]["reason"], "no roomfor it");
    // It is not sent again as it is.
    assert!(orders.is_quiet().await);
    payments.until_policy(2).await;
    let versions = async || {
        let proxies = desk.get("/v1/policy/proxies").await;
        let proxies = proxies.as_array().unwrap().iter();
        let of = |proxy: &serde_json::Value| {
            (
                proxy["workload"].as_str().unwrap().to_owned(),
                proxy["version"].as_u64().unwrap(),
            )
        };
        proxies.map(of).collect::<Vec<_>>()
    };
    let all = [("orders", 1), ("gateway", 2), ("payments", 2)];
    let all = all.map(|(workload, version)| (workload.to_owned(), version));
    let asked = Instant::now();
    while versions().await != all {
        assert!(asked.elapsed() < SECOND, "{:?}", versions().await);
    }

    let answers = async { tokio::join!(orders.until_policy(3), payments.until_policy(3)) };
    let (back, _) = tokio::join!(desk.rollback(1, 2), answers);
    assert_eq!(back.body["proxies"]["applied"], json!(3), "{back:?}");
    assert_eq!(back.body["proxies"]["refused"], json!([]));
    gateway.abort();
    running.stop().await;
}

#[tokio::test]
async fn r32_a_proxy_starts_with_a_snapshot_and_resumes_with_what_has_changed() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let mut orders = running
        .proxy(&site.caller("orders"), "local")
        .await
        .unwrap();
    let first = orders.apply().await;
    assert!(first.snapshot);
    let names: Vec<_> = orders.has.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "edges",
            "endpoints/payments",
            "policy",
            "revocations",
            "service/payments"
        ],
        "its callees alone"
    );
    let edges = [("gateway", "orders"), ("orders", "payments")];
    let edges = edges.map(|(caller, callee)| (caller.to_owned(), callee.to_owned()));
    assert_eq!(orders.edges(), edges);
    let revision = orders.revision;
    drop(orders);
    let mut again = running
        .proxy_from(&site.caller("orders"), "local", revision)
        .await
        .unwrap();
    let delta = again.apply().await;
    assert!(!delta.snapshot && delta.changed.is_empty(), "{delta:?}");
    running.stop().await;
}

/// R50: without a policy there is one, and it allows nothing.
#[tokio::test]
async fn r32_r50_without_a_policy_proxies_are_told_to_deny() {
    let site = Site::new().without_policy();
    let running = site.start().await;
    let orders = running.connected(&site.caller("orders"), "local").await;
    let names: Vec<_> = orders.has.keys().map(String::as_str).collect();
    assert_eq!(names, ["edges", "policy", "revocations"]);
    assert!(orders.edges().is_empty());
    assert_eq!(orders.policy().version, 1);
    let desk = running.desk(&site.caller("ringwall"));
    let question = |method: serde_json::Value| {
        json!({ "request": { "name": "q", "caller": "gateway", "callee": "orders", "port": 7105,
                             "method": method, "expect": "allow" } })
    };
    for method in [json!("GET"), json!(null)] {
        let said = desk.post("/v1/policy/explain", question(method)).await;
        assert_eq!(said.body["decision"]["outcome"], "no-edge", "{said:?}");
        assert_eq!(said.body["decision"]["allowed"], json!(false));
    }
    running.stop().await;
}

#[tokio::test]
async fn r28_who_has_no_attested_identity_registers_nothing() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let mut gateway = running.connected(&site.caller("gateway"), "local").await;
    let mut orders = running.connected(&site.caller("orders"), "local").await;
    // Without a certificate there is no connection at all.
    let channel = site.stranger(running.mesh);
    let mut client = v1::configuration_client::ConfigurationClient::new(channel);
    let hello = futures_util::stream::iter([v1::ProxyMessage::default()]);
    assert!(client.stream(hello).await.is_err());
    // An identity that is no service, and a service where it may not run.
    for (caller, node) in [
        ("ringwall", "local"),
        ("stranger", "local"),
        ("agent/local", "local"),
        ("orders", "other"),
    ] {
        let mut proxy = running.proxy(&site.caller(caller), node).await.unwrap();
        assert_eq!(
            proxy.end().await,
            Code::PermissionDenied,
            "{caller} at {node}"
        );
    }
    // Whatever orders reports is orders': callers of payments do not see it.
    orders
        .report("127.0.0.1:6666", 7105, v1::Health::Ready)
        .await;
    gateway.apply().await;
    assert_eq!(gateway.endpoints("orders"), ["127.0.0.1:6666"]);
    assert_eq!(orders.endpoints("payments"), [""; 0]);
    // Not a port of its own.
    orders
        .report("127.0.0.1:6666", 7104, v1::Health::Ready)
        .await;
    assert_eq!(orders.end().await, Code::InvalidArgument);
    running.stop().await;
}

#[tokio::test]
async fn r28_endpoints_come_and_go_with_their_health() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let mut gateway = running.connected(&site.caller("gateway"), "local").await;
    let mut payments = running.connected(&site.caller("payments"), "other").await;
    let orders = running.connected(&site.caller("orders"), "local").await;
    for (health, seen) in [
        (v1::Health::Ready, &["127.0.0.1:7105"][..]),
        (v1::Health::NotReady, &[]),
        (v1::Health::Ready, &["127.0.0.1:7105"]),
        (v1::Health::Draining, &[]),
    ] {
        let asked = Instant::now();
        orders.report("127.0.0.1:7105", 7105, health).await;
        gateway.apply().await;
        let took = asked.elapsed();
        assert_eq!(gateway.endpoints("orders"), seen);
        assert!(took < SECOND, "{took:?}");
    }
    assert!(payments.is_quiet().await, "it may not call orders");
    running.stop().await;
}

#[tokio::test]
async fn r34_a_revoked_workload_loses_its_stream_and_others_are_told_within_a_second() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let mut orders = running.connected(&site.caller("orders"), "local").await;
    let mut gateway = running.connected(&site.caller("gateway"), "local").await;
    let asked = RevokeRequest {
        what: Some(What::SpiffeId(id("orders").to_string())),
        reason: "stolen".to_owned(),
    };
    let begun = Instant::now();
    let mut operator = running.operator(&site.caller("ringwall"));
    operator.revoke(asked).await.unwrap();
    let message = gateway.apply().await;
    let ended = orders.end().await;
    let took = begun.elapsed();
    assert!(took < SECOND, "{took:?}");
    assert_eq!(message.changed[0].name, "revocations");
    assert_ne!(ended, Code::Ok);
    running.stop().await;
}

fn write(site: &Site, text: &str) {
    let path = site.path().join("state.yaml");
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

#[tokio::test]
async fn attack_a_broken_policy_in_the_file_takes_nothing_away_now_or_after_a_restart() {
    let mut site = Site::new().with_policy();
    let running = site.start().await;
    let file = std::fs::read_to_string(site.path().join("state.yaml")).unwrap();
    let mut orders = running.connected(&site.caller("orders"), "local").await;
    let desk = running.desk(&site.caller("ringwall"));
    let first = desk.bundle().await;

    let broken = file.replace("Workload::\"orders\"", "Workload::\"nobody\"");
    write(&site, &broken);
    let refused = async |desk: &crate::testing::desk::Desk| {
        let events = desk.events().await;
        events
            .into_iter()
            .filter(|event| event.0 == "policy_refused")
            .collect::<Vec<_>>()
    };
    while refused(&desk).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = refused(&desk).await;
    assert_eq!(told[0].1, "ringwall.yaml (control-plane)");
    assert!(
        told[0].2.contains("main:4") && told[0].2.contains("nobody"),
        "{told:?}"
    );
    assert_eq!((desk.version().await, desk.bundle().await), (1, first));
    assert!(orders.is_quiet().await);
    running.kill();

    let good = site.text.clone();
    site.text = site
        .text
        .replace("Workload::\"orders\"", "Workload::\"nobody\"");
    let running = site.start().await;
    let mut orders = running.connected(&site.caller("orders"), "local").await;
    assert_eq!(orders.policy().version, 1);
    // Corrected, it takes effect.
    let file = std::fs::read_to_string(site.path().join("state.yaml")).unwrap();
    let corrected = file
        .replace("Workload::\"nobody\"", "Workload::\"orders\"")
        .replace("name: skips", "name: goes past");
    write(&site, &corrected);
    orders.until_policy(2).await;
    let desk = running.desk(&site.caller("ringwall"));
    assert_eq!(desk.get("/v1/policy").await["author"], "ringwall.yaml");
    running.kill();

    // Where nothing was ever good, nothing starts.
    let mut fresh = Site::new().with_policy();
    fresh.text = fresh
        .text
        .replace("Workload::\"orders\"", "Workload::\"nobody\"");
    let Err(error) = fresh.try_start_as("state").await else {
        panic!("it started")
    };
    let error = error.to_string();
    assert!(error.contains("main:4"), "{error}");
    assert_ne!(good, site.text);
}

/// The registry is the truth about services, whatever a proposal says of them.
#[tokio::test]
async fn attack_a_proposal_cannot_change_what_a_service_is() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let desk = running.desk(&site.caller("ringwall"));
    let mut next = desk.bundle().await;
    let facts = next["services"].clone();
    next["services"]["payments"]["tier"] = json!("internal");
    next["services"]["gateway"]["owner"] = json!("bank");
    next["examples"][0]["name"] = json!("reads as before");
    let applied = desk.apply(&next, 1, "0s").await;
    assert_eq!(applied.status, 200, "{applied:?}");
    assert_eq!(desk.bundle().await["services"], facts);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r31_the_leader_alone_applies_and_pushes_and_its_successor_goes_on() {
    let server = Server::shared("control-plane");
    let site = replicas::site(&server).with_policy();
    let first = site.start_as("first").await;
    let second = site.start_as("second").await;
    let operator = site.caller("ringwall");
    let (desk, other) = (first.desk(&operator), second.desk(&operator));
    let mut orders = first.connected(&site.caller("orders"), "local").await;
    let mut refused = second.proxy(&site.caller("orders"), "local").await.unwrap();
    assert_eq!(refused.end().await, Code::Unavailable);

    let mut next = desk.bundle().await;
    next["examples"][0]["name"] = json!("reads as before");
    let said = other.apply(&next, 1, "0s").await;
    assert_eq!(said.status, 503, "{said:?}");
    let leader = said.body["leader"].as_str().unwrap();
    assert!(leader.starts_with(&first.mesh.to_string()), "{said:?}");
    let proxies = other
        .ask(http::Method::GET, "/v1/policy/proxies", None, None)
        .await;
    assert_eq!(proxies.status, 503);
    let (applied, ()) = tokio::join!(desk.apply(&next, 1, "5s"), orders.until_policy(2));
    assert_eq!(applied.body["proxies"]["applied"], json!(1));
    // What is kept, both know.
    assert_eq!(other.bundle().await, desk.bundle().await);

    let revision = orders.revision;
    first.kill();
    let died = Instant::now();
    let mut orders = second
        .served(&site.caller("orders"), "local", revision)
        .await;
    assert!(orders.revision > revision);
    println!(
        "proxies had a control plane again after {:?}",
        died.elapsed()
    );
    assert_eq!(orders.policy().version, 2);
    next["examples"][0]["name"] = json!("reads on");
    let (applied, ()) = tokio::join!(other.apply(&next, 2, "5s"), orders.until_policy(3));
    assert_eq!(applied.status, 200, "{applied:?}");
    second.stop().await;
}

/// `caller → callee: addresses` of the next message.
async fn reach(watching: &mut tonic::Streaming<v1::Reach>) -> Vec<String> {
    let next = tokio::time::timeout(SECOND, watching.message()).await;
    let services = next.expect("in time").unwrap().unwrap().services;
    let line = |one: v1::ReachableService| {
        let addresses = one.addresses.join(" ");
        format!("{} → {}: {addresses}", one.caller, one.callee)
    };
    services.into_iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r50_an_agent_is_told_what_its_own_workloads_may_connect_to_within_a_second() {
    let site = Site::new().with_policy();
    let running = site.start().await;
    let local = running.identity(&site.caller("agent/local"));
    let mut local = local
        .clone()
        .watch_reach(v1::WatchReachRequest {})
        .await
        .unwrap()
        .into_inner();
    let nowhere = ["gateway → orders: ", "orders → payments: "];
    assert_eq!(reach(&mut local).await, nowhere);
    // Payments runs elsewhere, and calls nobody.
    let other = running.identity(&site.caller("agent/other"));
    let mut other = other
        .clone()
        .watch_reach(v1::WatchReachRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reach(&mut other).await, [""; 0]);
    // What is registered can be connected to, ready or not: its caller's proxy says the rest.
    let orders = running.connected(&site.caller("orders"), "local").await;
    orders
        .report("127.0.0.1:7105", 7105, v1::Health::NotReady)
        .await;
    let served = ["gateway → orders: 127.0.0.1:7105", "orders → payments: "];
    assert_eq!(reach(&mut local).await, served);
    // An edge that the policy loses is gone.
    let desk = running.desk(&site.caller("ringwall"));
    let mut next = desk.bundle().await;
    next["edges"].as_array_mut().unwrap().remove(0);
    next["examples"].as_array_mut().unwrap().remove(0);
    let begun = Instant::now();
    let said = desk.apply(&next, 1, "0s").await;
    assert_eq!(said.status, http::StatusCode::OK, "{said:?}");
    assert_eq!(reach(&mut local).await, ["orders → payments: "]);
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    // Nobody else is told.
    for stranger in ["orders", "ringwall", "agent/ghost", "agent/local/x"] {
        let mut client = running.identity(&site.caller(stranger));
        let refused = client
            .watch_reach(v1::WatchReachRequest {})
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{stranger}");
    }
    running.stop().await;
}
