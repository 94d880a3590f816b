//! What is certified, for whom, and the record of it.
//!
//! Owns: the rules between a request and a certificate: the workload is registered on the caller's
//! node, the role or name is declared for it, nothing of it is revoked, and the certificate is on
//! record before it is handed out.
//! Must not: believe a request's names; take times or randomness from anywhere but its parameters.
//! Read next: `authority/identity_api.rs` (who asks), `authority/issuer.rs` (who signs).

pub(crate) mod audit;
pub(crate) mod audit_api;
pub(crate) mod database_client;
pub(crate) mod identity_api;
pub(crate) mod issuer;
pub(crate) mod jwt_keys;
pub(crate) mod operator_api;
pub(crate) mod own;
mod pem;
pub(crate) mod revocation;
pub(crate) mod trust;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringwall_identity::SpiffeId;
use ringwall_identity::csr::Request;
use ringwall_identity::intermediate::Certified;
use ringwall_mesh_api::v1;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::watch;

use self::audit::Audit;
use self::issuer::Issuer;
use self::jwt_keys::JwtKeys;
use self::revocation::Revocations;
use crate::Clock;
use crate::config::AuthorityConfig;
use crate::error::Error;
use crate::registry::Service;
use crate::registry::reload::Declared;
use crate::store::Store;
use crate::store::model::{IssuedCertificate, Kind, Recorded};

/// Audiences of one JWT-SVID, and bytes of each.
const MAX_AUDIENCES: usize = 16;
const MAX_AUDIENCE_BYTES: usize = 256;

/// The issuing side of the control plane. Clones share everything.
#[derive(Clone)]
pub(crate) struct Authority {
    pub(crate) lives: Lives,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) jwt_keys: Arc<JwtKeys>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) declared: watch::Receiver<Arc<Declared>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) audit: Audit,
    pub(crate) clock: Clock,
}

/// How long what is issued lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lives {
    pub(crate) svid: Duration,
    pub(crate) database: Duration,
    pub(crate) server: Duration,
    pub(crate) jwt: Duration,
}

impl From<&AuthorityConfig> for Lives {
    fn from(config: &AuthorityConfig) -> Self {
        Self {
            svid: config.svid_ttl,
            database: config.database_ttl,
            server: config.server_ttl,
            jwt: config.jwt_ttl,
        }
    }
}

/// Claims of a JWT-SVID (JWT-SVID §3).
#[derive(Serialize)]
struct JwtSvidClaims<'a> {
    sub: &'a str,
    aud: &'a [String],
    iat: i64,
    exp: i64,
}

/// `typ` of a JWT-SVID (JWT-SVID §2.3).
const JWT_SVID: &str = "JWT";

impl Authority {
    pub(crate) fn now(&self) -> OffsetDateTime {
        (self.clock)()
    }

    /// The first or next SVID of a node's agent.
    pub(crate) async fn agent_svid(
        &self,
        node: &str,
        csr: &[u8],
        by: &str,
    ) -> Result<v1::Certificate, Error> {
        let request = Request::from_der(csr)?;
        self.certify_agent(node, &request, by).await
    }

    /// The same for a request that was checked before, since a token is spent only for a good one.
    pub(crate) async fn certify_agent(
        &self,
        node: &str,
        request: &Request,
        by: &str,
    ) -> Result<v1::Certificate, Error> {
        let (now, id) = (self.now(), self.agent_id(node)?);
        let material = self.issuer.current();
        // Monitors know it by its name (RFC 6125), the mesh by its id.
        let names = ["agent".to_owned()];
        let certified =
            material
                .intermediate
                .certify_svid(request, &id, &names, self.lives.svid, now)?;
        let detail = format!("node {node}");
        self.hand_out(Kind::Agent, &id, certified, by, detail, now)
            .await
    }

    /// The SVID of a workload on `node`.
    pub(crate) async fn workload_svid(
        &self,
        node: &str,
        workload: &str,
        csr: &[u8],
        by: &str,
    ) -> Result<v1::Certificate, Error> {
        let service = self.registered(node, workload)?;
        let (now, request) = (self.now(), Request::from_der(csr)?);
        let material = self.issuer.current();
        let (id, dns) = (&service.id, &service.entry.dns);
        let certified =
            material
                .intermediate
                .certify_svid(&request, id, dns, self.lives.svid, now)?;
        let detail = format!("node {node}");
        self.hand_out(Kind::Svid, id, certified, by, detail, now)
            .await
    }

    /// A client certificate for a database: its common name is `role`, which must be declared.
    pub(crate) async fn database_client(
        &self,
        node: &str,
        workload: &str,
        role: &str,
        csr: &[u8],
        by: &str,
    ) -> Result<v1::Certificate, Error> {
        let service = self.registered(node, workload)?;
        if !service.entry.database_roles.iter().any(|has| has == role) {
            return Err(Error::denied(format!(
                "the role is not declared for {workload}"
            )));
        }
        let (now, request) = (self.now(), Request::from_der(csr)?);
        let material = self.issuer.current();
        let certified =
            material
                .intermediate
                .certify_client(&request, role, self.lives.database, now)?;
        let detail = format!("role {role}, node {node}");
        self.hand_out(Kind::Database, &service.id, certified, by, detail, now)
            .await
    }

    /// A server certificate for declared names, at least one.
    pub(crate) async fn server(
        &self,
        node: &str,
        asked: &v1::IssueServerRequest,
        by: &str,
    ) -> Result<v1::Certificate, Error> {
        let service = self.registered(node, &asked.workload)?;
        let declared = &service.entry.server_names;
        let names = asked.dns_names.iter().chain(&asked.ip_addresses);
        if names.clone().next().is_none() {
            return Err(Error::Invalid("no name is asked for".to_owned()));
        }
        if let Some(other) = names.clone().find(|name| !declared.contains(name)) {
            let shown: String = other.chars().take(80).collect();
            return Err(Error::denied(format!(
                "{shown:?} is not declared for {}",
                asked.workload
            )));
        }
        let addresses = asked
            .ip_addresses
            .iter()
            .map(|text| text.parse::<IpAddr>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Error::Invalid("an address is not one".to_owned()))?;
        let (now, request) = (self.now(), Request::from_der(&asked.csr)?);
        let material = self.issuer.current();
        let certified = material.intermediate.certify_server(
            &request,
            &asked.dns_names,
            &addresses,
            self.lives.server,
            now,
        )?;
        let detail = names.cloned().collect::<Vec<_>>().join(" ");
        self.hand_out(Kind::Server, &service.id, certified, by, detail, now)
            .await
    }

    /// A JWT-SVID of a workload on `node` (JWT-SVID §3).
    pub(crate) fn jwt_svid(
        &self,
        node: &str,
        workload: &str,
        audience: &[String],
        by: &str,
    ) -> Result<v1::JwtSvid, Error> {
        let service = self.registered(node, workload)?;
        if audience.is_empty() || audience.len() > MAX_AUDIENCES {
            return Err(Error::Invalid("one to 16 audiences are needed".to_owned()));
        }
        if audience
            .iter()
            .any(|one| one.is_empty() || one.len() > MAX_AUDIENCE_BYTES)
        {
            return Err(Error::Invalid("an audience has 1 to 256 bytes".to_owned()));
        }
        self.refuse_revoked(&service.id)?;
        let now = self.now();
        let not_after = now + self.lives.jwt;
        let claims = JwtSvidClaims {
            sub: service.id.as_str(),
            aud: audience,
            iat: now.unix_timestamp(),
            exp: not_after.unix_timestamp(),
        };
        let token = self.jwt_keys.sign(JWT_SVID, &claims)?;
        self.audit.jwt_issued(&service.id, audience, by);
        Ok(v1::JwtSvid {
            token,
            not_after: not_after.unix_timestamp(),
        })
    }

    /// The SPIFFE id of the agent of `node`, which must be declared.
    pub(crate) fn agent_id(&self, node: &str) -> Result<SpiffeId, Error> {
        let declared = self.declared.borrow();
        if !declared.registry.has_node(node) {
            return Err(Error::denied("the node is not declared"));
        }
        let domain = declared.registry.trust_domain();
        Ok(SpiffeId::workload(domain, &format!("agent/{node}"))?)
    }

    fn registered(&self, node: &str, workload: &str) -> Result<Arc<Service>, Error> {
        let declared = self.declared.borrow();
        // One answer for names that are not there and those that are elsewhere: an agent need not
        // learn what runs on other nodes.
        declared
            .registry
            .on_node(workload, node)
            .cloned()
            .ok_or_else(|| Error::denied("the workload is not registered on the calling node"))
    }

    pub(crate) fn refuse_revoked(&self, id: &SpiffeId) -> Result<(), Error> {
        if self.revocations.current().ids.contains(id) {
            return Err(Error::denied(format!("{id} is revoked")));
        }
        Ok(())
    }

    /// On record first: a certificate that nobody could revoke must not leave this process.
    async fn hand_out(
        &self,
        kind: Kind,
        holder: &SpiffeId,
        certified: Certified,
        by: &str,
        detail: String,
        now: OffsetDateTime,
    ) -> Result<v1::Certificate, Error> {
        let issued = self
            .record(kind, holder, &certified, by, detail, now)
            .await?;
        self.audit.issued(&issued);
        let bundle = &self.issuer.current().roots;
        Ok(v1::Certificate {
            chain: certified.chain.iter().map(|der| der.to_vec()).collect(),
            bundle: bundle.iter().map(|der| der.to_vec()).collect(),
            not_after: certified.not_after.unix_timestamp(),
        })
    }

    pub(crate) async fn record(
        &self,
        kind: Kind,
        holder: &SpiffeId,
        certified: &Certified,
        by: &str,
        detail: String,
        now: OffsetDateTime,
    ) -> Result<IssuedCertificate, Error> {
        let issued = IssuedCertificate {
            serial: certified.serial.clone(),
            kind,
            holder: holder.clone(),
            spki: certified.spki_sha256,
            issued_at: now,
            not_after: certified.not_after,
            by: by.to_owned(),
            detail,
        };
        match self.store.record_issued(&issued).await? {
            Recorded::Yes => Ok(issued),
            Recorded::Revoked => Err(Error::denied(format!("{holder} or its key is revoked"))),
        }
    }
}
