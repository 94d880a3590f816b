//! Certificates of workloads, public hosts and PostgreSQL: issued at start and again before half
//! of their life is over, each file replaced by rename.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use ringwall_identity::authority::{Authority, Issued};
use ringwall_identity::{SpiffeId, TrustDomain};
use time::OffsetDateTime;

use crate::composition::{Component, Composition, OPERATOR};
use crate::error::CliError;
use crate::files::{self, Owner};
use crate::site::Site;

/// Issues every certificate of the platform.
pub(crate) struct Issuer {
    authority: Authority,
    composition: Composition,
    site: Site,
    /// Whom PostgreSQL's files belong to, where that is not us.
    database_user: Option<Owner>,
}

impl Issuer {
    pub(crate) fn new(
        authority: Authority,
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

    /// Time between two rotations: half of the shortest life.
    pub(crate) fn interval(&self) -> Duration {
        let certificates = &self.composition.certificates;
        certificates.workloads.min(certificates.edge) / 2
    }

    /// Issues everything anew.
    pub(crate) fn issue_all(&self) -> Result<(), CliError> {
        let now = OffsetDateTime::now_utc();
        let domain = TrustDomain::parse(&self.composition.trust_domain.value)?;
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

    fn svid(&self, domain: &TrustDomain, name: &str, now: OffsetDateTime) -> Result<(), CliError> {
        let id = SpiffeId::workload(domain, name)?;
        let ttl = self.composition.certificates.workloads;
        let issued = self
            .authority
            .issue_svid(&id, &[name.to_owned()], ttl, now)?;
        let folder = self.site.identity(name);
        files::directory(&folder, 0o700)?;
        self.bundle(&folder, None)?;
        write_pair(&folder, &issued, "svid.pem", "svid.key", None)
    }

    fn edge(&self, now: OffsetDateTime) -> Result<(), CliError> {
        let hosts = self.composition.public_hosts();
        let ttl = self.composition.certificates.edge;
        let issued = self.authority.issue_server(&hosts, &[], ttl, now)?;
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
        let issued = self.authority.issue_server(&names, &addresses, ttl, now)?;
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
        let issued = self.authority.issue_client(role, ttl, now)?;
        let folder = self.site.identity(role).join(&server.name.value);
        files::directory(&folder, 0o700)?;
        self.bundle(&folder, None)?;
        write_pair(&folder, &issued, "client.pem", "client.key", None)
    }

    /// Whom the holder of the folder believes.
    fn bundle(&self, folder: &Path, owner: Option<Owner>) -> Result<(), CliError> {
        let authority = self.authority.cert_pem().as_bytes();
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
