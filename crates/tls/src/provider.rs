//! The cryptography below TLS: aws-lc-rs, X25519MLKEM768 and AES-128-GCM first (R70, docs/adr/0023).

use std::sync::{Arc, LazyLock};

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// Makes aws-lc-rs the process's default, for libraries that ask for one (reqwest in tests does).
/// May be called any number of times. Our own configurations name the provider explicitly.
pub fn install_crypto_provider() {
    // An error means that a provider stands already; the first one wins by design.
    let _ = ordered().install_default();
}

/// The provider of every configuration of this crate.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ordered()));
    Arc::clone(&PROVIDER)
}

fn ordered() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    // rustls itself begins with AES-256-GCM; a stable sort leaves the others in its order.
    let suites = &mut provider.cipher_suites;
    suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::NamedGroup;

    #[test]
    fn r70_the_post_quantum_hybrid_comes_first() {
        let groups: Vec<_> = provider()
            .kx_groups
            .iter()
            .map(|group| group.name())
            .collect();
        assert_eq!(groups.first(), Some(&NamedGroup::X25519MLKEM768));
        assert!(
            groups.contains(&NamedGroup::X25519),
            "for peers without the hybrid"
        );
    }

    #[test]
    fn r70_aes_128_comes_first_and_no_suite_is_lost() {
        let suites: Vec<_> = provider()
            .cipher_suites
            .iter()
            .map(|suite| suite.suite())
            .collect();
        let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
        assert_eq!(suites.first(), Some(&first));
        let rest = aws_lc_rs::DEFAULT_CIPHER_SUITES
            .iter()
            .map(|suite| suite.suite())
            .filter(|suite| *suite != first);
        assert!(suites.into_iter().skip(1).eq(rest));
    }

    #[test]
    fn installing_twice_is_harmless() {
        install_crypto_provider();
        install_crypto_provider();
        assert!(CryptoProvider::get_default().is_some());
    }
}
