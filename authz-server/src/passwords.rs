//! argon2id at 19 MiB, two passes, one lane (OWASP's minimum), with a bound on how many run.
//!
//! A hash costs memory on purpose, so their number is the server's memory: permits bound the
//! running ones, a second bound the waiting ones, and beyond both the answer is 503.

use std::sync::Arc;

use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use ringwall_secret::SecretString;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use crate::config::PasswordPolicy;
use crate::error::Error;

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const OUTPUT_BYTES: usize = Params::DEFAULT_OUTPUT_LEN;
/// A little more than the 32 MiB up to which glibc may keep memory for itself.
const MAPPED_BLOCKS: usize = 33 * 1024;
/// Longer input is refused before any work.
pub(crate) const MAX_PASSWORD_BYTES: usize = 256;

/// Hashes and verifies within the bounds of the policy.
pub(crate) struct Passwords {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    /// Hash of a random password: what an unknown user is compared with, so that existence costs
    /// the same time as absence.
    decoy: String,
}

impl Passwords {
    pub(crate) fn new(policy: &PasswordPolicy) -> Result<Self, Error> {
        let decoy = crate::random::OpaqueToken::random()?;
        Ok(Self {
            running: Arc::new(Semaphore::new(policy.concurrent_hashes)),
            admitted: Arc::new(Semaphore::new(policy.concurrent_hashes + policy.waiting)),
            decoy: hash_now(decoy.text())?,
        })
    }

    pub(crate) async fn hash(&self, password: SecretString) -> Result<String, Error> {
        self.run(move || hash_now(password.expose())).await
    }

    /// Whether the password is the one of `stored`; without a stored hash the same work is done
    /// and the answer is no.
    pub(crate) async fn verify(
        &self,
        password: SecretString,
        stored: Option<String>,
    ) -> Result<bool, Error> {
        let known = stored.is_some();
        let hash = stored.unwrap_or_else(|| self.decoy.clone());
        let matches = self
            .run(move || verify_now(password.expose(), &hash))
            .await?;
        Ok(matches && known)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _admitted = self.admitted.try_acquire().map_err(|_| Error::Busy)?;
        let permit = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| Error::Busy)?;
        tokio::task::spawn_blocking(move || {
            // Held by the work and not by the request, which may be cancelled while it runs.
            let _permit = permit;
            work()
        })
        .await?
    }
}

fn hash_now(password: &str) -> Result<String, Error> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(damaged)?;
    let salt = Salt::new(&crate::random::random_bytes()?).map_err(damaged)?;
    let output = derive(&params, password, &salt)?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: (&params).try_into().map_err(damaged)?,
        salt: Some(salt),
        hash: Some(Output::new(&output).map_err(damaged)?),
    };
    Ok(hash.to_string())
}

fn verify_now(password: &str, stored: &str) -> Result<bool, Error> {
    let stored = PasswordHash::new(stored).map_err(damaged)?;
    let params = Params::try_from(&stored).map_err(damaged)?;
    let known = stored.algorithm == Algorithm::Argon2id.ident()
        && stored.version == Some(Version::V0x13.into());
    match (&stored.salt, &stored.hash) {
        (Some(salt), Some(expected)) if known => {
            let output = derive(&params, password, salt)?;
            Ok(output.ct_eq(expected.as_bytes()).into())
        }
        _ => Err(damaged("not an argon2id hash")),
    }
}

/// The argon2id function itself, in memory that goes back to the system afterwards.
///
/// glibc keeps freed blocks of up to 32 MiB in its arenas, one per thread, so that four sign-ins
/// would leave 76 MiB behind for ever. A larger reservation is always its own mapping; what lies
/// beyond the blocks in use is never touched and costs nothing.
fn derive(params: &Params, password: &str, salt: &[u8]) -> Result<[u8; OUTPUT_BYTES], Error> {
    let needed = params.block_count();
    let mut blocks = Vec::with_capacity(needed.max(MAPPED_BLOCKS));
    blocks.resize(needed, Block::new());
    let mut output = [0; OUTPUT_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut output, &mut blocks[..])
        .map_err(damaged)?;
    Ok(output)
}

fn damaged(error: impl std::fmt::Display) -> Error {
    Error::PasswordHash(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::new(text.to_owned())
    }

    #[tokio::test]
    async fn r52_hashes_are_argon2id_with_the_stated_cost() {
        let passwords = Passwords::new(&PasswordPolicy::default()).unwrap();
        let hash = passwords.hash(secret("correct horse")).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert!(
            passwords
                .verify(secret("correct horse"), Some(hash.clone()))
                .await
                .unwrap()
        );
        assert!(!passwords.verify(secret("wrong"), Some(hash)).await.unwrap());
        assert!(!passwords.verify(secret("anything"), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_flood_of_hashes_is_refused_before_memory_ends() {
        let policy = PasswordPolicy {
            concurrent_hashes: 1,
            waiting: 1,
        };
        let passwords = Arc::new(Passwords::new(&policy).unwrap());
        let attempts = (0..8).map(|_| {
            let passwords = Arc::clone(&passwords);
            tokio::spawn(async move { passwords.verify(secret("x"), None).await })
        });
        let mut busy = 0;
        for attempt in attempts.collect::<Vec<_>>() {
            if matches!(attempt.await.unwrap(), Err(Error::Busy)) {
                busy += 1;
            }
        }
        assert!(busy >= 1, "no attempt was refused");
        // The bound is on what runs at once: afterwards there is room again.
        assert!(!passwords.verify(secret("x"), None).await.unwrap());
    }
}
