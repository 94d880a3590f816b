//! Certificates and keys as PEM files (RFC 7468), for those that read files: `--health` and the
//! PostgreSQL client. Both are this process's own; nobody else's key is ever here.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringwall_secret::{Secret, SecretString, private_file};
use rustls::pki_types::CertificateDer;

use crate::error::Error;

/// A chain or a bundle.
pub(crate) fn certificates(chain: &[CertificateDer<'_>]) -> SecretString {
    let text: String = chain.iter().map(|der| block("CERTIFICATE", der)).collect();
    Secret::new(text)
}

/// A private key.
pub(crate) fn key(pkcs8: &[u8]) -> SecretString {
    Secret::new(block("PRIVATE KEY", pkcs8))
}

/// Writes the files, each atomically, mode 0600, in this order.
pub(crate) fn write<const N: usize>(
    directory: &Path,
    files: [(&str, SecretString); N],
) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| Error::File {
            what: directory.display().to_string(),
            source,
        })?;
    for (name, text) in files {
        private_file::write(&directory.join(name), text.expose().as_bytes())?;
    }
    Ok(())
}

fn block(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (position, character) in STANDARD.encode(der).chars().enumerate() {
        if position > 0 && position % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}
