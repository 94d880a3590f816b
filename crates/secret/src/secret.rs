//! A value that cannot be printed, is wiped when dropped, and compares in constant time.
//!
//! Owns: [`Secret`]. Must not: grow a `Debug`, `Display`, `Serialize` or `PartialEq`: their absence is
//! what keeps values out of logs, configuration dumps and early-exit comparisons.

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// A secret value. It has no `Debug`, `Display` or `Serialize`:
///
/// ```compile_fail,E0277
/// let password = ringwall_secret::Secret::new("hunter2".to_owned());
/// println!("{:?}", password);
/// ```
/// ```compile_fail,E0277
/// let password = ringwall_secret::Secret::new("hunter2".to_owned());
/// println!("{}", password);
/// ```
/// ```compile_fail,E0277
/// fn dump<T: serde::Serialize>(_: T) {}
/// dump(ringwall_secret::Secret::new("hunter2".to_owned()));
/// ```
/// and no `==`, which would stop at the first difference:
/// ```compile_fail,E0369
/// let password = ringwall_secret::Secret::new("hunter2".to_owned());
/// let _ = password == password;
/// ```
#[derive(Clone)]
pub struct Secret<T: Zeroize>(T);

/// Secret text.
pub type SecretString = Secret<String>;
/// Secret bytes.
pub type SecretBytes = Secret<Vec<u8>>;

impl<T: Zeroize> Secret<T> {
    /// Takes ownership of `value`. Copies that the caller has made before are not wiped.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Lends the value. Every use of a secret reads `.expose()`, so that reviewers can find them.
    #[must_use]
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize + AsRef<[u8]>> Secret<T> {
    /// Compares in time that depends on the lengths alone.
    #[must_use]
    pub fn ct_eq(&self, other: &[u8]) -> bool {
        self.0.as_ref().ct_eq(other).into()
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn comparison_covers_length_and_content() {
        let secret = Secret::new("correct horse".to_owned());
        assert!(secret.ct_eq(b"correct horse"));
        assert!(!secret.ct_eq(b"correct horsf"));
        assert!(!secret.ct_eq(b"correct"));
        assert!(!secret.ct_eq(b""));
        assert!(Secret::new(vec![1_u8, 2]).clone().ct_eq(&[1, 2]));
    }

    #[test]
    fn dropping_wipes() {
        struct Witness(Arc<AtomicBool>);
        impl Zeroize for Witness {
            fn zeroize(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let wiped = Arc::new(AtomicBool::new(false));
        drop(Secret::new(Witness(Arc::clone(&wiped))));
        assert!(wiped.load(Ordering::SeqCst));
    }
}
