//! Clocks that differ and jump. A certificate is backdated by five minutes: a verifier may be behind the
//! control plane by that much. It may be ahead by what is left of the certificate: half of its life
//! at worst, since it is renewed then. Only differences count: a control plane that is ahead is an agent, or a proxy,
//! that is behind.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ringwall_identity::csr::NewKey;
use ringwall_mesh_api::v1::{IssueSvidRequest, WatchTrustRequest};
use time::OffsetDateTime;

use crate::testing::{Running, Site};

fn orders() -> IssueSvidRequest {
    IssueSvidRequest {
        workload: "orders".to_owned(),
        csr: NewKey::generate().unwrap().request,
    }
}

/// Whether a node that joins now, by its own clock, gets and uses its SVID.
async fn a_node_joins(site: &Site, running: &Running) -> bool {
    let soon = OffsetDateTime::now_utc() + time::Duration::HOUR;
    let list = serde_json::json!([{
        "sha256": hex::encode(crate::attestation::tokens::hash("token").0),
        "node": "local", "not_after": soon.unix_timestamp(),
    }]);
    site.secret("join-tokens", &list.to_string());
    let new = NewKey::generate().unwrap();
    let Ok(certificate) = site.join_with(running, "token", &new).await else {
        return false;
    };
    let agent = site.holder(&certificate, &new);
    running.identity(&agent).issue_svid(orders()).await.is_ok()
}

#[tokio::test]
async fn r33_a_control_plane_whose_clock_is_five_minutes_behind_serves() {
    let site = Site::new();
    site.skew.store(-300, Ordering::SeqCst);
    let running = site.start().await;
    assert!(a_node_joins(&site, &running).await);
    running.stop().await;
}

#[tokio::test]
async fn r33_a_clock_that_is_ahead_is_borne_for_the_backdated_minutes() {
    for (ahead, works) in [(280, true), (600, false)] {
        let site = Site::new();
        site.skew.store(ahead, Ordering::SeqCst);
        let running = site.start().await;
        assert_eq!(
            a_node_joins(&site, &running).await,
            works,
            "{ahead} s ahead"
        );
        running.stop().await;
    }
}

/// The clock is set forward, as it seems to a machine that was suspended: the own SVID is renewed at
/// the next look at the clock, and open connections feel nothing.
#[tokio::test]
async fn r33_the_own_svid_is_renewed_after_a_jump_of_the_clock() {
    let site = Site::new();
    site.skew.store(-2500, Ordering::SeqCst);
    let running = site.start().await;
    let identity = running.shell.identity().unwrap().clone();
    let first = identity.not_after();
    let agent = site.caller("agent/local");
    let mut client = running.identity(&agent);
    let watching = client.watch_trust(WatchTrustRequest {}).await;
    let mut trust = watching.unwrap().into_inner();
    trust.message().await.unwrap().unwrap();
    // Beyond half of an hour, with its jitter.
    site.skew.store(-300, Ordering::SeqCst);
    renewed(&identity, first).await;
    assert!(
        client.issue_svid(orders()).await.is_ok(),
        "the open connection"
    );
    let waiting = tokio::time::timeout(Duration::from_millis(100), trust.message());
    if let Ok(told) = waiting.await {
        assert!(told.unwrap().is_some(), "the open stream");
    }
    let mut next = running.identity(&agent);
    assert!(next.issue_svid(orders()).await.is_ok(), "a new connection");
    running.stop().await;
}

async fn renewed(identity: &ringwall_tls::IdentitySource, before: OffsetDateTime) {
    let waiting = async {
        while identity.not_after() == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(3), waiting).await;
    assert!(waited.is_ok(), "not renewed: {before}");
}
