//! Secrets: a type that cannot be printed, and the places that secrets come from.
//!
//! Owns: [`Secret`], the providers behind [`SecretProvider`] (environment, files, sealed file), the
//! [`sealed`] file format and the writing of private files ([`private_file`]).
//! Must not: log a value, put one in an error, or hand one out in any form but [`Secret`].
//! Read next: `secret.rs`, then `provider.rs`, then `sealed.rs`.

mod envelope;
mod error;
pub mod private_file;
mod provider;
pub mod sealed;
mod secret;

pub use error::SecretError;
pub use provider::{SecretProvider, SecretsConfig};
pub use sealed::SealKey;
pub use secret::{Secret, SecretBytes, SecretString};
