//! The intermediate over its life, and one whose root is somebody else's.

use ringwall_identity::SpiffeId;

use super::*;
use crate::composition::Profile;
use crate::provision::{self, authority, fixture::Place};

fn provision(place: &Place, external: &ExternalRoot) -> Result<(), CliError> {
    let choices = provision::Choices {
        external: external.clone(),
        ..provision::Choices::default()
    };
    provision::run(&place.composition, &place.site, Profile::Demo, &choices).map(drop)
}

fn chain(place: &Place) -> String {
    let chain = secrets::read(&place.state, "control-plane", CHAIN).unwrap();
    chain.unwrap().expose().clone()
}

#[test]
fn it_is_kept_until_half_of_its_life_is_over() {
    let place = Place::new();
    provision(&place, &ExternalRoot::default()).unwrap();
    let root = authority::ensure(&place.state, "ringwall.local").unwrap();
    let (first, now) = (chain(&place), OffsetDateTime::now_utc());
    let ensure = |at| ensure(&place.composition, &place.state, Some(&root), at).unwrap();
    assert!(!ensure(now + LIFE / 3));
    assert_eq!(chain(&place), first);
    assert!(ensure(now + LIFE / 2));
    assert_ne!(chain(&place), first);
}

#[test]
fn the_operator_is_certified_by_it_and_the_root_s_key_stays_sealed() {
    let place = Place::new();
    provision(&place, &ExternalRoot::default()).unwrap();
    let identity = place.state.identity("ringwall");
    let pem = std::fs::read_to_string(identity.join("svid.pem")).unwrap();
    assert!(
        pem.contains(chain(&place).trim()),
        "the intermediate follows the leaf"
    );
    ringwall_tls::install_crypto_provider();
    let source = ringwall_tls::IdentitySource::load(&identity).unwrap();
    let id = SpiffeId::parse("spiffe://ringwall.local/ringwall").unwrap();
    assert_eq!(source.spiffe_id(), id);
    let sealed = std::fs::read(place.state.root_key()).unwrap();
    assert!(!String::from_utf8_lossy(&sealed).contains("PRIVATE KEY"));
}

/// An authority of somebody else's with its three files.
fn external(folder: &Path) -> ExternalRoot {
    let domain = TrustDomain::parse("ringwall.local").unwrap();
    let now = OffsetDateTime::now_utc();
    let root = Authority::generate(&domain, now).unwrap();
    let issued = root.issue_intermediate(LIFE, now).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        files::write(&path, text.as_bytes(), 0o600, None).unwrap();
        Some(path)
    };
    ExternalRoot {
        external_root: write("root.pem", root.cert_pem()),
        intermediate_chain: write("chain.pem", &issued.chain_pem),
        intermediate_key: write("key.pem", &issued.key_pem),
    }
}

#[test]
fn an_external_root_is_taken_over_and_no_root_key_is_made() {
    let (place, folder) = (Place::new(), tempfile::tempdir().unwrap());
    provision(&place, &external(folder.path())).unwrap();
    assert!(is_external(&place.state));
    assert!(!place.state.root_key().exists());
    // The next start needs no option.
    provision(&place, &ExternalRoot::default()).unwrap();
    let given = std::fs::read_to_string(folder.path().join("root.pem")).unwrap();
    assert_eq!(
        std::fs::read_to_string(place.state.ca_bundle()).unwrap(),
        given
    );
}

#[test]
fn a_chain_of_another_root_is_refused_and_nothing_is_changed() {
    let (place, folder) = (Place::new(), tempfile::tempdir().unwrap());
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    for path in [&one, &other] {
        std::fs::create_dir(path).unwrap();
    }
    let mixed = ExternalRoot {
        external_root: external(&other).external_root,
        ..external(&one)
    };
    provision(&place, &mixed).unwrap_err();
    assert!(!place.state.ca_bundle().exists());
    assert!(
        secrets::read(&place.state, "control-plane", CHAIN)
            .unwrap()
            .is_none()
    );
}

#[test]
fn an_authority_of_ours_is_not_exchanged_for_another() {
    let (place, folder) = (Place::new(), tempfile::tempdir().unwrap());
    provision(&place, &ExternalRoot::default()).unwrap();
    let error = provision(&place, &external(folder.path())).unwrap_err();
    assert!(
        error.to_string().contains("has an authority of its own"),
        "{error}"
    );
}
