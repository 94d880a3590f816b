//! The source against an agent that comes late, rotates, lies, and dies.

use ringwall_identity::TrustDomain;
use ringwall_mesh_api::workload::JwtBundlesResponse;
use tonic::Status;

use super::*;
use crate::fixture::FakeAgent;
use crate::jwt_bundle;

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn r33_an_identity_comes_from_the_socket_and_rotates() {
    let mut agent = FakeAgent::new();
    agent.say(Ok(agent.issue("orders", HOUR)));
    agent.start();
    let source = identity(&agent.socket, SOON).await.unwrap();
    assert_eq!(
        source.spiffe_id().as_str(),
        "spiffe://ringwall.local/orders"
    );
    let first = source.not_after();
    let mut changes = source.subscribe();
    agent.say(Ok(agent.issue("orders", 2 * HOUR)));
    changes.changed().await.unwrap();
    assert!(source.not_after() > first);
}

#[tokio::test]
async fn an_agent_that_starts_later_and_a_registration_that_comes_later_are_waited_for() {
    let mut agent = FakeAgent::new();
    let socket = agent.socket.clone();
    let waiting = tokio::spawn(async move { identity(&socket, SOON).await });
    tokio::task::yield_now().await;
    agent.start();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    agent.say(Ok(agent.issue("orders", HOUR)));
    assert!(waiting.await.unwrap().is_ok());
}

#[tokio::test]
async fn r33_a_dead_agent_leaves_the_last_good_identity_and_a_new_one_is_found() {
    let mut agent = FakeAgent::new();
    agent.say(Ok(agent.issue("orders", HOUR)));
    agent.start();
    let source = identity(&agent.socket, SOON).await.unwrap();
    let mut changes = source.subscribe();
    agent.kill().await;
    assert_eq!(source.spiffe_id().path(), "orders");
    agent.say(Ok(agent.issue("orders", 2 * HOUR)));
    agent.start();
    tokio::time::timeout(SOON, changes.changed())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn r53_another_identity_or_a_broken_answer_is_not_taken() {
    let mut agent = FakeAgent::new();
    let good = agent.issue("orders", HOUR);
    agent.say(Ok(good.clone()));
    agent.start();
    let source = identity(&agent.socket, SOON).await.unwrap();
    let mut changes = source.subscribe();
    agent.say(Ok(agent.issue("payments", HOUR)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut broken = good;
    broken.svids[0].bundle.pop();
    agent.say(Ok(broken));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!changes.has_changed().unwrap());
    // The stream is still the same one.
    agent.say(Ok(agent.issue("orders", 2 * HOUR)));
    tokio::time::timeout(SOON, changes.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(source.spiffe_id().path(), "orders");
}

#[tokio::test(start_paused = true)]
async fn no_identity_is_an_error_that_names_socket_sight_and_fix() {
    let mut agent = FakeAgent::new();
    let why = |error: WorkloadApiError| error.to_string();
    let error = why(identity(&agent.socket, SOON).await.unwrap_err());
    let socket = agent.socket.display();
    assert!(
        error.contains(&format!("unix:{socket} within 10 s")),
        "{error}"
    );
    assert!(error.contains("seen: No such file or directory"), "{error}");
    assert!(error.contains("fix: check that the agent runs"), "{error}");
    agent.start();
    let error = why(identity(&agent.socket, SOON).await.unwrap_err());
    assert!(
        error.contains("no identity (no identity issued)"),
        "{error}"
    );
    assert!(error.contains("ringwall-app-NAME.slice"), "{error}");
    agent.say(Ok(X509svidResponse::default()));
    let error = why(identity(&agent.socket, SOON).await.unwrap_err());
    assert!(error.contains("there is no SVID in it"), "{error}");
}

#[tokio::test]
async fn the_stream_ends_with_its_last_user() {
    let mut agent = FakeAgent::new();
    agent.say(Ok(agent.issue("orders", HOUR)));
    agent.start();
    let source = identity(&agent.socket, SOON).await.unwrap();
    assert_eq!(agent.svids.receiver_count(), 1);
    drop(source);
    // An answer wakes the stream, which then sees that nobody is there.
    agent.say(Ok(agent.issue("orders", HOUR)));
    while agent.svids.receiver_count() > 0 {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        agent.say(Ok(agent.issue("orders", HOUR)));
    }
}

#[tokio::test]
async fn a_jwt_bundle_of_our_own_domain_is_followed() {
    let mut agent = FakeAgent::new();
    let bundle = |text: &str| {
        let bundles = [
            (
                "spiffe://ringwall.local".to_owned(),
                text.as_bytes().to_vec(),
            ),
            ("spiffe://other.example".to_owned(), b"{}".to_vec()),
        ];
        Ok::<_, Status>(JwtBundlesResponse {
            bundles: bundles.into(),
        })
    };
    agent.say_bundles(bundle("one"));
    agent.start();
    let domain = TrustDomain::parse("ringwall.local").unwrap();
    let mut keys = jwt_bundle(&agent.socket, &domain, SOON).await.unwrap();
    assert_eq!(&**keys.borrow_and_update(), b"one");
    agent.say_bundles(Ok(JwtBundlesResponse::default()));
    agent.say_bundles(bundle("two"));
    tokio::time::timeout(SOON, keys.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&**keys.borrow_and_update(), b"two");
}
