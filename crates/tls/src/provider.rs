//! The cryptography below TLS: aws-lc-rs, X25519MLKEM768 first (R70).

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// Makes aws-lc-rs the process's default, for libraries that ask for one (reqwest in tests does).
/// May be called any number of times. Our own configurations name the provider explicitly.
pub fn install_crypto_provider() {
    // An error means that a provider stands already; the first one wins by design.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// The provider of every configuration of this crate.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
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
    fn installing_twice_is_harmless() {
        install_crypto_provider();
        install_crypto_provider();
        assert!(CryptoProvider::get_default().is_some());
    }
}
