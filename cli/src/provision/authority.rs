//! The certificate authority: made once, its key sealed beside its certificate.

use std::collections::BTreeMap;

use ringwall_identity::TrustDomain;
use ringwall_identity::authority::Authority;
use ringwall_secret::{SealKey, Secret, SecretError, private_file, sealed};
use time::OffsetDateTime;

use crate::error::CliError;
use crate::files;
use crate::output::say;
use crate::state::StateDir;

/// Owner of the sealed file, and the name of the one secret in it.
const OWNER: &str = "ca";
const KEY_NAME: &str = "root-key";

/// Loads the authority, or makes it at first start.
pub(crate) fn ensure(state: &StateDir, trust_domain: &str) -> Result<Authority, CliError> {
    let folder = state.authority();
    let (certificate, sealed_key, seal) = (
        state.ca_bundle(),
        state.root_key(),
        folder.join("root.seal-key"),
    );
    if let Some(pem) = files::read_if_there(&certificate)? {
        let seal = SealKey::from_file(&seal)?;
        let secrets = sealed::read(&sealed_key, &seal, OWNER)?;
        let key = secrets
            .get(KEY_NAME)
            .map(|key| String::from_utf8_lossy(key.expose()).into_owned());
        let authority = Authority::load(&pem, &key.unwrap_or_default())?;
        if !authority.certifies_authorities() {
            return Err(CliError::State {
                what: format!(
                    "the authority in {} was made before there were intermediates and cannot certify one",
                    folder.display()
                ),
                fix: "remove that folder: the next start makes a new authority, which browsers must be told of".into(),
            });
        }
        return of_domain(authority, trust_domain, state);
    }
    say("first start: making the certificate authority of this machine");
    let authority = Authority::generate(
        &TrustDomain::parse(trust_domain)?,
        OffsetDateTime::now_utc(),
    )?;
    let key = SealKey::generate()?;
    private_file::write(&seal, key.to_hex().expose().as_bytes())?;
    let secret = Secret::new(authority.key_pem().as_bytes().to_vec());
    sealed::write(
        &sealed_key,
        &key,
        OWNER,
        &BTreeMap::from([(KEY_NAME.to_owned(), secret)]),
    )?;
    // The certificate last: where it stands, the key stands too.
    files::write(&certificate, authority.cert_pem().as_bytes(), 0o644, None)?;
    Ok(authority)
}

fn of_domain(
    authority: Authority,
    trust_domain: &str,
    state: &StateDir,
) -> Result<Authority, CliError> {
    if authority.trust_domain().as_str() == trust_domain {
        return Ok(authority);
    }
    Err(CliError::State {
        what: format!(
            "{} holds the authority of {}, and the composition says {trust_domain}",
            state.root().display(),
            authority.trust_domain().as_str()
        ),
        fix: "put the trust domain back, or use a new --state-dir".into(),
    })
}

/// A sealed file's content; a file that is not there is empty.
pub(super) fn sealed_or_empty(
    result: Result<BTreeMap<String, ringwall_secret::SecretBytes>, SecretError>,
) -> Result<BTreeMap<String, ringwall_secret::SecretBytes>, SecretError> {
    match result {
        Err(SecretError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(BTreeMap::new())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_path_buf());
        std::fs::create_dir_all(state.authority()).unwrap();
        (folder, state)
    }

    #[test]
    fn the_second_start_keeps_the_authority() {
        let (_folder, state) = state();
        let first = ensure(&state, "ringwall.local").unwrap();
        let second = ensure(&state, "ringwall.local").unwrap();
        assert_eq!(first.cert_pem(), second.cert_pem());
        assert_eq!(first.key_pem(), second.key_pem());
    }

    #[test]
    fn the_key_does_not_rest_in_the_clear() {
        let (_folder, state) = state();
        ensure(&state, "ringwall.local").unwrap();
        let bytes = std::fs::read(state.authority().join("root.key")).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("PRIVATE KEY"));
    }

    #[test]
    fn another_trust_domain_is_refused() {
        let (_folder, state) = state();
        ensure(&state, "ringwall.local").unwrap();
        let error = ensure(&state, "example.org").unwrap_err().to_string();
        assert!(
            error.contains("holds the authority of ringwall.local"),
            "{error}"
        );
    }
}
