//! Certificates that the supervisor issues: with a mesh the operator's alone, since the control plane
//! issues all others and the agent delivers them; else those of workloads, public hosts and
//! PostgreSQL. Issued at start and again before half of their life is over, each file replaced by rename.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringwall_identity::authority::{Authority, Issued};
use ringwall_identity::csr::{NewKey, Request};
use ringwall_identity::{SpiffeId, TrustDomain};
use time::OffsetDateTime;

use super::join::JoinTokens;
use super::{delivery, intermediate};
use crate::composition::{Component, Composition, OPERATOR};
use crate::error::CliError;
use crate::files::{self, Owner};
use crate::site::Site;

/// Issues certificates.
pub(crate) struct Issuer {
    /// None where the root is somebody else's.
    authority: Option<Authority>,
    composition: Composition,
    site: Site,
    /// Whom PostgreSQL's files belong to, where that is not us.
    database_user: Option<Owner>,
}

impl Issuer {
    pub(crate) fn new(
        authority: Option<Authority>,
        composition: Composition,
        site: Site,
        database_user: Option<Owner>,
    ) -> Self {
        Self {
            authority,
            composition,
            site,
            database_user,
        }
    }

    /// Makes a join token and hands it to those who need it.
    pub(super) fn renew_token(
        &self,
        tokens: &mut JoinTokens,
        now: OffsetDateTime,
    ) -> Result<(), CliError> {
        tokens.renew(&self.composition, self.site.state(), now)?;
        delivery::sealed(&self.composition, &self.site)
    }

    /// Time between two rotations: half of the shortest life.
    pub(crate) fn interval(&self) -> Duration {
        let certificates = &self.composition.certificates;
        certificates.workloads.min(certificates.edge) / 2
    }

    /// Issues everything anew.
    pub(crate) fn issue_all(&self) -> Result<(), CliError> {
        let now = OffsetDateTime::now_utc();
        let domain = TrustDomain::parse(&self.composition.trust_domain.value)?;
        if self.composition.mesh.is_some() {
            let state = self.site.state();
            if intermediate::ensure(&self.composition, state, self.authority.as_ref(), now)? {
                delivery::sealed(&self.composition, &self.site)?;
            }
            self.places()?;
            return self.operator(&domain, now);
        }
        self.svid(&domain, OPERATOR, now)?;
        for component in self.composition.binaries() {
            self.svid(&domain, &component.name.value, now)?;
        }
        for engine in self.site.engines(&self.composition) {
            self.svid(&domain, &engine.name.value, now)?;
        }
        for component in self.composition.servers() {
            self.database_server(component, now)?;
            for client in &component.callers {
                self.database_client(component, &client.value, now)?;
            }
        }
        self.edge(now)
    }

    /// The operator's SVID. No agent may have it, and it must be there before the control plane is.
    fn operator(&self, domain: &TrustDomain, now: OffsetDateTime) -> Result<(), CliError> {
        let id = SpiffeId::workload(domain, OPERATOR)?;
        let ttl = self.composition.certificates.workloads;
        let signer = intermediate::load(&self.composition, self.site.state(), now)?;
        let (certified, key) = signer.issue_svid(&id, &[OPERATOR.to_owned()], ttl, now)?;
        let folder = self.site.identity(OPERATOR);
        files::directory(&folder, 0o700)?;
        let bundle = self.site.state().ca_bundle();
        let bundle =
            std::fs::read(&bundle).map_err(|error| CliError::io("reading", &bundle, error))?;
        files::write(&folder.join("bundle.pem"), &bundle, 0o644, None)?;
        let key = pem("PRIVATE KEY", &key);
        files::write(&folder.join("svid.key"), key.as_bytes(), 0o600, None)?;
        let chain: String = certified
            .chain
            .iter()
            .map(|der| pem("CERTIFICATE", der))
            .collect();
        files::write(&folder.join("svid.pem"), chain.as_bytes(), 0o644, None)
    }

    /// The certificate with which the control plane's database starts: the control plane, and so the agent that
    /// delivers all later ones, comes after it.
    pub(super) fn first_database_certificate(&self) -> Result<(), CliError> {
        let Some(server) = self.composition.plane_database() else {
            return Ok(());
        };
        let (now, ttl) = (
            OffsetDateTime::now_utc(),
            self.composition.certificates.workloads,
        );
        let (folder, owner) = (
            self.site.database_folder(&server.name.value).join("tls"),
            self.database_user,
        );
        let in_use = delivery::end_of(&folder.join("server.pem"));
        if in_use.is_ok_and(|end| end - now > ttl / 2) {
            return Ok(());
        }
        let signer = intermediate::load(&self.composition, self.site.state(), now)?;
        let names = [server.name.value.clone(), "localhost".to_owned()];
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let new = NewKey::generate()?;
        let request = Request::from_der(&new.request)?;
        let certified = signer.certify_server(&request, &names, &addresses, ttl, now)?;
        let bundle = self.site.state().ca_bundle();
        let bundle =
            std::fs::read(&bundle).map_err(|error| CliError::io("reading", &bundle, error))?;
        files::write(&folder.join("bundle.pem"), &bundle, 0o644, owner)?;
        let key = pem("PRIVATE KEY", &new.pkcs8);
        files::write(&folder.join("server.key"), key.as_bytes(), 0o600, owner)?;
        let chain: String = certified
            .chain
            .iter()
            .map(|der| pem("CERTIFICATE", der))
            .collect();
        files::write(&folder.join("server.pem"), chain.as_bytes(), 0o644, owner)
    }

    /// Folders that the agent writes to.
    fn places(&self) -> Result<(), CliError> {
        let public = &self.composition.public.component.value;
        files::directory(&self.site.written(public).edge, 0o700)?;
        for server in self.composition.servers() {
            let own = self.site.database_folder(&server.name.value);
            files::directory_of(&own, 0o700, self.database_user)?;
            files::directory_of(&own.join("tls"), 0o700, self.database_user)?;
            for role in server.databases() {
                let identity = self.site.identity(&role);
                files::directory(&identity, 0o700)?;
                files::directory(&identity.join(&server.name.value), 0o700)?;
            }
        }
        for engine in self.site.engines(&self.composition) {
            files::directory(&self.site.identity(&engine.name.value), 0o700)?;
        }
        Ok(())
    }

    fn authority(&self) -> Result<&Authority, CliError> {
        let authority = self.authority.as_ref();
        authority.ok_or_else(|| CliError::internal("issuing a certificate", "the root is not ours"))
    }

    fn svid(&self, domain: &TrustDomain, name: &str, now: OffsetDateTime) -> Result<(), CliError> {
        let id = SpiffeId::workload(domain, name)?;
        let ttl = self.composition.certificates.workloads;
        let issued = self
            .authority()?
            .issue_svid(&id, &[name.to_owned()], ttl, now)?;
        let folder = self.site.identity(name);
        files::directory(&folder, 0o700)?;
        self.bundle(&folder, None)?;
        write_pair(&folder, &issued, "svid.pem", "svid.key", None)
    }

    fn edge(&self, now: OffsetDateTime) -> Result<(), CliError> {
        let hosts = self.composition.public_hosts();
        let ttl = self.composition.certificates.edge;
        let issued = self.authority()?.issue_server(&hosts, &[], ttl, now)?;
        let folder = self
            .site
            .written(&self.composition.public.component.value)
            .edge;
        files::directory(&folder, 0o700)?;
        write_pair(&folder, &issued, "chain.pem", "key.pem", None)
    }

    fn database_server(&self, component: &Component, now: OffsetDateTime) -> Result<(), CliError> {
        let names = [component.name.value.clone(), "localhost".to_owned()];
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let ttl = self.composition.certificates.workloads;
        let issued = self
            .authority()?
            .issue_server(&names, &addresses, ttl, now)?;
        let own = self.site.database_folder(&component.name.value);
        let (folder, owner) = (own.join("tls"), self.database_user);
        files::directory_of(&own, 0o700, owner)?;
        files::directory_of(&folder, 0o700, owner)?;
        self.bundle(&folder, owner)?;
        write_pair(&folder, &issued, "server.pem", "server.key", owner)
    }

    /// Common name = role (PostgreSQL's `clientcert=verify-full`).
    fn database_client(
        &self,
        server: &Component,
        role: &str,
        now: OffsetDateTime,
    ) -> Result<(), CliError> {
        let ttl = self.composition.certificates.workloads;
        let issued = self.authority()?.issue_client(role, ttl, now)?;
        let folder = self.site.identity(role).join(&server.name.value);
        files::directory(&folder, 0o700)?;
        self.bundle(&folder, None)?;
        write_pair(&folder, &issued, "client.pem", "client.key", None)
    }

    /// Whom the holder of the folder believes.
    fn bundle(&self, folder: &Path, owner: Option<Owner>) -> Result<(), CliError> {
        let authority = self.authority()?.cert_pem().as_bytes();
        files::write(&folder.join("bundle.pem"), authority, 0o644, owner)
    }
}

/// Key first: a reader accepts only a pair that fits, so between the renames it keeps the old one.
fn write_pair(
    folder: &Path,
    issued: &Issued,
    chain: &str,
    key: &str,
    owner: Option<Owner>,
) -> Result<(), CliError> {
    files::write(&folder.join(key), issued.key_pem.as_bytes(), 0o600, owner)?;
    files::write(
        &folder.join(chain),
        issued.chain_pem.as_bytes(),
        0o644,
        owner,
    )
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
