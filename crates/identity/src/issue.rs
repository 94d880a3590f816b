//! The signing of leaves: what root and intermediate have in common.
//!
//! Owns: the shape of every leaf (names, uses, lifetime, serial number). Must not: decide who gets
//! one. Read next: `authority.rs` and `intermediate.rs`, which use it.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::{IdentityError, Serial, SpiffeId, TrustDomain};

/// Machines disagree about the time: a new certificate must already be valid where it arrives, on a machine whose clock is
/// this far behind as well.
pub const BACKDATE: time::Duration = time::Duration::minutes(5);
/// RFC 5280 Appendix A.1, `ub-common-name`.
const MAX_COMMON_NAME_CHARS: usize = 64;

/// What a leaf says.
pub(crate) struct Profile {
    common_name: String,
    names: Vec<SanType>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

/// A signed leaf with what its issuer must remember of it.
pub(crate) struct Leaf {
    pub(crate) certificate: Certificate,
    pub(crate) serial: Serial,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

impl Profile {
    /// One URI SAN (`id`), the DNS names `dns` beside it, client and server use.
    pub(crate) fn svid(
        domain: &TrustDomain,
        id: &SpiffeId,
        dns: &[String],
    ) -> Result<Self, IdentityError> {
        if id.trust_domain() != domain {
            return Err(IdentityError::ForeignTrustDomain {
                authority: domain.to_string(),
                requested: id.to_string(),
            });
        }
        if !id.is_workload() {
            return Err(IdentityError::Svid("the SPIFFE ID of a leaf needs a path"));
        }
        let mut names = vec![SanType::URI(ia5(id.as_str())?)];
        names.extend(dns_names(dns)?);
        Ok(Self {
            // Not the bare name: PostgreSQL takes a common name for a role, and an SVID is for the mesh.
            common_name: format!("workload {}", id.path()),
            names,
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        })
    }

    /// Names of a server, and no workload identity.
    pub(crate) fn server(dns: &[String], ips: &[IpAddr]) -> Result<Self, IdentityError> {
        let mut names = dns_names(dns)?;
        names.extend(ips.iter().copied().map(SanType::IpAddress));
        if names.is_empty() {
            return Err(IdentityError::Name(String::new()));
        }
        Ok(Self {
            common_name: dns.first().map_or("server", String::as_str).to_owned(),
            names,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        })
    }

    /// A role of a database as common name (PostgreSQL `clientcert`).
    pub(crate) fn client(common_name: &str) -> Result<Self, IdentityError> {
        if common_name.is_empty() || common_name.chars().count() > MAX_COMMON_NAME_CHARS {
            return Err(IdentityError::Name(common_name.to_owned()));
        }
        Ok(Self {
            common_name: common_name.to_owned(),
            names: Vec::new(),
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
        })
    }

    /// Signs for `key`; the leaf never outlives `issuer_end`.
    pub(crate) fn sign(
        self,
        key: &impl PublicKeyData,
        issuer: &Issuer<'_, KeyPair>,
        issuer_end: OffsetDateTime,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Leaf, IdentityError> {
        let serial = Serial::random()?;
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        params.not_before = whole_seconds(now) - BACKDATE;
        params.not_after = end_within(issuer_end, ttl, now)?;
        params.distinguished_name = subject(&self.common_name);
        params.subject_alt_names = self.names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages;
        params.use_authority_key_identifier_extension = true;
        let (not_before, not_after) = (params.not_before, params.not_after);
        Ok(Leaf {
            certificate: params.signed_by(key, issuer)?,
            serial,
            not_before,
            not_after,
        })
    }
}

/// `now + ttl`, but never beyond the issuer: what outlives its issuer is refused anyway.
pub(crate) fn end_within(
    issuer_end: OffsetDateTime,
    ttl: Duration,
    now: OffsetDateTime,
) -> Result<OffsetDateTime, IdentityError> {
    if ttl < Duration::from_secs(1) {
        return Err(IdentityError::Lifetime("shorter than one second"));
    }
    if now >= issuer_end {
        return Err(IdentityError::AuthorityExpired(issuer_end));
    }
    let ttl = time::Duration::try_from(ttl)
        .map_err(|_| IdentityError::Lifetime("too long to express"))?;
    let end = whole_seconds(now)
        .checked_add(ttl)
        .ok_or(IdentityError::Lifetime("ends after the year 9999"))?;
    Ok(whole_seconds(end).min(issuer_end))
}

/// A subject for people to read; identity stands in the alternative names alone.
pub(crate) fn subject(common_name: &str) -> DistinguishedName {
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

pub(crate) fn ia5(text: &str) -> Result<rcgen::string::Ia5String, IdentityError> {
    text.try_into()
        .map_err(|_| IdentityError::Name(text.to_owned()))
}

/// X.509 knows no fractions of a second; keeping them would make `not_after` lie.
pub(crate) fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}
