//! Which trust is taken over, and what is left of it after a restart.

use super::*;
use crate::fixture::{Plane, Wall, domain, id, registration};

fn follower(state: &Path, wall: &Wall) -> Follower {
    Follower::open(&domain(), state, wall.clock())
}

#[tokio::test]
async fn r32_the_last_good_trust_survives_a_restart_and_a_broken_push() {
    let (wall, state) = (Wall::new(), tempfile::tempdir().unwrap());
    let plane = Plane::new(&wall);
    let first = follower(state.path(), &wall);
    assert!(first.subscribe().borrow().is_none());
    first.take(plane.trust(1, &["orders"]));
    let mut rootless = plane.trust(2, &["payments"]);
    rootless.bundle.clear();
    first.take(rootless);
    let mut mixed = plane.trust(3, &["payments"]);
    mixed.registrations[0].spiffe_id = id("orders").to_string();
    first.take(mixed);
    let mut foreign = plane.trust(4, &[]);
    foreign.registrations = vec![registration("payments")];
    foreign.registrations[0].spiffe_id = "spiffe://other.example/payments".into();
    first.take(foreign);
    for kept in [first.subscribe(), follower(state.path(), &wall).subscribe()] {
        let kept = kept.borrow().clone().unwrap();
        assert!(kept.workload("orders").is_some());
        assert!(kept.workload("payments").is_none());
        assert!(kept.verifying_keys().is_some());
    }
    std::fs::write(state.path().join(FILE), b"damaged").unwrap();
    assert!(follower(state.path(), &wall).subscribe().borrow().is_none());
}

#[tokio::test]
async fn r34_revocations_name_certificates_by_serial_and_by_key() {
    let wall = Wall::new();
    let plane = Plane::new(&wall);
    let root = plane.bundle().remove(0);
    let trust = |message| Trust::new(&domain(), message).unwrap();
    let none = trust(plane.trust(1, &[]));
    assert!(!none.revokes(&root));
    assert!(none.lists().is_empty(), "a list of nobody is not handed on");
    let by_serial = trust(plane.revoking(plane.trust(1, &[]), &[&root]));
    assert!(by_serial.revokes(&root));
    assert_eq!(by_serial.lists().len(), 1);
    let mut by_key = plane.trust(1, &[]);
    let key = ringwall_identity::certificate::spki_sha256_of(&root).unwrap();
    by_key.revocations.as_mut().unwrap().spki_sha256 = vec![key.to_vec()];
    assert!(trust(by_key).revokes(&root));
    assert!(!trust(plane.trust(1, &[])).revokes(b"no certificate"));
}

/// Whoever knows lists alone must get them too when a name or a key is revoked: they name its
/// certificates. And of every intermediate, since the certificates of the last one are around.
#[tokio::test]
async fn r34_a_revoked_name_or_key_hands_all_lists_on() {
    let wall = Wall::new();
    let plane = Plane::new(&wall);
    let told = |change: fn(&mut v1::Revocations)| {
        let mut message = plane.trust(1, &["orders"]);
        let revocations = message.revocations.as_mut().unwrap();
        revocations.crl = b"of this intermediate".to_vec();
        revocations.previous_crls = vec![b"of the last one".to_vec()];
        change(revocations);
        Trust::new(&domain(), message).unwrap().lists().len()
    };
    assert_eq!(told(|_| ()), 0);
    assert_eq!(told(|some| some.serials = vec![vec![1]]), 2);
    assert_eq!(told(|some| some.spki_sha256 = vec![vec![1; 32]]), 2);
    let by_name = |some: &mut v1::Revocations| {
        some.spiffe_ids = vec![id("orders").to_string()];
    };
    assert_eq!(told(by_name), 2);
}
