use std::path::Path;

use ringwall_identity::authority::{Authority, Issued};
use ringwall_secret::{SecretsConfig, private_file};
use time::macros::datetime;

use super::*;
use crate::testing;

const NOW: OffsetDateTime = datetime!(2030-01-01 12:00 UTC);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

fn domain() -> TrustDomain {
    TrustDomain::parse("ringwall.local").unwrap()
}

fn root() -> Authority {
    Authority::generate(&domain(), NOW).unwrap()
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(root: &Authority) -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(files.path().join("secrets")).unwrap();
        files.bundle(root.cert_pem());
        files.put(&root.issue_intermediate(MONTH, NOW).unwrap());
        files
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn bundle(&self, pem: &str) {
        private_file::write(&self.path().join("roots.pem"), pem.as_bytes()).unwrap();
    }

    fn put(&self, issued: &Issued) {
        for (name, text) in [
            ("intermediate-cert", &issued.chain_pem),
            ("intermediate-key", &issued.key_pem),
        ] {
            let path = self.path().join("secrets").join(name);
            private_file::write(&path, text.as_bytes()).unwrap();
        }
    }

    fn open(&self, now: OffsetDateTime) -> Result<Issuer, Error> {
        let config = testing::parse(&testing::config_text(self.path()));
        let directory = self.path().join("secrets");
        let secrets = SecretProvider::open(&SecretsConfig::File { directory }).unwrap();
        Issuer::open(&config.authority, domain(), Arc::new(secrets), now)
    }
}

fn serial(issuer: &Issuer) -> ringwall_identity::Serial {
    certificate::serial_of(&issuer.current().intermediate.chain()[0]).unwrap()
}

#[test]
fn another_intermediate_is_taken_over_without_a_restart() {
    let root = root();
    let files = Files::new(&root);
    let issuer = files.open(NOW).unwrap();
    let changes = issuer.subscribe();
    let first = serial(&issuer);
    assert!(!issuer.refresh(NOW).unwrap());
    let next = root.issue_intermediate(MONTH, NOW).unwrap();
    files.put(&next);
    assert!(issuer.refresh(NOW).unwrap());
    assert!(changes.has_changed().unwrap());
    assert_eq!(serial(&issuer), next.serial);
    assert_ne!(serial(&issuer), first);
    let previous = &issuer.current().previous;
    assert_eq!(previous.len(), 1, "it signs lists for what it has issued");
    for _ in 0..3 {
        files.put(&root.issue_intermediate(MONTH, NOW).unwrap());
        assert!(issuer.refresh(NOW).unwrap());
    }
    assert_eq!(issuer.current().previous.len(), REMEMBERED);
}

#[test]
fn a_bad_intermediate_does_not_take_the_place_of_a_good_one() {
    let (mine, other) = (root(), root());
    let files = Files::new(&mine);
    let issuer = files.open(NOW).unwrap();
    let good = serial(&issuer);
    files.put(&other.issue_intermediate(MONTH, NOW).unwrap());
    let error = issuer.refresh(NOW).unwrap_err().to_string();
    assert!(error.contains("no root of the trust bundle"), "{error}");
    assert!(!issuer.refresh(NOW).unwrap(), "reported once");
    assert_eq!(serial(&issuer), good);
    // A root that is added to the bundle makes it good.
    files.bundle(&format!("{}{}", mine.cert_pem(), other.cert_pem()));
    assert!(issuer.refresh(NOW).unwrap());
    assert_ne!(serial(&issuer), good);
    assert_eq!(issuer.current().roots.len(), 2);
}

#[test]
fn r71_a_start_without_a_good_intermediate_is_refused() {
    let mine = root();
    let files = Files::new(&mine);
    let refusal = |now| files.open(now).err().unwrap().to_string();
    let month_later = NOW + MONTH;
    assert!(refusal(month_later).contains("expired"));
    files.put(&root().issue_intermediate(MONTH, NOW).unwrap());
    assert!(refusal(NOW).contains("no root of the trust bundle"));
    std::fs::remove_file(files.path().join("secrets/intermediate-key")).unwrap();
    assert!(refusal(NOW).contains("intermediate-key"));
    files.bundle("nonsense");
    files.put(&mine.issue_intermediate(MONTH, NOW).unwrap());
    assert!(refusal(NOW).contains("not PEM"));
}

/// A signing certificate of an authority that knows nothing of SPIFFE.
fn external(name: &str, above: Option<(&str, &str)>) -> (String, String) {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
        KeyUsagePurpose,
    };
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = NOW - time::Duration::DAY;
    params.not_after = NOW + time::Duration::days(90);
    let key = KeyPair::generate().unwrap();
    let certificate = match above {
        None => params.self_signed(&key).unwrap(),
        Some((pem, above)) => {
            let above = KeyPair::from_pem(above).unwrap();
            let issuer = Issuer::from_ca_cert_pem(pem, above).unwrap();
            params.signed_by(&key, &issuer).unwrap()
        }
    };
    (certificate.pem(), key.serialize_pem())
}

/// Chain and key are all that an external authority gives us; its root's key is never here.
#[test]
fn an_external_root_needs_nothing_but_chain_and_key() {
    let files = Files::new(&root());
    let (root, root_key) = external("Example root", None);
    let (middle, middle_key) = external("Example middle", Some((&root, &root_key)));
    let (own, own_key) = external("Example mesh", Some((&middle, &middle_key)));
    files.bundle(&root);
    let put = |chain: String| {
        for (name, text) in [
            ("intermediate-cert", chain.as_str()),
            ("intermediate-key", own_key.as_str()),
        ] {
            let path = files.path().join("secrets").join(name);
            private_file::write(&path, text.as_bytes()).unwrap();
        }
    };
    put(own.clone());
    let error = files.open(NOW).err().unwrap().to_string();
    assert!(error.contains("no root of the trust bundle"), "{error}");
    put(format!("{own}{middle}"));
    let issuer = files.open(NOW).unwrap();
    let material = issuer.current();
    let id = ringwall_identity::SpiffeId::workload(&domain(), "orders").unwrap();
    let hour = Duration::from_secs(3600);
    let issued = material.intermediate.issue_svid(&id, &[], hour, NOW);
    assert_eq!(issued.unwrap().0.chain.len(), 3);
}
