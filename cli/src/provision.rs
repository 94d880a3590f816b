//! What a first start makes, and every later start keeps: authority, secrets, configuration;
//! what is short-lived (the operator's certificate, join tokens) is made anew each time. For containers,
//! all of it is delivered to the process that reads it.
//!
//! Owns: the order. Must not: start anything. Read next: `authority.rs`, `intermediate.rs`, `secrets.rs`,
//! `join.rs`, `certificates.rs`, `delivery.rs`, `rotation.rs`.

pub(crate) mod authority;
pub(crate) mod certificates;
pub(crate) mod delivery;
#[cfg(test)]
mod fixture;
pub(crate) mod intermediate;
mod join;
pub(crate) mod rotation;
pub(crate) mod secrets;

use time::OffsetDateTime;

use crate::composition::{Composition, Profile};
use crate::error::CliError;
use crate::files;
use crate::interception::Interception;
use crate::output::say;
use crate::render::PREFIX;
use crate::render::Rendering;
use crate::site::Site;

use certificates::Issuer;
use intermediate::ExternalRoot;
use join::JoinTokens;

/// What the renewals go on with.
pub(crate) struct Provisioned {
    pub(crate) issuer: Issuer,
    tokens: JoinTokens,
}

/// What is chosen for one start.
#[derive(Default)]
pub(crate) struct Choices {
    /// Whom PostgreSQL's files belong to, where that is not us.
    pub(crate) database_user: Option<files::Owner>,
    pub(crate) external: ExternalRoot,
    /// Whether the agent is to hear the supervisor's word about processes.
    pub(crate) spawned: bool,
    /// Where the kernel leads components' calls to their proxies.
    pub(crate) kernel: Option<Interception>,
    /// What `cgroup_parent` begins with in containers.
    pub(crate) prefix: Option<String>,
}

/// Makes sure of everything that the components read.
pub(crate) fn run(
    composition: &Composition,
    site: &Site,
    profile: Profile,
    choices: &Choices,
) -> Result<Provisioned, CliError> {
    let state = site.state();
    intermediate::take_over(composition, state, &choices.external)?;
    let authority = match intermediate::is_external(state) {
        true => None,
        false => Some(authority::ensure(state, &composition.trust_domain.value)?),
    };
    if secrets::ensure(composition, state)? {
        say("made new secrets, sealed");
    }
    let database_user = choices.database_user;
    let issuer = Issuer::new(authority, composition.clone(), site.clone(), database_user);
    issuer.issue_all()?;
    issuer.first_database_certificate()?;
    let mut tokens = JoinTokens::default();
    tokens.renew(composition, state, OffsetDateTime::now_utc())?;
    delivery::run(composition, site)?;
    let rendering = Rendering {
        database_user,
        spawned: choices.spawned,
        kernel: choices.kernel.as_ref(),
        prefix: choices.prefix.as_deref().unwrap_or(PREFIX),
        ..Rendering::new(composition, site, profile)
    };
    write_configs(&rendering)?;
    Ok(Provisioned { issuer, tokens })
}

/// Writes the configuration of every process.
fn write_configs(rendering: &Rendering<'_>) -> Result<(), CliError> {
    for rendered in rendering.all()? {
        let path = rendering.site.written(&rendered.name).config;
        files::write(&path, rendered.text.as_bytes(), 0o600, None)?;
    }
    Ok(())
}
