//! The authority that works every day, below a root that rests.
//!
//! Owns: loading an intermediate, whoever has issued it; certifying the keys of requests; revocation
//! lists (RFC 5280 §5).
//! Must not: see the root's key, store its own, read a clock, or decide who gets what.
//! Read next: `csr.rs` for what it certifies, `issue.rs` for what a leaf says.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::{OffsetDateTime, PrimitiveDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use zeroize::Zeroizing;

use crate::authority::{domain_of, path_length, refuse_leaf};
use crate::certificate::{from_pem, parse};
use crate::csr::{NewKey, Request};
use crate::issue::{BACKDATE, Profile, whole_seconds};
use crate::{IdentityError, Serial, SpiffeId, TrustDomain};

/// Certificates between ours and the root, ours included. More would only slow handshakes down.
const MAX_CHAIN: usize = 4;

/// An issuing authority of one trust domain, with its way up to a root of the trust bundle.
pub struct Intermediate {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    /// How its own certificate calls its key; others' authorities have ways of their own.
    key_identifier: KeyIdMethod,
    not_after: OffsetDateTime,
}

/// A certificate for somebody else's key.
#[derive(Clone, Debug)]
pub struct Certified {
    /// Leaf first, then the intermediates, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's number.
    pub serial: Serial,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// Start of validity: [`crate::BACKDATE`] before it was issued.
    pub not_before: OffsetDateTime,
    /// End of validity, never after the authority's own.
    pub not_after: OffsetDateTime,
}

/// One line of a revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedSerial {
    /// Which certificate.
    pub serial: Serial,
    /// Since when.
    pub at: OffsetDateTime,
}

impl Intermediate {
    /// Loads an authority of `domain` from its chain (its own certificate first, then those above it,
    /// without the root) and its PKCS#8 key, all PEM, and checks its way up to one of `roots`.
    ///
    /// A signing certificate without a SPIFFE ID is taken, since external authorities know none.
    ///
    /// # Errors
    /// [`IdentityError::Authority`] when certificate and key are no authority,
    /// [`IdentityError::ForeignTrustDomain`] when it is another domain's,
    /// [`IdentityError::AuthorityExpired`] and [`IdentityError::Chain`] when no root vouches for it now.
    pub fn load(
        domain: &TrustDomain,
        chain_pem: &str,
        key_pem: &str,
        roots: &[CertificateDer<'_>],
        now: OffsetDateTime,
    ) -> Result<Self, IdentityError> {
        let chain = from_pem(chain_pem)
            .map_err(|_| IdentityError::Authority("the certificate is not PEM"))?;
        let parsed = chain
            .iter()
            .map(|der| parse(der))
            .collect::<Result<Vec<_>, _>>()?;
        let (Some(own_der), Some(own)) = (chain.first(), parsed.first()) else {
            return Err(IdentityError::Authority("the certificate is not PEM"));
        };
        refuse_leaf(own)?;
        if let Some(other) = domain_of(own)?.filter(|named| named != domain) {
            return Err(IdentityError::ForeignTrustDomain {
                authority: other.to_string(),
                requested: domain.to_string(),
            });
        }
        let key = KeyPair::from_pem(key_pem)
            .map_err(|_| IdentityError::Authority("the key is not a PKCS#8 PEM key"))?;
        if own.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(IdentityError::Authority(
                "the key does not belong to the certificate",
            ));
        }
        let not_after = check_chain(&parsed, roots, now)?;
        let key_identifier = key_identifier(own);
        Ok(Self {
            trust_domain: domain.clone(),
            issuer: Issuer::from_ca_cert_der(own_der, key)?,
            chain,
            key_identifier,
            not_after,
        })
    }

    /// The trust domain that this authority vouches for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its own certificate, then those above it, without the root.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// When it, or what vouches for it, ends.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Certifies the key of `request` as an X.509-SVID. See [`crate::authority::Authority::issue_svid`].
    ///
    /// # Errors
    /// As there.
    pub fn certify_svid(
        &self,
        request: &Request,
        id: &SpiffeId,
        dns: &[String],
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Certified, IdentityError> {
        let profile = Profile::svid(&self.trust_domain, id, dns)?;
        self.certify(request, profile, ttl, now)
    }

    /// Certifies the key of `request` for a server. See [`crate::authority::Authority::issue_server`].
    ///
    /// # Errors
    /// As there.
    pub fn certify_server(
        &self,
        request: &Request,
        dns: &[String],
        ips: &[IpAddr],
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Certified, IdentityError> {
        self.certify(request, Profile::server(dns, ips)?, ttl, now)
    }

    /// Certifies the key of `request` for a role of a database. See
    /// [`crate::authority::Authority::issue_client`].
    ///
    /// # Errors
    /// As there.
    pub fn certify_client(
        &self,
        request: &Request,
        role: &str,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Certified, IdentityError> {
        self.certify(request, Profile::client(role)?, ttl, now)
    }

    /// An SVID with a key of its own (PKCS#8 DER), for the process that this authority works in.
    ///
    /// # Errors
    /// As [`crate::authority::Authority::issue_svid`].
    pub fn issue_svid(
        &self,
        id: &SpiffeId,
        dns: &[String],
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<(Certified, Zeroizing<Vec<u8>>), IdentityError> {
        let new = NewKey::generate()?;
        let request = Request::from_der(&new.request)?;
        Ok((self.certify_svid(&request, id, dns, ttl, now)?, new.pkcs8))
    }

    fn certify(
        &self,
        request: &Request,
        profile: Profile,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Certified, IdentityError> {
        let leaf = profile.sign(&request.key, &self.issuer, self.not_after, ttl, now)?;
        let mut chain = vec![leaf.certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(Certified {
            chain,
            serial: leaf.serial,
            spki_sha256: request.spki_sha256(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        })
    }

    /// Signs a revocation list (RFC 5280 §5), DER. `number` grows with every list of this authority.
    ///
    /// # Errors
    /// [`IdentityError::Issue`] when this authority's certificate does not allow lists.
    pub fn sign_crl(
        &self,
        revoked: &[RevokedSerial],
        number: u64,
        now: OffsetDateTime,
        next_update: OffsetDateTime,
    ) -> Result<Vec<u8>, IdentityError> {
        let lines = revoked.iter().map(|line| RevokedCertParams {
            serial_number: SerialNumber::from_slice(line.serial.as_bytes()),
            revocation_time: whole_seconds(line.at),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: whole_seconds(now) - BACKDATE,
            next_update: whole_seconds(next_update),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: lines.collect(),
            key_identifier_method: self.key_identifier.clone(),
        };
        Ok(params.signed_by(&self.issuer)?.der().to_vec())
    }
}

impl fmt::Debug for Intermediate {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intermediate")
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Walks from our certificate to a root (RFC 5280 §6.1, without policies and name constraints, which
/// verifiers of leaves check again). Answers the earliest end on the way.
fn check_chain(
    chain: &[X509Certificate<'_>],
    roots: &[CertificateDer<'_>],
    now: OffsetDateTime,
) -> Result<OffsetDateTime, IdentityError> {
    let refuse = |why: String| Err(IdentityError::Chain(why));
    if chain.len() > MAX_CHAIN {
        return refuse(format!("its chain has more than {MAX_CHAIN} certificates"));
    }
    let roots = roots
        .iter()
        .map(|der| parse(der))
        .collect::<Result<Vec<_>, _>>()?;
    let mut end = PrimitiveDateTime::MAX.assume_utc();
    let mut above = chain.iter().skip(1);
    for (below, certificate) in chain.iter().enumerate() {
        end = end.min(valid_now(certificate, now)?);
        let issuer = match above.next() {
            Some(next) => signed_by(certificate, next).then_some(next),
            None => roots.iter().find(|root| signed_by(certificate, root)),
        };
        let Some(issuer) = issuer else {
            return refuse(format!(
                "no certificate above it, and no root of the trust bundle, has signed {}; put the root \
                 that did into the bundle, or use an authority below one that is there",
                certificate.subject()
            ));
        };
        refuse_leaf(issuer)?;
        // RFC 5280 §4.2.1.9: a path length counts the authorities below, and this one is the last.
        let needed = u32::try_from(below + 1).unwrap_or(u32::MAX);
        if path_length(issuer).is_some_and(|allowed| allowed < needed) {
            return refuse(format!(
                "{} has a path length below {needed}, so no intermediate may stand here; make a new root",
                issuer.subject()
            ));
        }
        if below + 1 == chain.len() {
            end = end.min(valid_now(issuer, now)?);
        }
    }
    Ok(end)
}

/// The subject key identifier of a certificate, which lists of its holder repeat (RFC 5280 §5.2.1).
fn key_identifier(certificate: &X509Certificate<'_>) -> KeyIdMethod {
    let identifier =
        certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
    identifier.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
}

fn signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    certificate.issuer() == issuer.subject()
        && certificate
            .verify_signature(Some(issuer.public_key()))
            .is_ok()
}

fn valid_now(
    certificate: &X509Certificate<'_>,
    now: OffsetDateTime,
) -> Result<OffsetDateTime, IdentityError> {
    let validity = certificate.validity();
    let (begin, end) = (
        validity.not_before.to_datetime(),
        validity.not_after.to_datetime(),
    );
    if now >= end {
        return Err(IdentityError::AuthorityExpired(end));
    }
    if now < begin {
        return Err(IdentityError::Chain(format!(
            "{} is not valid before {begin}; check this machine's clock",
            certificate.subject()
        )));
    }
    Ok(end)
}

#[cfg(test)]
mod tests;
