//! Two replicas over one real PostgreSQL, which they reach by certificates of their own making.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringwall_identity::authority::Authority;
use ringwall_identity::csr::NewKey;
use ringwall_mesh_api::v1::{
    AuthorityDescription, DescribeRequest, IssueJwtSvidRequest, IssueSvidRequest, RevokeRequest,
    WatchTrustRequest, revoke_request::What,
};
use ringwall_store::testing::Server;
use ringwall_token::{JwkSet, VerifyingKeys, verify_bytes};

use crate::testing::{Running, Site, id};

/// A site whose state is in a new database of `server`.
pub(super) fn site(server: &Arc<Server>) -> Site {
    let root = server.authority();
    let mut site = Site::below(Authority::load(root.cert_pem(), root.key_pem()).unwrap());
    let folder = site.path().display().to_string();
    let postgres = format!(
        "postgres: {{ address: '127.0.0.1:{}', server_name: postgres, database: {}, user: control-plane, tls: '{folder}/state/postgres' }}",
        server.port(),
        server.create_database(),
    );
    let embedded = format!("embedded: {folder}/control-plane.db");
    site.text = site.text.replace(&embedded, &postgres);
    site
}

fn orders() -> IssueSvidRequest {
    IssueSvidRequest {
        workload: "orders".to_owned(),
        csr: NewKey::generate().unwrap().request,
    }
}

async fn describe(site: &Site, running: &Running) -> AuthorityDescription {
    let mut operator = running.operator(&site.caller("ringwall"));
    operator
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_tokens_keys_and_revocations() {
    let server = Server::shared("control-plane");
    let site = site(&server);
    let (first, second) = (site.start_as("first").await, site.start_as("second").await);
    // A token that one has made is good at the other, once.
    let token = site.join_token(&first, "local").await;
    let new = NewKey::generate().unwrap();
    let certificate = site.join_with(&second, &token, &new).await.unwrap();
    assert!(site.join_with(&first, &token, &new).await.is_err());
    let agent = site.holder(&certificate, &new);
    for running in [&first, &second] {
        running.identity(&agent).issue_svid(orders()).await.unwrap();
    }
    let asked = IssueJwtSvidRequest {
        workload: "orders".to_owned(),
        audience: vec!["payments".to_owned()],
    };
    let token = first.identity(&agent).issue_jwt_svid(asked).await.unwrap();
    let mut client = second.identity(&agent);
    let watching = client.watch_trust(WatchTrustRequest {}).await;
    let mut trust = watching.unwrap().into_inner();
    let told = trust.message().await.unwrap().unwrap();
    let keys: JwkSet = serde_json::from_slice(&told.jwt_keys).unwrap();
    let keys = VerifyingKeys::from_jwks(&keys).unwrap();
    verify_bytes(&token.into_inner().token, &keys, "JWT", 4096).unwrap();

    // What is revoked at one, the other's agents know within a second.
    let asked = RevokeRequest {
        what: Some(What::SpiffeId(id("orders").to_string())),
        reason: "stolen".to_owned(),
    };
    let begun = Instant::now();
    let mut operator = first.operator(&site.caller("ringwall"));
    operator.revoke(asked).await.unwrap();
    loop {
        let told = trust.message().await.unwrap().unwrap();
        if !told.revocations.unwrap().spiffe_ids.is_empty() {
            break;
        }
    }
    let took = begun.elapsed();
    println!("revocation over replicas took {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    for running in [&first, &second] {
        assert!(running.identity(&agent).issue_svid(orders()).await.is_err());
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_dies_the_other_replica_issues_on_and_leads_within_ten_seconds() {
    let server = Server::shared("control-plane");
    let site = site(&server);
    let first = site.start_as("first").await;
    let agent = site.join(&first, "local").await;
    assert!(describe(&site, &first).await.is_leader);
    let second = site.start_as("second").await;
    let seen = describe(&site, &second).await;
    assert!(!seen.is_leader);
    assert!(
        seen.leader.starts_with(&first.mesh.to_string()),
        "{}",
        seen.leader
    );
    first.kill();
    let died = Instant::now();
    let mut client = second.identity(&agent);
    while !describe(&site, &second).await.is_leader {
        client.issue_svid(orders()).await.unwrap();
        assert!(died.elapsed() < Duration::from_secs(10), "no leader");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("failover of control planes took {:?}", died.elapsed());
    second.stop().await;
}
