//! What each component in a container finds in its volume, and nothing of anybody else's.
//!
//! Owns: copying a component's part of the state into the volume that it reads, and telling what is
//! missing there or too old. Must not: issue or render (`certificates.rs`, `render.rs`); natively it
//! does nothing, since components read the state directory itself.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, Uid, access};
use ringwall_identity::svid::validity_of;
use ringwall_secret::private_file;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use crate::composition::{Component, Composition, OPERATOR, proxy_name};
use crate::error::CliError;
use crate::files;
use crate::postgres;
use crate::site::Site;

/// A certificate may be later than half of its life by this share of that half before that counts
/// as a failure: attempts are repeated, and the rest of its life is still good.
const GRACE: u32 = 2;

/// Refuses a volume that is not there or cannot be written; engines that do not run are left out.
pub(crate) fn check_volumes(composition: &mut Composition, run: &Path) -> Result<(), CliError> {
    let proxies = composition
        .sidecars()
        .map(|(component, _)| proxy_name(component));
    let own = composition
        .components
        .iter()
        .map(|component| component.name.value.clone());
    for name in &own.chain(proxies).collect::<Vec<_>>() {
        let folder = run.join(name);
        if !folder.is_dir() {
            return Err(CliError::State {
                what: format!(
                    "the volume `{name}-run` is not mounted at {}",
                    folder.display()
                ),
                fix: format!(
                    "add `{name}-run:{}` to the volumes of the service `provisioner` in compose.yaml",
                    folder.display()
                ),
            });
        }
        writable(name, &folder)?;
    }
    composition
        .engines
        .retain(|engine| run.join(&engine.name.value).is_dir());
    for engine in &composition.engines {
        let name = &engine.name.value;
        writable(name, &run.join(name))?;
    }
    Ok(())
}

fn writable(name: &str, folder: &Path) -> Result<(), CliError> {
    let Err(why) = access(folder, AccessFlags::W_OK | AccessFlags::X_OK) else {
        return Ok(());
    };
    let (shown, uid) = (folder.display(), Uid::effective());
    Err(CliError::Privilege {
        what: format!("the volume `{name}-run` at {shown} cannot be written by user {uid}: {why}"),
        fix: format!(
            "mount it read-write there, with the options uid={uid},mode=0700 (compose.yaml); one that \
             was made differently is removed by `docker compose down --volumes`"
        ),
    })
}

/// Copies to every component what is its own. Certificates have been issued there already, and the
/// configuration comes last.
pub(super) fn run(composition: &Composition, site: &Site) -> Result<(), CliError> {
    if matches!(site, Site::Native { .. }) {
        return Ok(());
    }
    let bundle = site.state().ca_bundle();
    let bundle = std::fs::read(&bundle).map_err(|error| CliError::io("reading", &bundle, error))?;
    for (name, _) in composition.programs() {
        files::write(&site.written(&name).ca, &bundle, 0o644, None)?;
    }
    sealed(composition, site)?;
    for component in composition.servers() {
        postgres::deliver(component, &component.databases(), site)?;
    }
    Ok(())
}

/// Copies to every process its sealed secrets. A join token or an intermediate is made while all run.
pub(super) fn sealed(composition: &Composition, site: &Site) -> Result<(), CliError> {
    if matches!(site, Site::Native { .. }) {
        return Ok(());
    }
    for (name, _) in composition.programs() {
        let to = site.written(&name);
        let (sealed, seal_key) = site.state().secrets(&name);
        for (from, to) in [(sealed, to.sealed), (seal_key, to.seal_key)] {
            files::write(&to, private_file::read(&from)?.expose(), 0o600, None)?;
        }
    }
    Ok(())
}

/// Why the delivery is not whole or not fresh; nothing when all is well.
pub(crate) fn complaint(
    composition: &Composition,
    site: &Site,
    now: OffsetDateTime,
) -> Option<String> {
    let lives = &composition.certificates;
    let interval = lives.workloads.min(lives.edge) / 2;
    let mut expected = Expected::default();
    for component in &composition.components {
        expected.component(composition, component, site);
    }
    if composition.mesh.is_some() {
        // The agent says whether what it delivers is there and fresh.
        expected = Expected::of_a_mesh(composition, site);
    } else {
        for engine in site.engines(composition) {
            expected.svid(&site.identity(&engine.name.value), lives.workloads);
        }
    }
    let missing = expected.files.iter().find(|path| !path.is_file());
    if let Some(path) = missing {
        return Some(format!("{} is not delivered", path.display()));
    }
    expected
        .certificates
        .iter()
        .find_map(|(path, life)| too_old(path, *life, interval, now))
}

/// Files that must be there, and certificates with how long they live.
#[derive(Default)]
struct Expected {
    files: Vec<PathBuf>,
    certificates: Vec<(PathBuf, Duration)>,
}

impl Expected {
    fn of_a_mesh(composition: &Composition, site: &Site) -> Self {
        let mut expected = Self::default();
        for (name, _) in composition.programs() {
            let files = site.written(&name);
            let own = [files.ca, files.sealed, files.seal_key, files.config];
            expected.files.extend(own);
        }
        for server in composition.servers() {
            let folder = site.database_folder(&server.name.value);
            expected
                .files
                .extend(postgres::DELIVERED.map(|file| folder.join(file)));
        }
        let operator = site.state().identity(OPERATOR);
        expected.svid(&operator, composition.certificates.workloads);
        expected
    }

    fn component(&mut self, composition: &Composition, component: &Component, site: &Site) {
        let (name, lives) = (&component.name.value, &composition.certificates);
        if component.postgres.is_some() {
            let folder = site.database_folder(name);
            self.files
                .extend(postgres::DELIVERED.map(|file| folder.join(file)));
            self.pair(
                &folder.join("tls"),
                ["server.pem", "server.key"],
                lives.workloads,
            );
            for client in &component.callers {
                let folder = site.identity(&client.value).join(name);
                self.pair(&folder, ["client.pem", "client.key"], lives.workloads);
            }
            return;
        }
        let files = site.written(name);
        self.svid(&files.identity, lives.workloads);
        if composition.public.component.value == *name {
            let [chain, key] = ["chain.pem", "key.pem"].map(|file| files.edge.join(file));
            self.files.push(key);
            self.certificates.push((chain.clone(), lives.edge));
            self.files.push(chain);
        }
        self.files
            .extend([files.ca, files.sealed, files.seal_key, files.config]);
    }

    fn svid(&mut self, folder: &Path, life: Duration) {
        self.pair(folder, ["svid.pem", "svid.key"], life);
    }

    fn pair(&mut self, folder: &Path, [chain, key]: [&str; 2], life: Duration) {
        let files = [chain, key, "bundle.pem"].map(|file| folder.join(file));
        self.certificates.push((folder.join(chain), life));
        self.files.extend(files);
    }
}

fn too_old(path: &Path, life: Duration, interval: Duration, now: OffsetDateTime) -> Option<String> {
    let shown = path.display();
    let not_after = match end_of(path) {
        Ok(not_after) => not_after,
        Err(why) => return Some(format!("{shown} cannot be read: {why}")),
    };
    let due = not_after - life + interval;
    if now <= due + interval / GRACE {
        return None;
    }
    Some(format!(
        "{shown} should have been renewed {} s ago and ends in {} s: the log of the provisioner says why",
        (now - due).whole_seconds(),
        (not_after - now).whole_seconds()
    ))
}

/// When the first certificate of a chain ends.
pub(super) fn end_of(path: &Path) -> Result<OffsetDateTime, io::Error> {
    let pem = std::fs::read(path)?;
    let leaf = CertificateDer::from_pem_slice(&pem).map_err(io::Error::other)?;
    let (_, not_after) = validity_of(&leaf).map_err(io::Error::other)?;
    Ok(not_after)
}

#[cfg(test)]
#[path = "delivery/tests.rs"]
mod tests;
