//! Every client that may exist, fixed at start: those of the configuration and those seeded in the
//! store.
//!
//! Secrets of configured clients are read from the secret provider at each use, so that a rotated
//! one counts at once; seeded clients have a digest in the store.

use std::collections::HashMap;
use std::sync::Arc;

use ringwall_secret::SecretProvider;
use ringwall_token::VerifyingKeys;
use subtle::ConstantTimeEq as _;

use crate::config::clients::ClientDeclaration;
use crate::error::Error;
use crate::ids::ClientId;
use crate::random::sha256;

/// 128 bits in hexadecimal: secrets are made by machines.
const MIN_SECRET_BYTES: usize = 32;
/// 32 random hexadecimal digits have fewer than this many distinct ones once in 10^5.
const MIN_VARIETY: usize = 9;

/// A registered client with what it takes to recognise it.
pub(crate) struct Client {
    pub(crate) declaration: ClientDeclaration,
    pub(crate) keys: Option<VerifyingKeys>,
    secret: ClientSecret,
}

enum ClientSecret {
    None,
    Named(String),
    Digest(Vec<u8>),
}

impl Client {
    pub(crate) fn configured(declaration: ClientDeclaration) -> Result<Self, Error> {
        let secret = if declaration.has_secret() {
            ClientSecret::Named(declaration.secret_name())
        } else {
            ClientSecret::None
        };
        Ok(Self {
            keys: verifying_keys(&declaration)?,
            declaration,
            secret,
        })
    }

    pub(crate) fn stored(
        declaration: ClientDeclaration,
        secret_sha256: Option<Vec<u8>>,
    ) -> Result<Self, Error> {
        let secret = secret_sha256.map_or(ClientSecret::None, ClientSecret::Digest);
        Ok(Self {
            keys: verifying_keys(&declaration)?,
            declaration,
            secret,
        })
    }

    pub(crate) fn id(&self) -> &ClientId {
        &self.declaration.id
    }

    /// Compares digests in constant time; a client without a secret never matches.
    pub(crate) fn secret_matches(
        &self,
        presented: &str,
        provider: &SecretProvider,
    ) -> Result<bool, Error> {
        let expected = match &self.secret {
            ClientSecret::None => return Ok(false),
            ClientSecret::Named(name) => {
                sha256(provider.get_string(name)?.expose().as_bytes()).to_vec()
            }
            ClientSecret::Digest(digest) => digest.clone(),
        };
        Ok(sha256(presented.as_bytes()).ct_eq(&expected).into())
    }

    /// Whether a named secret exists and is long enough not to be guessed.
    pub(crate) fn check_secret(&self, provider: &SecretProvider) -> Result<(), Error> {
        let ClientSecret::Named(name) = &self.secret else {
            return Ok(());
        };
        if is_weak(provider.get_string(name)?.expose()) {
            return Err(Error::WeakSecret { name: name.clone() });
        }
        Ok(())
    }

    /// The one audience of the tokens to be issued: the requested resource (RFC 8707) if the
    /// client is registered for it, else the client's default.
    pub(crate) fn audience(&self, resource: Option<&str>) -> Option<String> {
        let audiences = &self.declaration.audiences;
        match resource {
            Some(resource) => audiences.iter().find(|a| *a == resource).cloned(),
            None => audiences.first().cloned(),
        }
    }
}

fn verifying_keys(declaration: &ClientDeclaration) -> Result<Option<VerifyingKeys>, Error> {
    let Some(jwks) = &declaration.jwks else {
        return Ok(None);
    };
    let set = serde_json::from_value(jwks.clone())?;
    Ok(Some(VerifyingKeys::from_jwks(&set)?))
}

/// Whether a secret cannot have come from a random generator: too short, or of few characters, as
/// `changeme` repeated is.
pub(crate) fn is_weak(secret: &str) -> bool {
    let variety: std::collections::BTreeSet<char> = secret.chars().collect();
    secret.len() < MIN_SECRET_BYTES || variety.len() < MIN_VARIETY
}

/// All clients by id.
#[derive(Default)]
pub(crate) struct ClientRegistry(HashMap<ClientId, Arc<Client>>);

impl ClientRegistry {
    /// Adds a client; `false` when the id is taken.
    pub(crate) fn add(&mut self, client: Client) -> bool {
        self.0
            .insert(client.id().clone(), Arc::new(client))
            .is_none()
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Client>> {
        self.0.get(&ClientId::new(id)).cloned()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Client>> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_repeated_secrets_are_weak() {
        assert!(is_weak("secret"));
        assert!(is_weak(&"changeme".repeat(8)));
        assert!(!is_weak("9f86d081884c7d659a2feaa0c55ad015"));
    }
}
