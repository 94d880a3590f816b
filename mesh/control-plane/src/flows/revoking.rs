//! R34, the authority's part: revocations reach agents within a second, and end what lives.

use std::time::{Duration, Instant};

use ringwall_identity::certificate::{serial_of, spki_sha256_of};
use ringwall_identity::csr::NewKey;
use ringwall_mesh_api::v1::{
    DescribeRequest, IssueSvidRequest, RestoreRequest, RevokeRequest, Trust, WatchTrustRequest,
    revoke_request::What,
};
use tonic::{Code, Status, Streaming};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::testing::{Caller, Running, Site, id};

const SECOND: Duration = Duration::from_secs(1);

async fn watch(running: &Running, agent: &Caller) -> Streaming<Trust> {
    let mut client = running.identity(agent);
    let watching = client.watch_trust(WatchTrustRequest {}).await;
    let mut trust = watching.unwrap().into_inner();
    trust.message().await.unwrap().unwrap();
    trust
}

async fn revoke(site: &Site, running: &Running, what: What) -> Result<u64, Status> {
    let asked = RevokeRequest {
        what: Some(what),
        reason: "stolen".to_owned(),
    };
    let mut operator = running.operator(&site.caller("ringwall"));
    Ok(operator.revoke(asked).await?.into_inner().revision)
}

fn orders() -> IssueSvidRequest {
    IssueSvidRequest {
        workload: "orders".to_owned(),
        csr: NewKey::generate().unwrap().request,
    }
}

#[tokio::test]
async fn r34_a_revocation_reaches_agents_within_a_second_and_is_durable() {
    let site = Site::new();
    let running = site.start().await;
    let agent = site.join(&running, "local").await;
    let mut client = running.identity(&agent);
    let issued = client.issue_svid(orders()).await.unwrap().into_inner();
    let serial = serial_of(&issued.chain[0]).unwrap();
    let key = spki_sha256_of(&issued.chain[0]).unwrap();
    let mut trust = watch(&running, &agent).await;

    let asked = Instant::now();
    let what = What::SpiffeId(id("orders").to_string());
    let revision = revoke(&site, &running, what).await.unwrap();
    let told = trust.message().await.unwrap().unwrap().revocations.unwrap();
    let took = asked.elapsed();
    println!("revocation to agent took {took:?}");
    assert!(took < SECOND, "{took:?}");
    assert_eq!(told.revision, revision);
    assert_eq!(told.spiffe_ids, [id("orders").to_string()]);
    // The list names the certificate that the id has, for those that know lists alone.
    assert_eq!(listed(&told.crl), [serial.as_bytes().to_vec()]);
    let refused = client.issue_svid(orders()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    revoke(&site, &running, What::Serial(serial.as_bytes().to_vec()))
        .await
        .unwrap();
    revoke(&site, &running, What::SpkiSha256(key.to_vec()))
        .await
        .unwrap();
    running.kill();
    let running = site.start().await;
    let mut client = running.identity(&agent);
    let mut trust = client
        .watch_trust(WatchTrustRequest {})
        .await
        .unwrap()
        .into_inner();
    let told = trust.message().await.unwrap().unwrap().revocations.unwrap();
    assert_eq!(told.spiffe_ids.len(), 1);
    assert_eq!(told.serials, [serial.as_bytes().to_vec()]);
    assert_eq!(told.spki_sha256, [key.to_vec()]);

    let mut operator = running.operator(&site.caller("ringwall"));
    let lift = |id: &str| RestoreRequest {
        spiffe_id: id.to_owned(),
    };
    operator.restore(lift(id("orders").as_str())).await.unwrap();
    let told = trust.message().await.unwrap().unwrap().revocations.unwrap();
    assert!(told.spiffe_ids.is_empty());
    assert_eq!(told.serials.len(), 1, "certificates and keys stay revoked");
    assert!(client.issue_svid(orders()).await.is_ok());
    let missing = operator.restore(lift(id("orders").as_str())).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    let described = operator
        .describe(DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(described.revoked, 2);
    assert!(described.is_leader && !described.external_root && described.issued >= 3);
    running.stop().await;
}

/// The stream of an agent that is revoked ends, and so does every connection that it has.
#[tokio::test]
async fn r34_a_revoked_agent_is_cut_off_within_a_second() {
    for by_serial in [false, true] {
        let site = Site::new();
        let running = site.start().await;
        let token = site.join_token(&running, "local").await;
        let new = NewKey::generate().unwrap();
        let certificate = site.join_with(&running, &token, &new).await.unwrap();
        let agent = site.holder(&certificate, &new);
        let mut trust = watch(&running, &agent).await;
        let mut client = running.identity(&agent);
        client.issue_svid(orders()).await.unwrap();
        let what = if by_serial {
            let serial = serial_of(&certificate.chain[0]).unwrap();
            What::Serial(serial.as_bytes().to_vec())
        } else {
            What::SpiffeId(id("agent/local").to_string())
        };
        let asked = Instant::now();
        revoke(&site, &running, what).await.unwrap();
        while let Ok(Some(_)) = trust.message().await {}
        let took = asked.elapsed();
        println!("cut of a live stream took {took:?} (by serial: {by_serial})");
        assert!(took < SECOND, "{took:?}");
        // On the old connection or a new one: nothing.
        assert!(client.issue_svid(orders()).await.is_err());
        assert!(running.identity(&agent).issue_svid(orders()).await.is_err());
        running.stop().await;
    }
}

#[tokio::test]
async fn revocations_are_the_operators_and_make_sense() {
    let site = Site::new();
    let running = site.start().await;
    let ask = |what: Option<What>, reason: &str| RevokeRequest {
        what,
        reason: reason.to_owned(),
    };
    let orders = || Some(What::SpiffeId(id("orders").to_string()));
    for name in ["orders", "agent/local"] {
        let mut client = running.operator(&site.caller(name));
        let refused = client.revoke(ask(orders(), "")).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        let refused = client.describe(DescribeRequest {}).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        let lift = RestoreRequest::default();
        let refused = client.restore(lift).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    let mut operator = running.operator(&site.caller("ringwall"));
    for what in [
        None,
        Some(What::SpiffeId("nonsense".to_owned())),
        Some(What::SpiffeId("spiffe://other.example/orders".to_owned())),
        Some(What::SpiffeId("spiffe://ringwall.local".to_owned())),
        Some(What::SpiffeId(id("ringwall").to_string())),
        Some(What::SpiffeId(id("control-plane").to_string())),
        Some(What::Serial(Vec::new())),
        Some(What::Serial(vec![1; 21])),
        Some(What::SpkiSha256(vec![1; 31])),
    ] {
        let refused = operator.revoke(ask(what.clone(), "")).await;
        let code = refused.unwrap_err().code();
        assert_eq!(code, Code::InvalidArgument, "{what:?}");
    }
    for reason in ["two\nlines", &"x".repeat(201)] {
        let refused = operator.revoke(ask(orders(), reason)).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
    running.stop().await;
}

/// The serials of a revocation list.
fn listed(der: &[u8]) -> Vec<Vec<u8>> {
    let (_, list) = CertificateRevocationList::from_der(der).unwrap();
    list.iter_revoked_certificates()
        .map(|line| line.raw_serial().to_vec())
        .collect()
}
