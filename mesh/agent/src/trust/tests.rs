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
    assert_eq!(none.crl(), None, "a list of nobody is not handed on");
    let by_serial = trust(plane.revoking(plane.trust(1, &[]), &[&root]));
    assert!(by_serial.revokes(&root));
    assert!(by_serial.crl().is_some());
    let mut by_key = plane.trust(1, &[]);
    let key = ringwall_identity::certificate::spki_sha256_of(&root).unwrap();
    by_key.revocations.as_mut().unwrap().spki_sha256 = vec![key.to_vec()];
    assert!(trust(by_key).revokes(&root));
    assert!(!trust(plane.trust(1, &[])).revokes(b"no certificate"));
}
