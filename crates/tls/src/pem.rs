//! PEM files in, rustls types out.
//!
//! Owns: the rule that a private key's file is private, and errors that name the file.

use std::path::Path;
use std::sync::Arc;

use ringwall_secret::private_file;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::TlsError;
use crate::provider::provider;

/// Longest certificate file, in bytes: hundreds of roots fit.
const MAX_CERTIFICATES_BYTES: u64 = 1024 * 1024;

/// All certificates of a PEM file, at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |what| TlsError::Content {
        path: path.to_owned(),
        what,
    };
    let text = bounded(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| wrong("not PEM"))?;
    if found.is_empty() {
        Err(wrong("there is no certificate in it"))
    } else {
        Ok(found)
    }
}

/// What a file of certificates or lists holds.
fn bounded(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(read)?.len() > MAX_CERTIFICATES_BYTES {
        return Err(TlsError::Content {
            path: path.to_owned(),
            what: "longer than 1 MiB",
        });
    }
    std::fs::read(path).map_err(read)
}

/// The revocation lists of a PEM file; none when the file is not there.
pub(crate) fn revocation_lists(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = bounded(path)?;
    CertificateRevocationListDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Content {
            path: path.to_owned(),
            what: "not PEM",
        })
}

/// A chain with its private key, checked to be a pair.
pub(crate) fn certified_key(chain: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let certificates = certificates(chain)?;
    let private = private_key(key)?;
    match CertifiedKey::from_der(certificates, private, &provider()) {
        Ok(pair) => Ok(Arc::new(pair)),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(TlsError::NotAPair {
                key: key.to_owned(),
                chain: chain.to_owned(),
            })
        }
        Err(other) => Err(other.into()),
    }
}

/// A private key whose file only its owner can read.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = private_file::read(path)?;
    PrivateKeyDer::from_pem_slice(text.expose()).map_err(|_| TlsError::Content {
        path: path.to_owned(),
        what: "not a PEM private key",
    })
}

/// The trust roots of a PEM file; each of them must be usable.
pub(crate) fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate)?;
    }
    Ok(Arc::new(store))
}
