//! The certificate authority of one trust domain: ECDSA P-256, short-lived leaves.
//!
//! Owns: making the root and issuing SVIDs, server and client certificates.
//! Must not: keep its key anywhere (callers store [`Authority::key_pem`] as a secret), read a clock,
//! or choose lifetimes: both are parameters.
//! Read next: `svid.rs` for the rules that an SVID obeys.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::{IdentityError, SpiffeId, TrustDomain};

/// Machines disagree about the time: a new certificate must already be valid where it arrives.
pub(crate) const BACKDATE: time::Duration = time::Duration::MINUTE;
/// A root outlives the state directory that it stands in; rotation replaces the bundle instead.
const ROOT_LIFETIME: time::Duration = time::Duration::days(3650);
/// RFC 5280 Appendix A.1, `ub-common-name`.
const MAX_COMMON_NAME_CHARS: usize = 64;

/// A certificate authority that signs for exactly one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
    key_pem: Zeroizing<String>,
    not_after: OffsetDateTime,
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
}

impl Authority {
    /// Makes a new self-signed root for `domain`, valid for ten years from `now`.
    ///
    /// The path length is 0: whatever it signs cannot sign in turn (RFC 5280 §4.2.1.9).
    ///
    /// # Errors
    /// [`IdentityError::Issue`] when key or certificate cannot be made.
    pub fn generate(domain: &TrustDomain, now: OffsetDateTime) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Successive roots have names of their own, since verifiers look issuers up by name.
        let fingerprint: String = params
            .key_identifier(&key)
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        params.distinguished_name = subject(&format!("root {fingerprint} of {domain}"));
        // X509-SVID §4: a signing certificate names the trust domain, without a path.
        let own_id = format!("spiffe://{domain}");
        params.subject_alt_names = vec![SanType::URI(ia5(&own_id)?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
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
        let trust_domain = domain_of_root(&certificate)?;
        let key = KeyPair::from_pem(key_pem)
            .map_err(|_| IdentityError::Authority("the key is not a PKCS#8 PEM key"))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(IdentityError::Authority(
                "the key does not belong to the certificate",
            ));
        }
        let not_after = certificate.validity().not_after.to_datetime();
        Ok(Self {
            trust_domain,
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            cert_pem: cert_pem.to_owned(),
            key_pem: Zeroizing::new(key_pem.to_owned()),
            not_after,
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
        if *id.trust_domain() != self.trust_domain {
            return Err(IdentityError::ForeignTrustDomain {
                authority: self.trust_domain.to_string(),
                requested: id.to_string(),
            });
        }
        if !id.is_workload() {
            return Err(IdentityError::Svid("the SPIFFE ID of a leaf needs a path"));
        }
        let mut names = vec![SanType::URI(ia5(id.as_str())?)];
        names.extend(dns_names(dns)?);
        let usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        // Not the bare name: PostgreSQL takes a common name for a role, and an SVID is for the mesh.
        self.issue(&format!("workload {}", id.path()), names, usages, ttl, now)
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
        let mut names = dns_names(dns)?;
        names.extend(ips.iter().copied().map(SanType::IpAddress));
        if names.is_empty() {
            return Err(IdentityError::Name(String::new()));
        }
        let common_name = dns.first().map_or("server", String::as_str);
        self.issue(
            common_name,
            names,
            vec![ExtendedKeyUsagePurpose::ServerAuth],
            ttl,
            now,
        )
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
        if common_name.is_empty() || common_name.chars().count() > MAX_COMMON_NAME_CHARS {
            return Err(IdentityError::Name(common_name.to_owned()));
        }
        self.issue(
            common_name,
            Vec::new(),
            vec![ExtendedKeyUsagePurpose::ClientAuth],
            ttl,
            now,
        )
    }

    /// Signs one leaf with a fresh key.
    fn issue(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, IdentityError> {
        let mut params = CertificateParams::default();
        params.not_before = whole_seconds(now) - BACKDATE;
        params.not_after = self.end_of_leaf(ttl, now)?;
        params.distinguished_name = subject(common_name);
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let not_after = params.not_after;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            not_after,
        })
    }

    /// `now + ttl`, but never beyond the root: a leaf that outlives its issuer is refused anyway.
    fn end_of_leaf(
        &self,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<OffsetDateTime, IdentityError> {
        if ttl < Duration::from_secs(1) {
            return Err(IdentityError::Lifetime("shorter than one second"));
        }
        if now >= self.not_after {
            return Err(IdentityError::AuthorityExpired(self.not_after));
        }
        let ttl = time::Duration::try_from(ttl)
            .map_err(|_| IdentityError::Lifetime("too long to express"))?;
        let end = whole_seconds(now)
            .checked_add(ttl)
            .ok_or(IdentityError::Lifetime("ends after the year 9999"))?;
        Ok(whole_seconds(end).min(self.not_after))
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

/// Checks that a certificate is a CA, and reads the trust domain that it names.
fn domain_of_root(certificate: &X509Certificate<'_>) -> Result<TrustDomain, IdentityError> {
    const NOT_CA: IdentityError = IdentityError::Authority("the certificate is not a CA");
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| NOT_CA)?
        .ok_or(NOT_CA)?;
    let usage = certificate.key_usage().map_err(|_| NOT_CA)?.ok_or(NOT_CA)?;
    if !constraints.value.ca || !usage.value.key_cert_sign() {
        return Err(NOT_CA);
    }
    const NO_DOMAIN: IdentityError =
        IdentityError::Authority("the certificate does not name exactly one trust domain");
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| NO_DOMAIN)?
        .ok_or(NO_DOMAIN)?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => {
            let id = SpiffeId::parse(uri)?;
            if id.is_workload() {
                Err(NO_DOMAIN)
            } else {
                Ok(id.trust_domain().clone())
            }
        }
        _ => Err(NO_DOMAIN),
    }
}

/// A subject for people to read; identity stands in the alternative names alone.
fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Ringwall");
    let short: String = common_name.chars().take(MAX_COMMON_NAME_CHARS).collect();
    name.push(DnType::CommonName, short);
    name
}

fn dns_names(dns: &[String]) -> Result<Vec<SanType>, IdentityError> {
    dns.iter()
        .map(|name| Ok(SanType::DnsName(ia5(name)?)))
        .collect()
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, IdentityError> {
    text.try_into()
        .map_err(|_| IdentityError::Name(text.to_owned()))
}

/// X.509 knows no fractions of a second; keeping them would make `not_after` lie.
fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
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
        assert_eq!(svid.not_before, datetime!(2030-01-01 11:59 UTC));
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
    fn root_is_a_ca_without_grandchildren() {
        let root = authority("ringwall.local");
        with_certificate(root.cert_pem(), |certificate| {
            let constraints = certificate.basic_constraints().unwrap().unwrap();
            assert!(constraints.critical && constraints.value.ca);
            assert_eq!(constraints.value.path_len_constraint, Some(0));
        });
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
