//! `Authority`: what the operator does by hand. Join tokens, revocations, and a look at it all.
//!
//! Owns: who the operator is: `spiffe://TRUST_DOMAIN/ringwall`, and nobody else.
//! Must not: let the operator lock everybody out: its own id and ours cannot be revoked by name.

use std::sync::Arc;
use std::time::Duration;

use ringwall_identity::{Serial, SpiffeId};
use ringwall_mesh_api::v1::authority_server::Authority as AuthorityService;
use ringwall_mesh_api::v1::{
    AuthorityDescription, CreateJoinTokenRequest, DescribeRequest, JoinToken, RestoreRequest,
    RevokeRequest, RevokeResponse, revoke_request::What,
};
use ringwall_service::Peer;
use tonic::{Extensions, Request, Response, Status};

use super::Authority;
use super::own::SELF;
use crate::attestation::tokens::JoinTokens;
use crate::error::Error;
use crate::leader::Leadership;
use crate::store::model::Target;

/// The operator's path.
pub(crate) const OPERATOR: &str = "ringwall";
/// Longest reason, in bytes.
const MAX_REASON_BYTES: usize = 200;
/// Life of a join token in seconds: unless asked otherwise, and at most.
const TOKEN_LIFE: u32 = 600;
const MAX_TOKEN_LIFE: u32 = 86_400;

/// The gRPC service.
pub(crate) struct OperatorApi {
    pub(crate) authority: Authority,
    pub(crate) tokens: JoinTokens,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) external_root: bool,
}

impl OperatorApi {
    /// The operator's id, or the refusal, which is counted.
    fn operator(&self, what: &'static str, extensions: &Extensions) -> Result<SpiffeId, Status> {
        let caller = extensions.get::<Peer>();
        let by = caller.map_or("nobody", |peer| peer.0.as_str());
        let domain = self
            .authority
            .declared
            .borrow()
            .registry
            .trust_domain()
            .clone();
        match caller {
            Some(Peer(id)) if id.path() == OPERATOR && *id.trust_domain() == domain => {
                Ok(id.clone())
            }
            _ => Err(self.refuse(what, Error::denied("only the operator may do this"), by)),
        }
    }

    fn refuse(&self, what: &'static str, error: Error, by: &str) -> Status {
        self.authority.audit.refused(what, &error, by, "");
        error.into()
    }

    fn answer<T>(
        &self,
        what: &'static str,
        by: &SpiffeId,
        result: Result<T, Error>,
    ) -> Result<Response<T>, Status> {
        result
            .map(Response::new)
            .map_err(|error| self.refuse(what, error, by.as_str()))
    }

    async fn create(&self, asked: CreateJoinTokenRequest, by: &str) -> Result<JoinToken, Error> {
        let seconds = match asked.ttl_seconds {
            0 => TOKEN_LIFE,
            seconds if seconds <= MAX_TOKEN_LIFE => seconds,
            _ => {
                return Err(Error::Invalid(format!(
                    "a join token lives for at most {MAX_TOKEN_LIFE} seconds"
                )));
            }
        };
        let life = Duration::from_secs(seconds.into());
        self.authority.agent_id(&asked.node)?;
        let (token, not_after) = self
            .tokens
            .create(&asked.node, life, by, self.authority.now())
            .await?;
        let audit = &self.authority.audit;
        audit.join_token_created(&asked.node, not_after, by);
        Ok(JoinToken {
            token: token.expose().clone(),
            not_after: not_after.unix_timestamp(),
        })
    }

    async fn revoke(&self, asked: RevokeRequest, by: &str) -> Result<RevokeResponse, Error> {
        if asked.reason.len() > MAX_REASON_BYTES || asked.reason.contains(char::is_control) {
            return Err(Error::Invalid(format!(
                "a reason is one line of at most {MAX_REASON_BYTES} bytes"
            )));
        }
        let what = asked
            .what
            .ok_or_else(|| Error::Invalid("say what to revoke".to_owned()))?;
        let target = match what {
            What::SpiffeId(text) => Target::SpiffeId(self.revocable(&text)?),
            What::Serial(bytes) => Target::Serial(Serial::from_bytes(&bytes)?),
            What::SpkiSha256(bytes) => Target::Spki(
                bytes
                    .try_into()
                    .map_err(|_| Error::Invalid("the SHA-256 of a key has 32 bytes".to_owned()))?,
            ),
        };
        let revocations = &self.authority.revocations;
        let revision = revocations.revoke(target, asked.reason, by).await?;
        Ok(RevokeResponse { revision })
    }

    fn revocable(&self, text: &str) -> Result<SpiffeId, Error> {
        let id = SpiffeId::parse(text)?;
        let declared = self.authority.declared.borrow();
        if id.trust_domain() != declared.registry.trust_domain() || !id.is_workload() {
            return Err(Error::Invalid(format!(
                "{id} is no workload of this trust domain"
            )));
        }
        if [OPERATOR, SELF].contains(&id.path()) {
            return Err(Error::Invalid(format!(
                "{id} cannot be revoked by name, or nobody could lift it; revoke the serial or the key"
            )));
        }
        Ok(id)
    }

    async fn restore(&self, asked: RestoreRequest, by: &str) -> Result<RevokeResponse, Error> {
        let id = SpiffeId::parse(&asked.spiffe_id)?;
        let revision = self.authority.revocations.restore(&id, by).await?;
        Ok(RevokeResponse { revision })
    }

    async fn describe(&self) -> Result<AuthorityDescription, Error> {
        let material = self.authority.issuer.current();
        let standing = self.leadership.standing();
        let set = self.authority.revocations.current();
        let revoked = set.ids.len() + set.serials.len() + set.keys.len();
        Ok(AuthorityDescription {
            roots: material.roots.iter().map(|der| der.to_vec()).collect(),
            intermediate: material
                .intermediate
                .chain()
                .first()
                .map(|der| der.to_vec())
                .unwrap_or_default(),
            external_root: self.external_root,
            intermediate_not_after: material.intermediate.not_after().unix_timestamp(),
            issued: self.authority.store.count_issued().await?,
            revoked: u64::try_from(revoked).unwrap_or(u64::MAX),
            leader: standing.leader,
            is_leader: standing.is_leader,
        })
    }
}

#[tonic::async_trait]
impl AuthorityService for OperatorApi {
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<JoinToken>, Status> {
        const WHAT: &str = "create_join_token";
        let by = self.operator(WHAT, request.extensions())?;
        let result = self.create(request.into_inner(), by.as_str()).await;
        self.answer(WHAT, &by, result)
    }

    async fn revoke(
        &self,
        request: Request<RevokeRequest>,
    ) -> Result<Response<RevokeResponse>, Status> {
        const WHAT: &str = "revoke";
        let by = self.operator(WHAT, request.extensions())?;
        let result = self.revoke(request.into_inner(), by.as_str()).await;
        self.answer(WHAT, &by, result)
    }

    async fn restore(
        &self,
        request: Request<RestoreRequest>,
    ) -> Result<Response<RevokeResponse>, Status> {
        const WHAT: &str = "restore";
        let by = self.operator(WHAT, request.extensions())?;
        let result = self.restore(request.into_inner(), by.as_str()).await;
        self.answer(WHAT, &by, result)
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<AuthorityDescription>, Status> {
        const WHAT: &str = "describe";
        let by = self.operator(WHAT, request.extensions())?;
        let result = self.describe().await;
        self.answer(WHAT, &by, result)
    }
}
