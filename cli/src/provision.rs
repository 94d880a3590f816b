//! What a first start makes, and every later start keeps: authority, secrets, configuration;
//! certificates are issued anew each time, since they are short-lived anyway. For containers, all of
//! it is delivered to the component that reads it.
//!
//! Owns: the order. Must not: start anything. Read next: `authority.rs`, `secrets.rs`,
//! `certificates.rs`, `delivery.rs`, `rotation.rs`.

pub(crate) mod authority;
pub(crate) mod certificates;
pub(crate) mod delivery;
pub(crate) mod rotation;
pub(crate) mod secrets;

use crate::composition::{Composition, Profile};
use crate::error::CliError;
use crate::files;
use crate::output::say;
use crate::render;
use crate::site::Site;

use certificates::Issuer;

/// Makes sure of everything that the components read, and gives the issuer for rotations.
pub(crate) fn run(
    composition: &Composition,
    site: &Site,
    profile: Profile,
    database_user: Option<files::Owner>,
) -> Result<Issuer, CliError> {
    let authority = authority::ensure(site.state(), &composition.trust_domain.value)?;
    if secrets::ensure(composition, site.state())? {
        say("made new secrets, sealed");
    }
    let issuer = Issuer::new(authority, composition.clone(), site.clone(), database_user);
    issuer.issue_all()?;
    delivery::run(composition, site)?;
    write_configs(composition, site, profile)?;
    Ok(issuer)
}

/// Renders the configuration of every component.
fn write_configs(composition: &Composition, site: &Site, profile: Profile) -> Result<(), CliError> {
    for component in composition.binaries() {
        let text = render::config(composition, component, site, profile)?;
        files::write(
            &site.written(&component.name.value).config,
            text.as_bytes(),
            0o600,
            None,
        )?;
    }
    Ok(())
}
