//! Randomness that this component asks for. Keys and serial numbers are made by the crates that own
//! them.

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringwall_identity::IdentityError;
use ringwall_secret::{Secret, SecretString};

use crate::error::Error;

/// Evenly from -1 to 1: how far a renewal moves. Without randomness there is no jitter, which harms
/// nobody but fleets.
pub(crate) fn jitter() -> f64 {
    let mut bytes = [0; 4];
    match rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX) * 2.0 - 1.0,
        Err(_) => 0.0,
    }
}

/// 256 random bits as text.
pub(crate) fn token() -> Result<SecretString, Error> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| IdentityError::Randomness)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}
