//! Join tokens: made by the operator here, or elsewhere and handed over as hashes in a secret.
//!
//! Owns: making, taking over and spending them. "Once" is one conditional statement of the store,
//! durable before anybody is answered.
//! Must not: keep or log a token's text. At rest there is its SHA-256 alone, which is enough for 256
//! random bits: nothing can be guessed, and a comparison of hashes tells nothing about the token.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use ringwall_secret::{Secret, SecretError, SecretProvider, SecretString};
use serde::Deserialize;
use time::OffsetDateTime;

use crate::error::Error;
use crate::random;
use crate::store::Store;
use crate::store::model::{Consumption, JoinRefusal, NewJoinToken, TokenHash};

/// Longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 256;
/// Who has made the tokens of the secret, for the audit log.
const FROM_SECRET: &str = "secret";

/// Clones share everything.
#[derive(Clone)]
pub(crate) struct JoinTokens {
    store: Arc<dyn Store>,
    secrets: Arc<SecretProvider>,
    /// Name of the secret.
    list: String,
}

/// A token of the secret's list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    sha256: String,
    node: String,
    not_after: i64,
}

impl JoinTokens {
    pub(crate) fn new(store: Arc<dyn Store>, secrets: Arc<SecretProvider>, list: String) -> Self {
        Self {
            store,
            secrets,
            list,
        }
    }

    /// A new token for `node`.
    pub(crate) async fn create(
        &self,
        node: &str,
        life: Duration,
        by: &str,
        now: OffsetDateTime,
    ) -> Result<(SecretString, OffsetDateTime), Error> {
        let token = random::token()?;
        let new = NewJoinToken {
            hash: hash(token.expose()),
            node: node.to_owned(),
            created_at: now,
            not_after: now + life,
            by: by.to_owned(),
        };
        if !self.store.add_join_token(&new).await? {
            return Err(Error::Conflict);
        }
        Ok((token, new.not_after))
    }

    /// Spends `token` for the holder of the key `by`. The answer is durable.
    pub(crate) async fn spend(
        &self,
        token: &str,
        by: &[u8; 32],
        now: OffsetDateTime,
    ) -> Result<Consumption, Error> {
        const UNKNOWN: Consumption = Consumption::Refused(JoinRefusal::Unknown);
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Ok(UNKNOWN);
        }
        let hash = hash(token);
        let first = self.store.consume_join_token(&hash, by, now).await?;
        // Not known here: perhaps the supervisor has just written it into the secret.
        if first == UNKNOWN && self.take_over(&hash, now).await? {
            return Ok(self.store.consume_join_token(&hash, by, now).await?);
        }
        Ok(first)
    }

    /// Adds the token of this hash if the secret lists it and it has not ended. One that was spent
    /// stands in the store until long after its end, and is not made new by this.
    async fn take_over(&self, wanted: &TokenHash, now: OffsetDateTime) -> Result<bool, Error> {
        let text = match self.secrets.get(&self.list) {
            Ok(text) => text,
            Err(SecretError::Missing { .. } | SecretError::Empty { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let list: Vec<Listed> = serde_json::from_slice(text.expose()).map_err(|_| {
            Error::Invalid(format!("the secret {} is no list of tokens", self.list))
        })?;
        for listed in list {
            let mut listed_hash = [0; 32];
            let Ok(()) = hex::decode_to_slice(&listed.sha256, &mut listed_hash) else {
                continue;
            };
            let not_after = OffsetDateTime::from_unix_timestamp(listed.not_after);
            let Ok(not_after) = not_after else { continue };
            if Secret::new(listed_hash).ct_eq(&wanted.0) && not_after > now {
                let new = NewJoinToken {
                    hash: *wanted,
                    node: listed.node,
                    created_at: now,
                    not_after,
                    by: FROM_SECRET.to_owned(),
                };
                // Another replica may have been faster: then the token is there as well.
                self.store.add_join_token(&new).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

pub(crate) fn hash(token: &str) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    TokenHash(hash)
}

#[cfg(test)]
mod tests;
