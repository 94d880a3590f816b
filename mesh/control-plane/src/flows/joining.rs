//! Nodes join by a token, once.

use ringwall_identity::csr::NewKey;
use ringwall_identity::svid::Svid;
use ringwall_mesh_api::v1::attestation_client::AttestationClient;
use ringwall_mesh_api::v1::identity_client::IdentityClient;
use ringwall_mesh_api::v1::{
    CreateJoinTokenRequest, JoinRequest, RenewAgentRequest, WatchTrustRequest,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use time::OffsetDateTime;
use tonic::Code;

use crate::attestation::tokens::hash;
use crate::testing::{Site, id};

#[tokio::test]
async fn a_node_joins_and_renews_by_what_it_got() {
    let site = Site::new();
    let running = site.start().await;
    let token = site.join_token(&running, "local").await;
    let new = NewKey::generate().unwrap();
    let certificate = site.join_with(&running, &token, &new).await.unwrap();
    let svid = Svid::from_der(&certificate.chain[0]).unwrap();
    assert_eq!(svid.id, id("agent/local"));
    assert!(svid.not_after <= OffsetDateTime::now_utc() + time::Duration::HOUR);
    assert_eq!(svid.not_after.unix_timestamp(), certificate.not_after);
    assert_eq!(certificate.chain.len(), 2, "leaf and intermediate");
    assert_eq!(certificate.bundle, [site.roots()[0].to_vec()]);
    let agent = site.holder(&certificate, &new);
    let next = NewKey::generate().unwrap();
    let asked = RenewAgentRequest {
        csr: next.request.clone(),
    };
    let renewed = running.identity(&agent).renew_agent(asked).await.unwrap();
    let agent = site.holder(&renewed.into_inner(), &next);
    assert_eq!(agent.source.spiffe_id(), id("agent/local"));
    running.stop().await;
}

/// Unknown, used and expired tokens get one answer, letter by letter.
#[tokio::test]
async fn attack_a_token_that_is_not_good_says_nothing_about_itself() {
    let site = Site::new();
    let running = site.start().await;
    let new = NewKey::generate().unwrap();
    let used = site.join_token(&running, "local").await;
    site.join_with(&running, &used, &new).await.unwrap();
    let expired = site.join_token(&running, "local").await;
    let mut answers = Vec::new();
    for token in [used.as_str(), "unknown", ""] {
        answers.push(site.join_with(&running, token, &new).await.unwrap_err());
    }
    site.skew.store(601, Ordering::SeqCst);
    answers.push(site.join_with(&running, &expired, &new).await.unwrap_err());
    for answer in answers {
        assert_eq!(answer.code(), Code::Unauthenticated);
        assert_eq!(answer.message(), "the join token is refused");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_race_on_a_join_token_has_one_winner() {
    let mut site = Site::new();
    site.text = site.text.replace(
        "nodes: [local, other]",
        "nodes: [local, other]\njoin: { burst: 400 }",
    );
    let running = site.start().await;
    let token = site.join_token(&running, "local").await;
    let site = Arc::new(site);
    let new = Arc::new(NewKey::generate().unwrap());
    // Forty connections with five racers each.
    let channels: Vec<_> = (0..40).map(|_| site.attestation(&running)).collect();
    let racers: Vec<_> = (0..200)
        .map(|number| {
            let mut client = channels[number % channels.len()].clone();
            let asked = JoinRequest {
                token: token.clone(),
                csr: new.request.clone(),
            };
            tokio::spawn(async move { client.join(asked).await })
        })
        .collect();
    let (mut won, mut refused) = (0, 0);
    for racer in racers {
        match racer.await.unwrap() {
            Ok(_) => won += 1,
            Err(status) if status.code() == Code::Unauthenticated => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((won, refused), (1, 199));
    running.stop().await;
}

#[tokio::test]
async fn attack_replay_of_a_join_token_after_a_crash_is_refused() {
    let site = Site::new();
    let running = site.start().await;
    let token = site.join_token(&running, "local").await;
    let unused = site.join_token(&running, "local").await;
    let new = NewKey::generate().unwrap();
    site.join_with(&running, &token, &new).await.unwrap();
    running.kill();
    let running = site.start().await;
    let replay = site.join_with(&running, &token, &new).await.unwrap_err();
    assert_eq!(replay.code(), Code::Unauthenticated);
    // What was not used is still good.
    site.join_with(&running, &unused, &new).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_bad_request_costs_no_token() {
    let site = Site::new();
    let running = site.start().await;
    let token = site.join_token(&running, "local").await;
    let asked = JoinRequest {
        token: token.clone(),
        csr: b"nonsense".to_vec(),
    };
    let refused = site.attestation(&running).join(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let new = NewKey::generate().unwrap();
    site.join_with(&running, &token, &new).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn strangers_may_not_try_for_ever() {
    let mut site = Site::new();
    site.text = site.text.replace(
        "nodes: [local, other]",
        "nodes: [local, other]\njoin: { burst: 3 }",
    );
    let running = site.start().await;
    let new = NewKey::generate().unwrap();
    let mut codes = Vec::new();
    for _ in 0..4 {
        let refused = site.join_with(&running, "guess", &new).await.unwrap_err();
        codes.push(refused.code());
    }
    assert_eq!(codes[..3], [Code::Unauthenticated; 3]);
    assert_eq!(codes[3], Code::ResourceExhausted);
    running.stop().await;
}

/// The supervisor's tokens are hashes in a secret; a node that is not declared joins by none.
#[tokio::test]
async fn tokens_of_the_secret_are_for_declared_nodes() {
    let site = Site::new();
    let running = site.start().await;
    let soon = (OffsetDateTime::now_utc() + time::Duration::MINUTE).unix_timestamp();
    let list: Vec<_> = [("first", "other"), ("second", "ghost")]
        .map(|(token, node)| {
            serde_json::json!({
                "sha256": hex::encode(hash(token).0), "node": node, "not_after": soon,
            })
        })
        .to_vec();
    site.secret("join-tokens", &serde_json::Value::from(list).to_string());
    let new = NewKey::generate().unwrap();
    let certificate = site.join_with(&running, "first", &new).await.unwrap();
    let svid = Svid::from_der(&certificate.chain[0]).unwrap();
    assert_eq!(svid.id, id("agent/other"));
    let refused = site.join_with(&running, "second", &new).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    running.stop().await;
}

#[tokio::test]
async fn only_the_operator_makes_tokens_and_only_for_declared_nodes() {
    let site = Site::new();
    let running = site.start().await;
    let ask = |node: &str, ttl_seconds| CreateJoinTokenRequest {
        node: node.to_owned(),
        ttl_seconds,
    };
    for name in ["orders", "agent/local", "control-plane", "ringwall/x"] {
        let caller = site.caller(name);
        let mut client = running.operator(&caller);
        let refused = client.create_join_token(ask("local", 0)).await;
        let code = refused.unwrap_err().code();
        assert_eq!(code, Code::PermissionDenied, "{name}");
    }
    let mut operator = running.operator(&site.caller("ringwall"));
    for (node, ttl, code) in [
        ("ghost", 0, Code::PermissionDenied),
        ("local", 86_401, Code::InvalidArgument),
    ] {
        let refused = operator.create_join_token(ask(node, ttl)).await;
        assert_eq!(refused.unwrap_err().code(), code);
    }
    let made = operator
        .create_join_token(ask("local", 86_400))
        .await
        .unwrap();
    let life = made.into_inner().not_after - OffsetDateTime::now_utc().unix_timestamp();
    assert!((86_395..=86_400).contains(&life), "{life}");
    running.stop().await;
}

/// The bootstrap listener has one method, and that method is nowhere else.
#[tokio::test]
async fn each_listener_serves_only_its_own() {
    let site = Site::new();
    let running = site.start().await;
    let mut identity = IdentityClient::new(site.stranger(running.bootstrap));
    let refused = identity
        .watch_trust(WatchTrustRequest {})
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let agent = site.caller("agent/local");
    let asked = JoinRequest::default();
    let mut join = AttestationClient::new(running.channel(&agent));
    let refused = join.join(asked).await.unwrap_err();
    assert!(refused.message().contains("404"), "{refused}");
    // Without a certificate nobody gets past the handshake of the mesh listener.
    let mut stranger = IdentityClient::new(site.stranger(running.mesh));
    let refused = stranger
        .watch_trust(WatchTrustRequest {})
        .await
        .unwrap_err();
    assert_ne!(refused.code(), Code::PermissionDenied, "{refused}");
    running.stop().await;
}
