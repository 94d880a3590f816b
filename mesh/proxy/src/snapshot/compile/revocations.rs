//! Who is no longer believed: the lists, and the serials of the CRL (RFC 5280 §5).

use std::collections::HashSet;

use ringwall_identity::SpiffeId;
use ringwall_mesh_api::v1;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{Fault, at_most, brief};
use crate::snapshot::Revocations;

/// Entries of one list. Certificates live for an hour: a list of this length is a defect.
const MAX_ENTRIES: usize = 100_000;
/// Longest serial number (RFC 5280 §4.1.2.2: 20 octets, and the zero that DER may add).
const MAX_SERIAL: usize = 21;
const MAX_CRL_BYTES: usize = 8 * 1024 * 1024;

pub(crate) fn revocations(message: &v1::Revocations) -> Result<Revocations, Fault> {
    at_most("serials", message.serials.len(), MAX_ENTRIES)?;
    at_most("SPIFFE ids", message.spiffe_ids.len(), MAX_ENTRIES)?;
    at_most("keys", message.spki_sha256.len(), MAX_ENTRIES)?;
    let mut serials = listed(&message.crl)?;
    for serial in &message.serials {
        serials.insert(self::serial(serial)?);
    }
    let ids = message.spiffe_ids.iter().map(|id| {
        let parsed = SpiffeId::parse(id);
        parsed
            .map(|id| id.as_str().to_owned())
            .map_err(|error| format!("`{}`: {error}", brief(id)))
    });
    let keys = message.spki_sha256.iter().map(|key| {
        <[u8; 32]>::try_from(key.as_slice())
            .map_err(|_| format!("a SHA-256 of {} bytes", key.len()))
    });
    Ok(Revocations {
        revision: message.revision,
        serials,
        spiffe_ids: ids.collect::<Result<_, Fault>>()?,
        spki_sha256: keys.collect::<Result<_, Fault>>()?,
    })
}

/// Serials of a CRL. Its signature is not checked here: it came over the control plane's connection as the lists beside
/// it did, and it can only take trust away. Handshakes check signed lists (`ringwall-tls`).
fn listed(crl: &[u8]) -> Result<HashSet<Vec<u8>>, Fault> {
    if crl.is_empty() {
        return Ok(HashSet::new());
    }
    at_most("bytes of CRL", crl.len(), MAX_CRL_BYTES)?;
    let (rest, list) = CertificateRevocationList::from_der(crl)
        .map_err(|_| "the CRL is not one (RFC 5280 §5)".to_owned())?;
    if !rest.is_empty() {
        return Err("bytes follow the CRL".to_owned());
    }
    at_most(
        "entries of the CRL",
        list.iter_revoked_certificates().count(),
        MAX_ENTRIES,
    )?;
    list.iter_revoked_certificates()
        .map(|revoked| serial(revoked.raw_serial()))
        .collect()
}

fn serial(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    at_most("bytes of serial number", bytes.len(), MAX_SERIAL)?;
    let serial = Revocations::serial(bytes);
    if serial.is_empty() {
        return Err("a serial number is empty".to_owned());
    }
    Ok(serial.to_vec())
}
