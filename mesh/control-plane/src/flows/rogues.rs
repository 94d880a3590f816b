//! Rogue peers of the mesh listener: expired, revoked, of another root, or a leaf used as authority.

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use ringwall_identity::authority::Authority;
use ringwall_identity::csr::NewKey;
use ringwall_mesh_api::v1::{RevokeRequest, WatchTrustRequest, revoke_request::What};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tonic::Code;

use crate::testing::{Caller, Running, Site, domain, id};

/// Whether the caller gets through the handshake: then it is answered, whatever the answer.
async fn gets_in(running: &Running, caller: &Caller) -> bool {
    let mut client = running.identity(caller);
    match client.watch_trust(WatchTrustRequest {}).await {
        Ok(_) => true,
        Err(status) if status.code() == Code::PermissionDenied => true,
        // What the channel says of a connection that was refused.
        Err(status) => {
            assert!(
                matches!(
                    status.code(),
                    Code::Unavailable | Code::Unknown | Code::Internal
                ),
                "{status}"
            );
            false
        }
    }
}

#[tokio::test]
async fn attack_rogue_peers_do_not_get_in() {
    let site = Site::new();
    let running = site.start().await;
    let now = OffsetDateTime::now_utc();
    assert!(gets_in(&running, &site.caller("agent/local")).await);
    assert!(gets_in(&running, &site.caller("orders")).await);

    // Of the same name, below another root.
    let other = Site::below(Authority::generate(&domain(), now).unwrap());
    let (certified, new) = other.certified("agent/local", now);
    let rogue = site.caller_with(&certified.chain, &new.pkcs8);
    assert!(!gets_in(&running, &rogue).await, "another root");

    // A workload's certificate, used as an authority for an agent's.
    let (leaf, leaf_key) = site.certified("orders", now);
    let forged = forge_below(&leaf.chain[0], &leaf_key, "agent/local");
    let mut chain = vec![forged.0];
    chain.extend(leaf.chain.clone());
    let rogue = site.caller_with(&chain, &forged.1.pkcs8);
    assert!(!gets_in(&running, &rogue).await, "a leaf as authority");

    // Without the way up to the root.
    let (certified, new) = site.certified("agent/local", now);
    let rogue = site.caller_with(&certified.chain[..1], &new.pkcs8);
    assert!(!gets_in(&running, &rogue).await, "no way up");
    running.stop().await;
}

#[tokio::test]
async fn attack_an_expired_certificate_does_not_get_in() {
    let site = Site::new();
    let running = site.start().await;
    // Valid while the client is made, over when it is shown.
    let almost_an_hour_ago = OffsetDateTime::now_utc() - time::Duration::seconds(3600 - 2);
    let caller = site.caller_since("agent/local", almost_an_hour_ago);
    // The last second belongs to the certificate (RFC 5280 §4.1.2.5).
    while OffsetDateTime::now_utc() < caller.source.not_after() + time::Duration::SECOND {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(!gets_in(&running, &caller).await);
    running.stop().await;
}

#[tokio::test]
async fn attack_a_revoked_certificate_does_not_get_in() {
    let site = Site::new();
    let running = site.start().await;
    let (certified, new) = site.certified("agent/local", OffsetDateTime::now_utc());
    let serial = certified.serial.clone();
    let caller = site.caller_with(&certified.chain, &new.pkcs8);
    assert!(gets_in(&running, &caller).await);
    let mut operator = running.operator(&site.caller("ringwall"));
    let asked = RevokeRequest {
        what: Some(What::Serial(serial.as_bytes().to_vec())),
        reason: String::new(),
    };
    operator.revoke(asked).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!gets_in(&running, &caller).await);
    assert!(
        gets_in(&running, &site.caller("agent/local")).await,
        "only that one"
    );
    running.stop().await;
}

/// A certificate for `path` that the holder of `leaf` has signed by itself.
fn forge_below(
    leaf: &CertificateDer<'static>,
    leaf_key: &NewKey,
    path: &str,
) -> (CertificateDer<'static>, NewKey) {
    let key = KeyPair::try_from(leaf_key.pkcs8.as_slice()).unwrap();
    let issuer = Issuer::from_ca_cert_der(leaf, key).unwrap();
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::now_utc() - time::Duration::MINUTE;
    params.not_after = OffsetDateTime::now_utc() + time::Duration::MINUTE;
    params.subject_alt_names = vec![SanType::URI(id(path).as_str().try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let own = NewKey::generate().unwrap();
    let own_key = KeyPair::try_from(own.pkcs8.as_slice()).unwrap();
    let forged = params.signed_by(&own_key, &issuer).unwrap();
    (forged.der().clone(), own)
}
