//! The root of one trust domain: ECDSA P-256.
//!
//! Owns: making the root, the intermediate below it, and short-lived leaves where no intermediate is
//! needed (tests, the first start).
//! Must not: keep its key anywhere (callers store [`Authority::key_pem`] as a secret), read a clock,
//! or choose lifetimes: both are parameters.
//! Read next: `intermediate.rs`, which works while the root's key rests; `issue.rs` for what a leaf
//! says; `svid.rs` for the rules that an SVID obeys.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

pub(crate) use crate::issue::BACKDATE;
use crate::issue::{Leaf, Profile, end_within, ia5, subject, whole_seconds};
use crate::{IdentityError, Serial, SpiffeId, TrustDomain};

/// A root outlives the state directory that it stands in; rotation replaces the bundle instead.
const ROOT_LIFETIME: time::Duration = time::Duration::days(3650);

/// A certificate authority that signs for exactly one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
    key_pem: Zeroizing<String>,
    not_after: OffsetDateTime,
    certifies_authorities: bool,
}

/// A certificate with its private key, ready to be written for its holder.
#[derive(Clone)]
pub struct Issued {
    /// PEM, leaf first. The root is not included: peers have it in their bundle.
    pub chain_pem: String,
    /// PKCS#8 PEM of the private key. A secret: callers write it 0600 or sealed.
    pub key_pem: String,
    /// End of validity, never after the authority's own.
    pub not_after: OffsetDateTime,
    /// Its number.
    pub serial: Serial,
}

impl Authority {
    /// Makes a new self-signed root for `domain`, valid for ten years from `now`.
    ///
    /// The path length is 1: one intermediate may stand below it, and nothing below that can sign in
    /// turn (RFC 5280 §4.2.1.9).
    ///
    /// # Errors
    /// [`IdentityError::Issue`] when key or certificate cannot be made.
    pub fn generate(domain: &TrustDomain, now: OffsetDateTime) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = authority_params(domain, &key, "root", 1)?;
        params.not_before = whole_seconds(now) - BACKDATE;
        params.not_after = whole_seconds(now) + ROOT_LIFETIME;
        let certificate = params.self_signed(&key)?;
        Self::load(&certificate.pem(), &key.serialize_pem())
    }

    /// Loads a root from its certificate and PKCS#8 key, both PEM.
    ///
    /// # Errors
    /// [`IdentityError::Authority`] when the certificate is not a CA of exactly one trust domain, or
    /// when the key is not the certificate's.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|_| IdentityError::Authority("the certificate is not PEM"))?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|_| IdentityError::Authority("the certificate is not X.509"))?;
        refuse_leaf(&certificate)?;
        let trust_domain = domain_of(&certificate)?.ok_or(NO_DOMAIN)?;
        let key = KeyPair::from_pem(key_pem)
            .map_err(|_| IdentityError::Authority("the key is not a PKCS#8 PEM key"))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(IdentityError::Authority(
                "the key does not belong to the certificate",
            ));
        }
        let not_after = certificate.validity().not_after.to_datetime();
        let certifies_authorities = path_length(&certificate) != Some(0);
        Ok(Self {
            trust_domain,
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            cert_pem: cert_pem.to_owned(),
            key_pem: Zeroizing::new(key_pem.to_owned()),
            not_after,
            certifies_authorities,
        })
    }

    /// The trust domain that this authority vouches for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificate, PEM. This is the trust bundle.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The root's private key, PKCS#8 PEM. A secret: whoever has it is every workload.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// End of the root's validity.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Whether an intermediate may stand below this root. Roots that were made before there were
    /// intermediates have path length 0: their state needs a new root.
    #[must_use]
    pub fn certifies_authorities(&self) -> bool {
        self.certifies_authorities
    }

    /// Makes an intermediate of path length 0: it signs leaves while the root's key rests. The chain is
    /// its certificate alone.
    ///
    /// # Errors
    /// [`IdentityError::Authority`] when this root has path length 0; [`IdentityError::Lifetime`] and
    /// [`IdentityError::AuthorityExpired`] for impossible times; [`IdentityError::Issue`].
    pub fn issue_intermediate(
        &self,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, IdentityError> {
        if !self.certifies_authorities {
            return Err(IdentityError::Authority(
                "its path length is 0, so no intermediate may stand below it; make a new root",
            ));
        }
        let (key, serial) = (KeyPair::generate()?, Serial::random()?);
        let mut params = authority_params(&self.trust_domain, &key, "intermediate", 0)?;
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        params.not_before = whole_seconds(now) - BACKDATE;
        params.not_after = end_within(self.not_after, ttl, now)?;
        params.use_authority_key_identifier_extension = true;
        let not_after = params.not_after;
        Ok(Issued {
            chain_pem: params.signed_by(&key, &self.issuer)?.pem(),
            key_pem: key.serialize_pem(),
            not_after,
            serial,
        })
    }

    /// Issues an X.509-SVID: one URI SAN (`id`), the DNS names `dns` beside it, client and server use.
    ///
    /// # Errors
    /// [`IdentityError::ForeignTrustDomain`] for another domain's name, [`IdentityError::Svid`] for an
    /// ID without a path, [`IdentityError::Name`] for a DNS name that is not ASCII,
    /// [`IdentityError::Lifetime`] and [`IdentityError::AuthorityExpired`] for impossible times.
    pub fn issue_svid(
        &self,
        id: &SpiffeId,
        dns: &[String],
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, IdentityError> {
        self.issue(Profile::svid(&self.trust_domain, id, dns)?, ttl, now)
    }

    /// Issues a server certificate without a workload identity, for the edge and for PostgreSQL.
    ///
    /// # Errors
    /// [`IdentityError::Name`] when there is no name at all or one is not ASCII; else as
    /// [`Authority::issue_svid`].
    pub fn issue_server(
        &self,
        dns: &[String],
        ips: &[IpAddr],
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, IdentityError> {
        self.issue(Profile::server(dns, ips)?, ttl, now)
    }

    /// Issues a client certificate whose common name is a database role (PostgreSQL `clientcert`).
    ///
    /// # Errors
    /// [`IdentityError::Name`] when the common name is empty or longer than 64 characters; else as
    /// [`Authority::issue_svid`].
    pub fn issue_client(
        &self,
        common_name: &str,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, IdentityError> {
        self.issue(Profile::client(common_name)?, ttl, now)
    }

    /// Signs one leaf with a fresh key.
    fn issue(
        &self,
        profile: Profile,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, IdentityError> {
        let key = KeyPair::generate()?;
        let leaf = profile.sign(&key, &self.issuer, self.not_after, ttl, now)?;
        Ok(Issued::of(&leaf, &key))
    }
}

impl Issued {
    fn of(leaf: &Leaf, key: &KeyPair) -> Self {
        Self {
            chain_pem: leaf.certificate.pem(),
            key_pem: key.serialize_pem(),
            not_after: leaf.not_after,
            serial: leaf.serial.clone(),
        }
    }
}

impl fmt::Debug for Authority {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("chain_pem", &self.chain_pem)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

const NO_DOMAIN: IdentityError =
    IdentityError::Authority("the certificate does not name exactly one trust domain");

/// A signing certificate of `domain`, without its times.
fn authority_params(
    domain: &TrustDomain,
    key: &KeyPair,
    role: &str,
    path_length: u8,
) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    // Successive authorities have names of their own, since verifiers look issuers up by name.
    let fingerprint: String = params
        .key_identifier(key)
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    params.distinguished_name = subject(&format!("{role} {fingerprint} of {domain}"));
    // X509-SVID §4: a signing certificate names the trust domain, without a path.
    params.subject_alt_names = vec![SanType::URI(ia5(&format!("spiffe://{domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Checks that a certificate may sign certificates (RFC 5280 §4.2.1.3, §4.2.1.9).
pub(crate) fn refuse_leaf(certificate: &X509Certificate<'_>) -> Result<(), IdentityError> {
    const NOT_CA: IdentityError = IdentityError::Authority("the certificate is not a CA");
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| NOT_CA)?
        .ok_or(NOT_CA)?;
    let usage = certificate.key_usage().map_err(|_| NOT_CA)?.ok_or(NOT_CA)?;
    if !constraints.value.ca || !usage.value.key_cert_sign() {
        return Err(NOT_CA);
    }
    Ok(())
}

/// How many intermediates may stand below this one; `None` for any number.
pub(crate) fn path_length(certificate: &X509Certificate<'_>) -> Option<u32> {
    let constraints = certificate.basic_constraints().ok().flatten()?;
    constraints.value.path_len_constraint
}

/// The trust domain that a signing certificate names; `None` when it has no URI at all, as those of
/// authorities that know nothing of SPIFFE.
pub(crate) fn domain_of(
    certificate: &X509Certificate<'_>,
) -> Result<Option<TrustDomain>, IdentityError> {
    let Some(names) = certificate
        .subject_alternative_name()
        .map_err(|_| NO_DOMAIN)?
    else {
        return Ok(None);
    };
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.next()) {
        (None, _) => Ok(None),
        (Some(uri), None) => {
            let id = SpiffeId::parse(uri)?;
            if id.is_workload() {
                return Err(NO_DOMAIN);
            }
            Ok(Some(id.trust_domain().clone()))
        }
        _ => Err(NO_DOMAIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svid::Svid;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2030-01-01 12:00:00.5 UTC);
    const HOUR: Duration = Duration::from_secs(3600);

    fn authority(domain: &str) -> Authority {
        Authority::generate(&TrustDomain::parse(domain).unwrap(), NOW).unwrap()
    }

    fn orders() -> SpiffeId {
        SpiffeId::parse("spiffe://ringwall.local/orders").unwrap()
    }

    fn der(pem: &str) -> Vec<u8> {
        CertificateDer::from_pem_slice(pem.as_bytes())
            .unwrap()
            .to_vec()
    }

    fn with_certificate<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
        let der = der(pem);
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        look(&certificate)
    }

    #[test]
    fn svid_has_one_uri_and_the_shape_of_a_leaf() {
        let root = authority("ringwall.local");
        let issued = root
            .issue_svid(&orders(), &["orders".to_owned()], HOUR, NOW)
            .unwrap();
        let svid = Svid::from_der(&der(&issued.chain_pem)).unwrap();
        assert_eq!(svid.id, orders());
        assert_eq!(svid.not_after, issued.not_after);
        assert_eq!(svid.not_after, datetime!(2030-01-01 13:00 UTC));
        assert_eq!(svid.not_before, datetime!(2030-01-01 11:55 UTC));
        assert!(issued.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        with_certificate(&issued.chain_pem, |certificate| {
            let usage = certificate.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.client_auth && usage.server_auth && !usage.any);
            let names = &certificate
                .subject_alternative_name()
                .unwrap()
                .unwrap()
                .value;
            assert!(
                names
                    .general_names
                    .contains(&GeneralName::DNSName("orders"))
            );
            assert_eq!(names.general_names.len(), 2);
            let name = certificate.subject().iter_common_name().next().unwrap();
            assert_ne!(
                name.as_str().unwrap(),
                "orders",
                "an SVID is no database certificate"
            );
        });
    }

    #[test]
    fn each_issue_has_its_own_key() {
        let root = authority("ringwall.local");
        let first = root.issue_svid(&orders(), &[], HOUR, NOW).unwrap();
        let second = root.issue_svid(&orders(), &[], HOUR, NOW).unwrap();
        assert_ne!(first.key_pem, second.key_pem);
    }

    #[test]
    fn server_and_client_certificates_have_only_their_own_use() {
        let root = authority("ringwall.local");
        let dns = ["*.localhost".to_owned(), "localhost".to_owned()];
        let server = root
            .issue_server(&dns, &["127.0.0.1".parse().unwrap()], HOUR, NOW)
            .unwrap();
        with_certificate(&server.chain_pem, |certificate| {
            let usage = certificate.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.server_auth && !usage.client_auth);
            let names = &certificate
                .subject_alternative_name()
                .unwrap()
                .unwrap()
                .value;
            assert_eq!(names.general_names.len(), 3);
        });
        assert!(
            Svid::from_der(&der(&server.chain_pem)).is_err(),
            "no workload identity"
        );
        let client = root.issue_client("orders", HOUR, NOW).unwrap();
        with_certificate(&client.chain_pem, |certificate| {
            let usage = certificate.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.client_auth && !usage.server_auth);
            let name = certificate.subject().iter_common_name().next().unwrap();
            assert_eq!(name.as_str().unwrap(), "orders");
        });
    }

    #[test]
    fn root_is_a_ca_with_children_and_no_grandchildren() {
        let root = authority("ringwall.local");
        with_certificate(root.cert_pem(), |certificate| {
            let constraints = certificate.basic_constraints().unwrap().unwrap();
            assert!(constraints.critical && constraints.value.ca);
            assert_eq!(constraints.value.path_len_constraint, Some(1));
        });
        assert!(root.certifies_authorities());
    }

    #[test]
    fn a_root_of_the_time_before_intermediates_is_recognised() {
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = authority_params(&domain, &key, "root", 0).unwrap();
        params.not_before = NOW - BACKDATE;
        params.not_after = NOW + ROOT_LIFETIME;
        let certificate = params.self_signed(&key).unwrap();
        let old = Authority::load(&certificate.pem(), &key.serialize_pem()).unwrap();
        assert!(!old.certifies_authorities());
        assert!(old.issue_svid(&orders(), &[], HOUR, NOW).is_ok());
        let error = old.issue_intermediate(HOUR, NOW).unwrap_err().to_string();
        assert!(error.contains("make a new root"), "{error}");
    }

    #[test]
    fn a_stored_root_loads_and_issues_again() {
        let root = authority("ringwall.local");
        let again = Authority::load(root.cert_pem(), root.key_pem()).unwrap();
        assert_eq!(again.trust_domain(), root.trust_domain());
        assert_eq!(again.not_after(), root.not_after());
        let issued = again.issue_svid(&orders(), &[], HOUR, NOW).unwrap();
        with_certificate(&issued.chain_pem, |leaf| {
            with_certificate(root.cert_pem(), |root| {
                assert_eq!(leaf.issuer(), root.subject());
                let identifier = |c: &X509Certificate<'_>| {
                    c.iter_extensions()
                        .find_map(|e| match e.parsed_extension() {
                            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => {
                                Some(id.0.to_vec())
                            }
                            x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(
                                id,
                            ) => id.key_identifier.as_ref().map(|k| k.0.to_vec()),
                            _ => None,
                        })
                };
                assert!(identifier(leaf).is_some());
                assert_eq!(identifier(leaf), identifier(root));
            });
        });
    }

    #[test]
    fn load_refuses_what_is_not_a_root() {
        let root = authority("ringwall.local");
        let other = authority("ringwall.local");
        let leaf = root.issue_svid(&orders(), &[], HOUR, NOW).unwrap();
        let refusal = |cert: &str, key: &str| Authority::load(cert, key).unwrap_err().to_string();
        assert!(refusal(root.cert_pem(), other.key_pem()).contains("does not belong"));
        assert!(refusal(&leaf.chain_pem, &leaf.key_pem).contains("not a CA"));
        assert!(refusal("nonsense", root.key_pem()).contains("not PEM"));
        assert!(refusal(root.cert_pem(), "nonsense").contains("PKCS#8"));
    }

    #[test]
    fn names_outside_the_domain_are_refused() {
        let root = authority("other.example");
        let error = root.issue_svid(&orders(), &[], HOUR, NOW).unwrap_err();
        assert!(
            matches!(error, IdentityError::ForeignTrustDomain { .. }),
            "{error}"
        );
        let bare = SpiffeId::parse("spiffe://other.example").unwrap();
        assert!(root.issue_svid(&bare, &[], HOUR, NOW).is_err());
        assert!(root.issue_server(&[], &[], HOUR, NOW).is_err());
        assert!(
            root.issue_server(&["ö".to_owned()], &[], HOUR, NOW)
                .is_err()
        );
        assert!(root.issue_client("", HOUR, NOW).is_err());
        assert!(root.issue_client(&"x".repeat(65), HOUR, NOW).is_err());
    }

    #[test]
    fn lifetimes_stay_inside_the_roots() {
        let root = authority("ringwall.local");
        let long = Duration::from_secs(3600 * 24 * 36500);
        let issued = root.issue_svid(&orders(), &[], long, NOW).unwrap();
        assert_eq!(issued.not_after, root.not_after());
        for ttl in [Duration::ZERO, Duration::MAX] {
            assert!(root.issue_svid(&orders(), &[], ttl, NOW).is_err());
        }
        let late = root
            .issue_svid(&orders(), &[], HOUR, root.not_after())
            .unwrap_err();
        assert!(matches!(late, IdentityError::AuthorityExpired(_)), "{late}");
    }

    #[test]
    fn successive_roots_have_different_names() {
        let name =
            |root: &Authority| with_certificate(root.cert_pem(), |c| c.subject().to_string());
        assert_ne!(
            name(&authority("ringwall.local")),
            name(&authority("ringwall.local"))
        );
    }

    #[test]
    fn debug_shows_no_key() {
        let root = authority("ringwall.local");
        let issued = root.issue_client("orders", HOUR, NOW).unwrap();
        assert!(!format!("{root:?}{issued:?}").contains("PRIVATE KEY"));
    }
}
