//! The SCRAM-SHA-256 verifier that PostgreSQL keeps instead of a password (RFC 5803, RFC 7677).

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringwall_secret::SecretString;

use crate::error::CliError;

/// RFC 7677 §4: at least 4096.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("4096 is not zero");

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` with a random salt.
pub(super) fn verifier(password: &SecretString) -> Result<String, CliError> {
    let mut salt = [0; 16];
    rand::fill(&mut salt).map_err(|_| CliError::internal("making a salt", "no randomness"))?;
    Ok(with_salt(password, &salt))
}

/// RFC 5802 §3. Our passwords are ASCII, which SASLprep leaves as they are.
fn with_salt(password: &SecretString, salt: &[u8]) -> String {
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    let secret = password.expose().as_bytes();
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        ITERATIONS,
        salt,
        secret,
        &mut salted,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key),
        STANDARD.encode(server_key)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringwall_secret::Secret;

    /// RFC 7677 §3 gives password, salt and the server's signature; the keys follow from them.
    #[test]
    fn the_rfc_7677_example_is_reproduced() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = with_salt(&Secret::new("pencil".to_owned()), &salt);
        assert_eq!(
            verifier,
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
             WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
             wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn each_verifier_has_its_own_salt() {
        let password = Secret::new("pencil".to_owned());
        assert_ne!(verifier(&password).unwrap(), verifier(&password).unwrap());
    }
}
