//! The key that signs events, kept in the state directory.
//!
//! Owns: making it at the first start and reading it afterwards. With the sealed secret provider it
//! is sealed under the component's own seal key; otherwise it is a file of mode 0600. It must never
//! be replaced silently: a key that cannot be read stops the start, because consumers hold events
//! that it signed. Read next: `events.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use ringwall_secret::{
    SealKey, Secret, SecretBytes, SecretError, SecretString, SecretsConfig, private_file, sealed,
};
use ringwall_token::{Algorithm, SigningKey, TokenError};

/// Bound into the sealed file, so that it cannot be swapped for another of the same component.
const OWNER: &str = "orders-event-key";
const KEY_ID: &str = "kid";
const KEY: &str = "private-key";

#[derive(Debug, thiserror::Error)]
pub(crate) enum EventKeyError {
    #[error("the event key cannot be read or stored")]
    File(#[from] SecretError),
    #[error("the event key is not usable")]
    Key(#[from] TokenError),
    #[error("the event key's file is incomplete: restore it from a backup")]
    Incomplete,
}

/// Reads the key from `state`, or makes one if there is none yet.
pub(crate) fn load_or_create(
    state: &Path,
    secrets: &SecretsConfig,
) -> Result<SigningKey, EventKeyError> {
    let kept = match secrets {
        SecretsConfig::Sealed { key_file, .. } => Kept::Sealed(
            state.join("event-key.sealed"),
            SealKey::from_file(key_file)?,
        ),
        _ => Kept::Private(state.join("event-key")),
    };
    if kept.exists() {
        return kept.read();
    }
    let key = SigningKey::generate(Algorithm::Es256)?;
    kept.write(&key)?;
    Ok(key)
}

/// Where and how the key is kept.
enum Kept {
    Sealed(std::path::PathBuf, SealKey),
    Private(std::path::PathBuf),
}

impl Kept {
    fn exists(&self) -> bool {
        match self {
            Self::Sealed(path, _) | Self::Private(path) => path.exists(),
        }
    }

    fn read(&self) -> Result<SigningKey, EventKeyError> {
        let (kid, pem) = match self {
            Self::Sealed(path, seal) => {
                let mut content = sealed::read(path, seal, OWNER)?;
                let mut take = |name| content.remove(name).ok_or(EventKeyError::Incomplete);
                (text(&take(KEY_ID)?)?, text(&take(KEY)?)?)
            }
            Self::Private(path) => {
                // First line: the key id; the rest: PKCS#8 PEM.
                let whole = text(&private_file::read(path)?)?;
                let (kid, pem) = whole
                    .expose()
                    .split_once('\n')
                    .ok_or(EventKeyError::Incomplete)?;
                (Secret::new(kid.to_owned()), Secret::new(pem.to_owned()))
            }
        };
        Ok(SigningKey::from_pkcs8_pem(
            kid.expose(),
            Algorithm::Es256,
            &pem,
        )?)
    }

    fn write(&self, key: &SigningKey) -> Result<(), EventKeyError> {
        let pem = key.to_pkcs8_pem();
        match self {
            Self::Sealed(path, seal) => {
                let content = BTreeMap::from([
                    (KEY_ID.to_owned(), bytes(key.kid())),
                    (KEY.to_owned(), bytes(pem.expose())),
                ]);
                sealed::write(path, seal, OWNER, &content)?;
            }
            Self::Private(path) => {
                let whole = Secret::new(format!("{}\n{}", key.kid(), pem.expose()));
                private_file::write(path, whole.expose().as_bytes())?;
            }
        }
        Ok(())
    }
}

fn text(bytes: &SecretBytes) -> Result<SecretString, EventKeyError> {
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| EventKeyError::Incomplete)?;
    Ok(Secret::new(text.to_owned()))
}

fn bytes(text: &str) -> SecretBytes {
    Secret::new(text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sealed_config(directory: &Path) -> SecretsConfig {
        let key_file = directory.join("orders.seal-key");
        let key = SealKey::generate().unwrap();
        private_file::write(&key_file, key.to_hex().expose().as_bytes()).unwrap();
        SecretsConfig::Sealed {
            file: directory.join("orders.sealed"),
            key_file,
        }
    }

    #[test]
    fn r16_the_key_survives_a_restart_sealed_or_private() {
        let state = tempfile::tempdir().unwrap();
        let plain = SecretsConfig::File {
            directory: state.path().to_owned(),
        };
        for (config, file) in [
            (plain, "event-key"),
            (sealed_config(state.path()), "event-key.sealed"),
        ] {
            let first = load_or_create(state.path(), &config).unwrap();
            let second = load_or_create(state.path(), &config).unwrap();
            assert_eq!(first.kid(), second.kid());
            let mode = std::fs::metadata(state.path().join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn r69_the_sealed_key_does_not_show_in_the_file() {
        let state = tempfile::tempdir().unwrap();
        load_or_create(state.path(), &sealed_config(state.path())).unwrap();
        let file = std::fs::read(state.path().join("event-key.sealed")).unwrap();
        assert!(!file.windows(7).any(|bytes| bytes == b"PRIVATE"));
    }

    #[test]
    fn a_key_that_cannot_be_read_stops_the_start() {
        let state = tempfile::tempdir().unwrap();
        let config = sealed_config(state.path());
        load_or_create(state.path(), &config).unwrap();
        let other = sealed_config(state.path());
        assert!(matches!(
            load_or_create(state.path(), &other),
            Err(EventKeyError::File(_))
        ));
    }
}
