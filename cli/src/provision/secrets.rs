//! The generated secrets: what the composition declares and nobody has yet is made, what is there
//! is kept.
//!
//! Each component has one sealed file with a key of its own (R73). A shared secret that one holder
//! has lost is copied from the other; an API key whose hash does not fit its key is made anew. Beside
//! what is declared, a component and its service proxy share a token for the way between them.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_secret::{SealKey, Secret, SecretBytes, SecretString, private_file, sealed};
use ringwall_token::api_key::{self, ApiKeyEntry, KeyId};
use ringwall_token::{Algorithm, SigningKey};

use super::authority::sealed_or_empty;
use crate::composition::{
    API_KEY_ENTRIES, API_KEY_PEPPER, Composition, Holders, SecretSpec, Shown, proxy_name,
};
use crate::error::CliError;
use crate::postgres::DATABASE_PASSWORD;
use crate::state::StateDir;

/// Secrets of one component by name.
pub(crate) type Named = BTreeMap<String, SecretBytes>;
/// Secrets of every component.
type Vault = BTreeMap<String, Named>;

/// What a component and its service proxy share.
const LOOPBACK_TOKEN: &str = "loopback-token";
/// Seals keys in the control plane's store.
const STORE_KEY: &str = "store-key";

/// Letters and digits that are not taken for each other; 32 of them, so that 5 bits choose one.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Makes what is missing; true when anything was.
pub(crate) fn ensure(composition: &Composition, state: &StateDir) -> Result<bool, CliError> {
    let mut vault = Vault::new();
    let mut keys = BTreeMap::new();
    for (name, _) in composition.programs() {
        let (key, secrets) = open(state, &name)?;
        keys.insert(name.clone(), key);
        vault.insert(name, secrets);
    }
    let changed = complete(&mut vault, composition)?;
    let mut made = false;
    for (name, key) in &keys {
        let (file, _) = state.secrets(name);
        if changed.contains(name) || !file.exists() {
            sealed::write(&file, key, name, vault.get(name).unwrap_or(&Named::new()))?;
            made = true;
        }
    }
    Ok(made)
}

/// Changes a component's secrets in its sealed file; `change` says whether there is anything to write.
pub(crate) fn update(
    state: &StateDir,
    name: &str,
    change: impl FnOnce(&mut Named) -> Result<bool, CliError>,
) -> Result<bool, CliError> {
    let (key, mut secrets) = open(state, name)?;
    let changed = change(&mut secrets)?;
    if changed {
        let (file, _) = state.secrets(name);
        sealed::write(&file, &key, name, &secrets)?;
    }
    Ok(changed)
}

/// A demo identity with its secret.
pub(crate) struct Credential {
    pub(crate) whose: Shown,
    pub(crate) secret: SecretString,
}

/// The demo identities, read from the sealed files.
pub(crate) fn credentials(
    composition: &Composition,
    state: &StateDir,
) -> Result<Vec<Credential>, CliError> {
    let mut credentials = Vec::new();
    for spec in &composition.secrets {
        let (Some(whose), Some((holder, name))) =
            (spec.shown(), spec.holders().value.first_key_value())
        else {
            continue;
        };
        if let Some(secret) = read(state, holder, name)? {
            credentials.push(Credential {
                whose: whose.clone(),
                secret,
            });
        }
    }
    Ok(credentials)
}

/// One secret of one component as text; none when it was not made yet.
pub(crate) fn read(
    state: &StateDir,
    component: &str,
    name: &str,
) -> Result<Option<SecretString>, CliError> {
    let (file, key_file) = state.secrets(component);
    if !file.exists() {
        return Ok(None);
    }
    let secrets = sealed::read(&file, &SealKey::from_file(&key_file)?, component)?;
    Ok(secrets.get(name).map(text))
}

/// The component's seal key (made when absent) and its secrets.
fn open(state: &StateDir, name: &str) -> Result<(SealKey, Named), CliError> {
    let (file, key_file) = state.secrets(name);
    if !key_file.exists() {
        let key = SealKey::generate()?;
        private_file::write(&key_file, key.to_hex().expose().as_bytes())?;
    }
    let key = SealKey::from_file(&key_file)?;
    let secrets = sealed_or_empty(sealed::read(&file, &key, name))?;
    Ok((key, secrets))
}

/// Adds every declared secret that is missing; the components whose secrets changed.
fn complete(vault: &mut Vault, composition: &Composition) -> Result<BTreeSet<String>, CliError> {
    let mut changed = BTreeSet::new();
    let domain = TrustDomain::parse(&composition.trust_domain.value)?;
    for (component, _) in composition.sidecars() {
        let holders = [component.name.value.clone(), proxy_name(component)];
        let holders = holders.map(|holder| (holder, LOOPBACK_TOKEN.to_owned()));
        same(vault, &Holders::from(holders), &mut changed, random)?;
    }
    // Replicas read what one of them has sealed.
    let planes = |name: &str| -> Holders {
        let planes = composition.control_planes();
        planes
            .map(|(plane, _)| (plane.name.value.clone(), name.to_owned()))
            .collect()
    };
    if composition.mesh.is_some() {
        same(vault, &planes(STORE_KEY), &mut changed, random)?;
    }
    if composition.plane_database().is_some() {
        same(vault, &planes(DATABASE_PASSWORD), &mut changed, password)?;
    }
    // Peppers are random secrets: they must be there before the keys that they hash.
    for spec in &composition.secrets {
        let holders = &spec.holders().value;
        match spec {
            SecretSpec::Random { .. } => same(vault, holders, &mut changed, random)?,
            SecretSpec::Password { .. } => same(vault, holders, &mut changed, password)?,
            SecretSpec::SigningKey { .. } => same(vault, holders, &mut changed, signing_key)?,
            SecretSpec::ApiKey { .. } => {}
        }
    }
    for spec in &composition.secrets {
        if let SecretSpec::ApiKey { r#for, to, scopes } = spec {
            let Some((caller, name)) = r#for.value.first_key_value() else {
                continue;
            };
            let pair = ApiKeyPair {
                caller,
                name,
                id: SpiffeId::workload(&domain, caller)?,
                callee: &to.value,
                scopes,
            };
            pair.ensure(vault, &mut changed)?;
        }
    }
    Ok(changed)
}

/// One value for all holders: kept where one has it, made where none has.
fn same(
    vault: &mut Vault,
    holders: &Holders,
    changed: &mut BTreeSet<String>,
    make: fn() -> Result<SecretBytes, CliError>,
) -> Result<(), CliError> {
    let known = holders
        .iter()
        .find_map(|(holder, name)| vault.get(holder)?.get(name).cloned());
    let value = match known {
        Some(value) => value,
        None => make()?,
    };
    for (holder, name) in holders {
        let secrets = vault.entry(holder.clone()).or_default();
        if !secrets
            .get(name)
            .is_some_and(|present| present.ct_eq(value.expose()))
        {
            secrets.insert(name.clone(), value.clone());
            changed.insert(holder.clone());
        }
    }
    Ok(())
}

/// An API key and the entry by which its callee knows it.
struct ApiKeyPair<'a> {
    caller: &'a str,
    name: &'a str,
    id: SpiffeId,
    callee: &'a str,
    scopes: &'a [String],
}

impl ApiKeyPair<'_> {
    /// Keeps the caller's key when it has one; makes the callee's entry say what is declared.
    fn ensure(&self, vault: &mut Vault, changed: &mut BTreeSet<String>) -> Result<(), CliError> {
        let callee = vault.entry(self.callee.to_owned()).or_default();
        let pepper = callee
            .get(API_KEY_PEPPER)
            .cloned()
            .ok_or_else(|| CliError::internal("making an API key", "its pepper was not made"))?;
        let mut entries = entries(callee.get(API_KEY_ENTRIES))?;
        let caller = vault.entry(self.caller.to_owned()).or_default();
        let known = caller
            .get(self.name)
            .map(text)
            .and_then(|key| Some((key_id(&key)?, key)));
        let (id, key) = match known {
            Some(pair) => pair,
            None => {
                let (id, key) = self.make()?;
                caller.insert(
                    self.name.to_owned(),
                    Secret::new(key.expose().clone().into_bytes()),
                );
                changed.insert(self.caller.to_owned());
                // A key that is lost can only be a stolen one.
                entries.retain(|entry| entry.caller != self.id);
                (id, key)
            }
        };
        let entry = ApiKeyEntry {
            hash: api_key::hash(&pepper, &key),
            caller: self.id.clone(),
            scopes: self.scopes.iter().cloned().collect(),
            not_after: None,
            id,
        };
        if entries.contains(&entry) {
            return Ok(());
        }
        entries.retain(|known| known.id != entry.id);
        entries.push(entry);
        let json = serde_json::to_vec(&entries)
            .map_err(|error| CliError::internal("writing API key entries", error))?;
        let callee = vault.entry(self.callee.to_owned()).or_default();
        callee.insert(API_KEY_ENTRIES.to_owned(), Secret::new(json));
        changed.insert(self.callee.to_owned());
        Ok(())
    }

    /// A new key, named after the caller and some randomness: `orders-k3f9q`.
    fn make(&self) -> Result<(KeyId, SecretString), CliError> {
        let refused =
            |error: ringwall_token::TokenError| CliError::internal("making an API key", error);
        let letters = password()?;
        let suffix: String = text(&letters).expose().chars().take(5).collect();
        let id = KeyId::parse(&format!("{:.20}-{suffix}", self.caller)).map_err(refused)?;
        let key = api_key::generate(&id).map_err(refused)?;
        Ok((id, key))
    }
}

/// The entries that a callee has; none yet is none.
fn entries(secret: Option<&SecretBytes>) -> Result<Vec<ApiKeyEntry>, CliError> {
    let Some(secret) = secret else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(secret.expose())
        .map_err(|error| CliError::internal("reading API key entries", error))
}

/// `rwk_<id>_<secret>` → id; the secret may itself hold underscores, an id cannot.
fn key_id(key: &SecretString) -> Option<KeyId> {
    let (id, _) = key.expose().strip_prefix("rwk_")?.split_once('_')?;
    KeyId::parse(id).ok()
}

pub(super) fn random() -> Result<SecretBytes, CliError> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| CliError::internal("making a secret", "no randomness"))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes).into_bytes()))
}

/// 100 bits in four groups of five.
fn password() -> Result<SecretBytes, CliError> {
    let mut bytes = [0; 20];
    rand::fill(&mut bytes).map_err(|_| CliError::internal("making a password", "no randomness"))?;
    let letters = bytes.map(|byte| *ALPHABET.get(usize::from(byte % 32)).unwrap_or(&b'0'));
    let groups: Vec<&[u8]> = letters.chunks(5).collect();
    Ok(Secret::new(groups.join(&b'-')))
}

fn signing_key() -> Result<SecretBytes, CliError> {
    let key = SigningKey::generate(Algorithm::Es256)
        .map_err(|error| CliError::internal("making a signing key", error))?;
    Ok(Secret::new(
        key.to_pkcs8_pem().expose().clone().into_bytes(),
    ))
}

fn text(secret: &SecretBytes) -> SecretString {
    Secret::new(String::from_utf8_lossy(secret.expose()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;
    use ringwall_token::api_key::ApiKeyRing;
    use std::time::SystemTime;

    fn composition() -> Composition {
        let text = include_str!("../../testdata/small.yaml").to_owned();
        Composition::read(&Source {
            name: "small.yaml".into(),
            text,
        })
        .unwrap()
    }

    fn exposed(vault: &Vault) -> BTreeMap<(String, String), Vec<u8>> {
        let mut all = BTreeMap::new();
        for (component, secrets) in vault {
            for (name, secret) in secrets {
                all.insert((component.clone(), name.clone()), secret.expose().clone());
            }
        }
        all
    }

    #[test]
    fn the_second_start_keeps_every_secret() {
        let mut vault = Vault::new();
        let changed = complete(&mut vault, &composition()).unwrap();
        assert_eq!(
            changed.into_iter().collect::<Vec<_>>(),
            ["inventory", "orders"]
        );
        let first = exposed(&vault);
        assert!(complete(&mut vault, &composition()).unwrap().is_empty());
        assert_eq!(exposed(&vault), first);
    }

    #[test]
    fn a_shared_secret_is_the_same_for_both_and_is_restored_from_the_other() {
        let mut vault = Vault::new();
        complete(&mut vault, &composition()).unwrap();
        let theirs = vault["inventory"]["shared-by-inventory"].clone();
        assert!(vault["orders"]["shared-by-orders"].ct_eq(theirs.expose()));
        vault.get_mut("orders").unwrap().remove("shared-by-orders");
        let changed = complete(&mut vault, &composition()).unwrap();
        assert_eq!(changed.into_iter().collect::<Vec<_>>(), ["orders"]);
        assert!(vault["orders"]["shared-by-orders"].ct_eq(theirs.expose()));
    }

    #[test]
    fn r20_the_callee_accepts_the_key_from_its_caller_only() {
        let mut vault = Vault::new();
        complete(&mut vault, &composition()).unwrap();
        let callee = &vault["inventory"];
        let entries = entries(callee.get(API_KEY_ENTRIES)).unwrap();
        let ring = ApiKeyRing::new(&callee[API_KEY_PEPPER], entries).unwrap();
        let key = text(&vault["orders"]["api-key-inventory"]);
        let id = |path: &str| SpiffeId::parse(&format!("spiffe://ringwall.local/{path}")).unwrap();
        let now = SystemTime::now();
        assert!(
            ring.verify(key.expose(), &id("orders"), "items:read", now)
                .is_ok()
        );
        assert!(
            ring.verify(key.expose(), &id("inventory"), "items:read", now)
                .is_err()
        );
        assert!(
            ring.verify(key.expose(), &id("orders"), "items:write", now)
                .is_err()
        );
        let stored = String::from_utf8(callee[API_KEY_ENTRIES].expose().clone()).unwrap();
        assert!(!stored.contains(key.expose()), "only the hash is stored");
    }

    #[test]
    fn a_lost_key_is_replaced_and_the_old_one_is_refused() {
        let mut vault = Vault::new();
        complete(&mut vault, &composition()).unwrap();
        let old = text(
            &vault
                .get_mut("orders")
                .unwrap()
                .remove("api-key-inventory")
                .unwrap(),
        );
        complete(&mut vault, &composition()).unwrap();
        let callee = &vault["inventory"];
        let entries = entries(callee.get(API_KEY_ENTRIES)).unwrap();
        assert_eq!(entries.len(), 1);
        let ring = ApiKeyRing::new(&callee[API_KEY_PEPPER], entries).unwrap();
        let caller = SpiffeId::parse("spiffe://ringwall.local/orders").unwrap();
        assert!(
            ring.verify(old.expose(), &caller, "items:read", SystemTime::now())
                .is_err()
        );
    }

    #[test]
    fn passwords_are_typable_and_differ() {
        let one = text(&password().unwrap()).expose().clone();
        assert_eq!(one.len(), 23);
        assert!(
            one.bytes()
                .all(|byte| byte == b'-' || ALPHABET.contains(&byte)),
            "{one}"
        );
        assert_ne!(&one, text(&password().unwrap()).expose());
    }
}
