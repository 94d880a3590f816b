//! `Attestation.Join`: a token for an SVID.
//!
//! Owns: the order. Limit, then the request's form (a bad one costs no token), then the token, spent
//! and durable, then the certificate. A failure after that costs the token, never gives two.
//! Must not: answer anything about a token but "refused".

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ringwall_identity::csr;
use ringwall_mesh_api::v1::attestation_server::Attestation;
use ringwall_mesh_api::v1::{Certificate, JoinRequest};
use tonic::{Request, Response, Status};

use super::limit::JoinLimit;
use super::tokens::JoinTokens;
use crate::authority::Authority;
use crate::error::Error;
use crate::store::model::Consumption;

/// From which address a connection came. Only the bootstrap listener makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address(pub(crate) IpAddr);

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct JoinApi {
    pub(crate) authority: Authority,
    pub(crate) tokens: JoinTokens,
    pub(crate) limit: Arc<JoinLimit>,
}

impl JoinApi {
    async fn admit(&self, asked: &JoinRequest, address: IpAddr) -> Result<Certificate, Error> {
        const WHAT: &str = "join";
        let by = address.to_string();
        let refused = |error: Error| {
            self.authority.audit.refused(WHAT, &error, &by, "");
            error
        };
        self.limit
            .attempt(address, Instant::now())
            .map_err(refused)?;
        let request = csr::Request::from_der(&asked.csr).map_err(|error| refused(error.into()))?;
        let now = self.authority.now();
        if now >= self.authority.issuer.current().intermediate.not_after() {
            let end = self.authority.issuer.current().intermediate.not_after();
            let error = ringwall_identity::IdentityError::AuthorityExpired(end);
            return Err(refused(error.into()));
        }
        let spent = self
            .tokens
            .spend(&asked.token, &request.spki_sha256(), now)
            .await
            .map_err(refused)?;
        let node = match spent {
            Consumption::Won { node } => node,
            Consumption::Refused(why) => {
                let error = Error::JoinToken;
                let (audit, store) = (&self.authority.audit, &self.authority.store);
                audit
                    .refused_on_record(store, WHAT, &error, &by, why.as_str(), now)
                    .await;
                return Err(error);
            }
        };
        let id = self.authority.agent_id(&node).map_err(refused)?;
        self.authority.refuse_revoked(&id).map_err(refused)?;
        let by = format!("join token, from {address}");
        let certificate = self
            .authority
            .certify_agent(&node, &request, &by)
            .await
            .map_err(refused)?;
        self.authority.audit.joined(&node);
        Ok(certificate)
    }
}

#[tonic::async_trait]
impl Attestation for JoinApi {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Certificate>, Status> {
        let Some(Address(address)) = request.extensions().get().copied() else {
            return Err(Error::denied("joining is for the bootstrap listener").into());
        };
        let asked = request.into_inner();
        Ok(Response::new(self.admit(&asked, address).await?))
    }
}
