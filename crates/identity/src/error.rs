//! What can go wrong with a name or a certificate.

use time::OffsetDateTime;

/// Every refusal of this crate. Variants are named by the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A trust domain breaks the rules of SPIFFE-ID §2.1.
    #[error("trust domain {seen:?} is not valid: {rule}")]
    TrustDomain {
        /// The text that was refused, cut to a printable length.
        seen: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A SPIFFE ID breaks the rules of SPIFFE-ID §2.
    #[error("SPIFFE ID {seen:?} is not valid: {rule}")]
    SpiffeId {
        /// The text that was refused, cut to a printable length.
        seen: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A certificate could not be parsed, or is not an X.509-SVID.
    #[error("certificate is not an X.509-SVID: {0}")]
    Svid(&'static str),
    /// A certificate of any kind cannot be read.
    #[error("certificate cannot be read: {0}")]
    Certificate(&'static str),
    /// A serial number is none.
    #[error("serial number is not one of RFC 5280: {0}")]
    Serial(&'static str),
    /// A request for a certificate is refused.
    #[error("certificate request is refused: {0}")]
    Request(&'static str),
    /// An authority does not stand where the trust bundle allows one.
    #[error("certificate authority is refused: {0}")]
    Chain(String),
    /// The system gave no randomness.
    #[error("the system gives no random bytes")]
    Randomness,
    /// The authority's own certificate or key cannot be used.
    #[error("certificate authority cannot be loaded: {0}")]
    Authority(&'static str),
    /// The authority was asked to certify a name outside its trust domain.
    #[error("authority of trust domain {authority} does not issue for {requested}")]
    ForeignTrustDomain {
        /// The authority's trust domain.
        authority: String,
        /// The name that was asked for.
        requested: String,
    },
    /// The lifetime asked for is zero or cannot be expressed.
    #[error("certificate lifetime is not usable: {0}")]
    Lifetime(&'static str),
    /// The authority's own certificate has ended.
    #[error("certificate authority expired at {0}; renew it first")]
    AuthorityExpired(OffsetDateTime),
    /// A subject alternative name or common name cannot be put in a certificate.
    #[error("name {0:?} cannot stand in a certificate")]
    Name(String),
    /// The X.509 library failed to make a key or a certificate.
    #[error("certificate could not be made")]
    Issue(#[from] rcgen::Error),
}

/// Cuts hostile text before it enters an error message, so that a log line stays a line.
pub(crate) fn excerpt(text: &str) -> String {
    const LIMIT_CHARS: usize = 80;
    let mut short: String = text.chars().take(LIMIT_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
