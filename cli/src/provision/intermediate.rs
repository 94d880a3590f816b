//! The intermediate: it signs for the control plane, so that the root's key rests sealed.
//!
//! Owns: making it, renewing it at half of its life, and taking over one whose root is somebody
//! else's. It stands in the control plane's sealed secrets alone; the control plane reads it again by
//! itself. Must not: sign leaves, but for the operator's (`certificates.rs`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringwall_identity::TrustDomain;
use ringwall_identity::authority::Authority;
use ringwall_identity::intermediate::Intermediate;
use ringwall_secret::Secret;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::secrets;
use crate::composition::Composition;
use crate::error::CliError;
use crate::files;
use crate::output::say;
use crate::state::StateDir;

/// Long enough that a machine which is switched on once a month renews in time.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
const CHAIN: &str = "intermediate-cert";
const KEY: &str = "intermediate-key";

/// An authority of somebody else's: the files that its operator gives.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ExternalRoot {
    /// Trust bundle (PEM) of an authority of your own; at the first start, or to exchange it
    #[arg(long, value_name = "FILE", requires_all = ["intermediate_chain", "intermediate_key"])]
    external_root: Option<PathBuf>,
    /// The intermediate that it has signed for this platform, and those above it (PEM)
    #[arg(long, value_name = "FILE", requires = "external_root")]
    intermediate_chain: Option<PathBuf>,
    /// Its key (PKCS#8 PEM)
    #[arg(long, value_name = "FILE", requires = "external_root")]
    intermediate_key: Option<PathBuf>,
}

/// Takes over the given files, if any are given: root, chain and key must belong together.
pub(crate) fn take_over(
    composition: &Composition,
    state: &StateDir,
    given: &ExternalRoot,
) -> Result<(), CliError> {
    let (Some(root), Some(chain), Some(key)) = (
        &given.external_root,
        &given.intermediate_chain,
        &given.intermediate_key,
    ) else {
        return Ok(());
    };
    if composition.control_plane().is_none() {
        return Err(CliError::State {
            what: "an external root needs a control plane".into(),
            fix: "add the section `mesh` to the composition".into(),
        });
    }
    if state.root_key().exists() {
        return Err(CliError::State {
            what: format!(
                "{} has an authority of its own already",
                state.root().display()
            ),
            fix: "begin with an external root in a new --state-dir".into(),
        });
    }
    let (root, chain) = (read(root)?, read(chain)?);
    let key = ringwall_secret::private_file::read(key)?;
    let key = String::from_utf8_lossy(key.expose()).into_owned();
    let domain = TrustDomain::parse(&composition.trust_domain.value)?;
    Intermediate::load(
        &domain,
        &chain,
        &key,
        &roots(&root)?,
        OffsetDateTime::now_utc(),
    )?;
    put(composition, state, &chain, &key)?;
    // Last: where the bundle stands and no key of a root, the root is somebody else's.
    files::write(&state.ca_bundle(), root.as_bytes(), 0o644, None)
}

/// True when the root is not ours.
pub(crate) fn is_external(state: &StateDir) -> bool {
    state.ca_bundle().exists() && !state.root_key().exists()
}

/// Makes the intermediate, or another one when half of its life is over; true when it did.
pub(crate) fn ensure(
    composition: &Composition,
    state: &StateDir,
    root: Option<&Authority>,
    now: OffsetDateTime,
) -> Result<bool, CliError> {
    if composition.control_plane().is_none() {
        return Ok(false);
    }
    let in_use = load(composition, state, now);
    let Some(root) = root else {
        let left = in_use?.not_after() - now;
        if left < LIFE / 8 {
            say(&format!(
                "warning: the intermediate of your authority ends in {} h: give a new one with --external-root",
                left.whole_hours()
            ));
        }
        return Ok(false);
    };
    if in_use.is_ok_and(|in_use| in_use.not_after() - now > LIFE / 2) {
        return copy(composition, state);
    }
    let issued = root.issue_intermediate(LIFE, now)?;
    put(composition, state, &issued.chain_pem, &issued.key_pem)
}

/// Gives the first control plane's to replicas that have not got it yet; true when one had not.
fn copy(composition: &Composition, state: &StateDir) -> Result<bool, CliError> {
    let mut names = composition
        .control_planes()
        .map(|(plane, _)| &plane.name.value);
    let Some(first) = names.next() else {
        return Ok(false);
    };
    let secret = |holder: &str, name: &str| secrets::read(state, holder, name);
    let (Some(chain), Some(key)) = (secret(first, CHAIN)?, secret(first, KEY)?) else {
        return Ok(false);
    };
    for name in names {
        let own = secret(name, KEY)?;
        if !own.is_some_and(|own| own.ct_eq(key.expose().as_bytes())) {
            return put(composition, state, chain.expose(), key.expose());
        }
    }
    Ok(false)
}

/// The intermediate that the control plane signs with.
pub(crate) fn load(
    composition: &Composition,
    state: &StateDir,
    now: OffsetDateTime,
) -> Result<Intermediate, CliError> {
    let missing = || CliError::State {
        what: "the control plane has no intermediate yet".into(),
        fix: "start the platform once".into(),
    };
    let plane = composition.control_plane().ok_or_else(missing)?;
    let secret = |name: &str| secrets::read(state, &plane.name.value, name);
    let (chain, key) = (secret(CHAIN)?, secret(KEY)?);
    let (chain, key) = (chain.ok_or_else(missing)?, key.ok_or_else(missing)?);
    let domain = TrustDomain::parse(&composition.trust_domain.value)?;
    let roots = roots(&read(&state.ca_bundle())?)?;
    Ok(Intermediate::load(
        &domain,
        chain.expose(),
        key.expose(),
        &roots,
        now,
    )?)
}

/// Gives it to every control plane.
fn put(
    composition: &Composition,
    state: &StateDir,
    chain: &str,
    key: &str,
) -> Result<bool, CliError> {
    for (plane, _) in composition.control_planes() {
        secrets::update(state, &plane.name.value, |secrets| {
            secrets.insert(CHAIN.to_owned(), Secret::new(chain.as_bytes().to_vec()));
            secrets.insert(KEY.to_owned(), Secret::new(key.as_bytes().to_vec()));
            Ok(true)
        })?;
    }
    Ok(true)
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|error| CliError::io("reading", path, error))
}

fn roots(pem: &str) -> Result<Vec<CertificateDer<'static>>, CliError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| CliError::internal("reading the trust bundle", error))
}

#[cfg(test)]
#[path = "intermediate/tests.rs"]
mod tests;
