use super::*;
use crate::authority::{Authority, Issued};
use crate::certificate::{serial_of, spki_sha256_of};
use crate::svid::Svid;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose, SanType,
};
use time::macros::datetime;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

const NOW: OffsetDateTime = datetime!(2030-01-01 12:00 UTC);
const HOUR: Duration = Duration::from_secs(3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

fn domain() -> TrustDomain {
    TrustDomain::parse("ringwall.local").unwrap()
}

fn orders() -> SpiffeId {
    SpiffeId::parse("spiffe://ringwall.local/orders").unwrap()
}

fn root() -> Authority {
    Authority::generate(&domain(), NOW).unwrap()
}

fn request() -> Request {
    Request::from_der(&NewKey::generate().unwrap().request).unwrap()
}

fn load(issued: &Issued, root: &Authority, now: OffsetDateTime) -> Result<Intermediate, String> {
    let roots = from_pem(root.cert_pem()).unwrap();
    Intermediate::load(&domain(), &issued.chain_pem, &issued.key_pem, &roots, now)
        .map_err(|error| error.to_string())
}

fn intermediate() -> (Authority, Intermediate) {
    let root = root();
    let issued = root.issue_intermediate(MONTH, NOW).unwrap();
    let intermediate = load(&issued, &root, NOW).unwrap();
    (root, intermediate)
}

/// A signing certificate as an external authority makes it: no SPIFFE ID.
fn foreign(
    name: &str,
    path_length: Option<u8>,
    above: Option<(&str, &str)>,
    end: OffsetDateTime,
) -> (String, String) {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(match path_length {
        Some(length) => BasicConstraints::Constrained(length),
        None => BasicConstraints::Unconstrained,
    });
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = NOW - time::Duration::DAY;
    params.not_after = end;
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let certificate = match above {
        None => params.self_signed(&key).unwrap(),
        Some((pem, above)) => {
            let issuer = Issuer::from_ca_cert_pem(pem, KeyPair::from_pem(above).unwrap()).unwrap();
            params.signed_by(&key, &issuer).unwrap()
        }
    };
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn a_request_s_key_becomes_an_svid_with_the_way_up() {
    let (root, intermediate) = intermediate();
    let request = request();
    let dns = ["orders".to_owned()];
    let certified = intermediate
        .certify_svid(&request, &orders(), &dns, HOUR, NOW)
        .unwrap();
    assert_eq!(certified.chain.len(), 2);
    let leaf = &certified.chain[0];
    let svid = Svid::from_der(leaf).unwrap();
    assert_eq!(svid.id, orders());
    assert_eq!(svid.not_before, NOW - BACKDATE);
    assert_eq!(svid.not_after, NOW + HOUR);
    assert_eq!(certified.not_after, svid.not_after);
    assert_eq!(serial_of(leaf).unwrap(), certified.serial);
    assert_eq!(spki_sha256_of(leaf).unwrap(), request.spki_sha256());
    assert_eq!(certified.spki_sha256, request.spki_sha256());
    let own = parse(&certified.chain[1]).unwrap();
    assert!(signed_by(&parse(leaf).unwrap(), &own));
    let roots = from_pem(root.cert_pem()).unwrap();
    assert!(signed_by(&own, &parse(&roots[0]).unwrap()));
    assert_eq!(path_length(&own), Some(0));
}

/// What a request asks for beyond its key is not given: neither names nor the powers of an authority.
#[test]
fn attack_a_request_cannot_name_itself() {
    let (_, intermediate) = intermediate();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(
        "spiffe://ringwall.local/payments".try_into().unwrap(),
    )];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let der = params.serialize_request(&key).unwrap().der().to_vec();
    let request = Request::from_der(&der).unwrap();
    let certified = intermediate
        .certify_svid(&request, &orders(), &[], HOUR, NOW)
        .unwrap();
    assert_eq!(Svid::from_der(&certified.chain[0]).unwrap().id, orders());
}

#[test]
fn servers_and_roles_are_certified_too() {
    let (_, intermediate) = intermediate();
    let server = intermediate
        .certify_server(&request(), &["postgres".to_owned()], &[], HOUR, NOW)
        .unwrap();
    assert!(Svid::from_der(&server.chain[0]).is_err());
    let role = intermediate
        .certify_client(&request(), "orders", HOUR, NOW)
        .unwrap();
    let leaf = parse(&role.chain[0]).unwrap();
    let name = leaf.subject().iter_common_name().next().unwrap();
    assert_eq!(name.as_str().unwrap(), "orders");
    let stranger = SpiffeId::parse("spiffe://other.example/orders").unwrap();
    let refused = intermediate.certify_svid(&request(), &stranger, &[], HOUR, NOW);
    assert!(matches!(
        refused,
        Err(IdentityError::ForeignTrustDomain { .. })
    ));
}

#[test]
fn the_own_svid_fits_its_key() {
    let (_, intermediate) = intermediate();
    let id = SpiffeId::parse("spiffe://ringwall.local/control-plane").unwrap();
    let (certified, key) = intermediate.issue_svid(&id, &[], HOUR, NOW).unwrap();
    let key = KeyPair::try_from(key.as_slice()).unwrap();
    let leaf = parse(&certified.chain[0]).unwrap();
    assert_eq!(
        leaf.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw()
    );
}

#[test]
fn nothing_outlives_the_intermediate() {
    let root = root();
    let issued = root.issue_intermediate(HOUR, NOW).unwrap();
    let short = load(&issued, &root, NOW).unwrap();
    let certified = short
        .certify_svid(&request(), &orders(), &[], MONTH, NOW)
        .unwrap();
    assert_eq!(certified.not_after, short.not_after());
    let late = short.certify_svid(&request(), &orders(), &[], HOUR, NOW + HOUR);
    assert!(matches!(late, Err(IdentityError::AuthorityExpired(_))));
}

#[test]
fn r71_an_expired_or_future_intermediate_is_refused() {
    let root = root();
    let issued = root.issue_intermediate(HOUR, NOW).unwrap();
    assert!(
        load(&issued, &root, NOW + HOUR)
            .unwrap_err()
            .contains("expired")
    );
    let early = load(&issued, &root, NOW - HOUR).unwrap_err();
    assert!(early.contains("clock"), "{early}");
}

#[test]
fn r71_an_intermediate_of_another_root_is_refused() {
    let (mine, other) = (root(), root());
    let issued = other.issue_intermediate(MONTH, NOW).unwrap();
    let error = load(&issued, &mine, NOW).unwrap_err();
    assert!(error.contains("no root of the trust bundle"), "{error}");
    let foreign_domain =
        Authority::generate(&TrustDomain::parse("other.example").unwrap(), NOW).unwrap();
    let issued = foreign_domain.issue_intermediate(MONTH, NOW).unwrap();
    let error = load(&issued, &foreign_domain, NOW).unwrap_err();
    assert!(error.contains("does not issue for"), "{error}");
}

#[test]
fn attack_a_leaf_as_authority_is_refused() {
    let root = root();
    let leaf = root.issue_svid(&orders(), &[], HOUR, NOW).unwrap();
    assert!(load(&leaf, &root, NOW).unwrap_err().contains("not a CA"));
    let good = root.issue_intermediate(MONTH, NOW).unwrap();
    let other = root.issue_intermediate(MONTH, NOW).unwrap();
    let mixed = Issued {
        key_pem: other.key_pem,
        ..good.clone()
    };
    assert!(load(&mixed, &root, NOW).unwrap_err().contains("belong"));
    let nonsense = Issued {
        chain_pem: "nonsense".to_owned(),
        ..good
    };
    assert!(load(&nonsense, &root, NOW).is_err());
}

#[test]
fn an_external_root_and_its_chain_are_taken() {
    let far = NOW + time::Duration::days(365);
    let (root, root_key) = foreign("Example root", None, None, far);
    let (middle, middle_key) = foreign("Example middle", Some(1), Some((&root, &root_key)), far);
    let (own, own_key) = foreign("Example mesh", Some(0), Some((&middle, &middle_key)), far);
    let roots = from_pem(&root).unwrap();
    let chain = format!("{own}{middle}");
    let loaded = Intermediate::load(&domain(), &chain, &own_key, &roots, NOW).unwrap();
    assert_eq!(loaded.trust_domain(), &domain());
    let certified = loaded
        .certify_svid(&request(), &orders(), &[], HOUR, NOW)
        .unwrap();
    assert_eq!(certified.chain.len(), 3);
    // Without the certificate between, nobody vouches for ours.
    assert!(Intermediate::load(&domain(), &own, &own_key, &roots, NOW).is_err());
    // In the wrong order, the key is not that of the first.
    let wrong = format!("{middle}{own}");
    assert!(Intermediate::load(&domain(), &wrong, &own_key, &roots, NOW).is_err());
}

#[test]
fn the_way_up_ends_with_its_first_expiry_and_obeys_path_lengths() {
    let (soon, far) = (NOW + time::Duration::HOUR, NOW + time::Duration::days(365));
    let (root, root_key) = foreign("Example root", None, None, far);
    let (middle, middle_key) = foreign("Example middle", None, Some((&root, &root_key)), soon);
    let (own, own_key) = foreign("Example mesh", None, Some((&middle, &middle_key)), far);
    let roots = from_pem(&root).unwrap();
    let chain = format!("{own}{middle}");
    let loaded = Intermediate::load(&domain(), &chain, &own_key, &roots, NOW).unwrap();
    assert_eq!(loaded.not_after(), soon);
    let (narrow, narrow_key) = foreign("Narrow root", Some(0), None, far);
    let (own, own_key) = foreign("Example mesh", None, Some((&narrow, &narrow_key)), far);
    let roots = from_pem(&narrow).unwrap();
    let error = Intermediate::load(&domain(), &own, &own_key, &roots, NOW)
        .unwrap_err()
        .to_string();
    assert!(error.contains("path length below 1"), "{error}");
}

#[test]
fn r34_a_revocation_list_names_its_serials() {
    let (_, intermediate) = intermediate();
    let serial = Serial::random().unwrap();
    let line = RevokedSerial {
        serial: serial.clone(),
        at: NOW,
    };
    let next = NOW + time::Duration::DAY;
    let der = intermediate.sign_crl(&[line], 7, NOW, next).unwrap();
    let (rest, list) = CertificateRevocationList::from_der(&der).unwrap();
    assert!(rest.is_empty());
    let own = parse(&intermediate.chain()[0]).unwrap();
    assert!(list.verify_signature(own.public_key()).is_ok());
    assert_eq!(list.issuer(), own.subject());
    let revoked: Vec<_> = list.iter_revoked_certificates().collect();
    assert_eq!(revoked.len(), 1);
    assert_eq!(Serial::from_bytes(revoked[0].raw_serial()).unwrap(), serial);
    assert_eq!(list.crl_number().unwrap(), &7_u32.into());
    let empty = intermediate.sign_crl(&[], 8, NOW, next).unwrap();
    let (_, list) = CertificateRevocationList::from_der(&empty).unwrap();
    assert_eq!(list.iter_revoked_certificates().count(), 0);
}

#[test]
fn debug_shows_no_key() {
    let (_, intermediate) = intermediate();
    assert!(!format!("{intermediate:?}").contains("signing_key"));
}
