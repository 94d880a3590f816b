//! What a first start makes, and every later start keeps: authority, secrets, configuration;
//! certificates are issued anew each time, since they are short-lived anyway.
//!
//! Owns: the order. Must not: start anything. Read next: `authority.rs`, `secrets.rs`,
//! `certificates.rs`.

pub(crate) mod authority;
pub(crate) mod certificates;
pub(crate) mod secrets;

use crate::composition::{Composition, Profile};
use crate::error::CliError;
use crate::files;
use crate::output::say;
use crate::render;
use crate::state::StateDir;

use certificates::Issuer;

/// Makes sure of everything that the components read, and gives the issuer for rotations.
pub(crate) fn run(
    composition: &Composition,
    state: &StateDir,
    profile: Profile,
    database_user: Option<files::Owner>,
) -> Result<Issuer, CliError> {
    let authority = authority::ensure(state, &composition.trust_domain.value)?;
    if secrets::ensure(composition, state)? {
        say("made new secrets, sealed");
    }
    let issuer = Issuer::new(authority, composition.clone(), state.clone(), database_user);
    issuer.issue_all()?;
    write_configs(composition, state, profile)?;
    Ok(issuer)
}

/// Renders the configuration of every component.
pub(crate) fn write_configs(
    composition: &Composition,
    state: &StateDir,
    profile: Profile,
) -> Result<(), CliError> {
    for component in composition.binaries() {
        let text = render::config(composition, component, state, profile)?;
        files::write(
            &state.config(&component.name.value),
            text.as_bytes(),
            0o600,
            None,
        )?;
    }
    Ok(())
}
