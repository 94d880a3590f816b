//! DER to PEM (RFC 7468), for files and for Envoy.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Label of a certificate.
pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
/// Label of a PKCS#8 key.
pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY";
/// Label of a revocation list.
pub(crate) const CRL: &str = "X509 CRL";

/// Each of `items` under `label`, one after the other. Wiped when dropped, since it may be a key.
pub(crate) fn encode<D: AsRef<[u8]>>(
    label: &str,
    items: impl IntoIterator<Item = D>,
) -> Zeroizing<String> {
    /// RFC 7468 §2: lines of 64 characters.
    const WIDTH: usize = 64;
    let mut text = Zeroizing::new(String::new());
    for der in items {
        let body = Zeroizing::new(STANDARD.encode(der));
        // Enough at once: a buffer that grows would leave parts of a key behind.
        text.reserve(body.len() + body.len() / WIDTH + 2 * label.len() + 40);
        text.push_str("-----BEGIN ");
        text.push_str(label);
        text.push_str("-----\n");
        let mut rest = body.as_str();
        while !rest.is_empty() {
            let (line, next) = rest.split_at(rest.len().min(WIDTH));
            text.push_str(line);
            text.push('\n');
            rest = next;
        }
        text.push_str("-----END ");
        text.push_str(label);
        text.push_str("-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    proptest! {
        #[test]
        fn what_is_encoded_is_read_again(items in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..200), 0..4)) {
            let text = encode(CERTIFICATE, &items);
            let read: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(text.as_bytes())
                .map(|der| der.unwrap().to_vec())
                .collect();
            prop_assert_eq!(read, items);
            prop_assert!(text.lines().all(|line| line.len() <= 64));
        }
    }
}
