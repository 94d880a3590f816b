//! `Identity`: what agents get for themselves and for the workloads of their node.
//!
//! Owns: who is an agent. `spiffe://TRUST_DOMAIN/agent/NODE` of a declared node, not revoked; for
//! everybody else every method is PERMISSION_DENIED. Must not: decide what is issued; `authority.rs`
//! does. Read next: `authority.rs`.

use ringwall_identity::SpiffeId;
use ringwall_mesh_api::v1::identity_server::Identity;
use ringwall_mesh_api::v1::{
    Certificate, IssueDatabaseClientRequest, IssueJwtSvidRequest, IssueServerRequest,
    IssueSvidRequest, JwtSvid, Reach, RenewAgentRequest, Trust as TrustMessage, WatchReachRequest,
    WatchTrustRequest,
};
use ringwall_service::Peer;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status};

use super::Authority;
use super::trust::Trust;
use crate::discovery::Hub;
use crate::error::Error;

/// First part of an agent's path.
const AGENT: &str = "agent/";

/// The gRPC service.
pub(crate) struct IdentityApi {
    pub(crate) authority: Authority,
    pub(crate) trust: Trust,
    pub(crate) hub: Hub,
}

/// A caller that is the agent of a declared node.
struct Agent {
    id: SpiffeId,
    node: String,
}

impl IdentityApi {
    /// The calling agent, or the refusal, which is counted.
    fn agent(&self, what: &'static str, extensions: &Extensions) -> Result<Agent, Status> {
        let caller = extensions.get::<Peer>();
        let by = caller.map_or("nobody", |peer| peer.0.as_str());
        let found = caller
            .ok_or_else(|| Error::denied("the connection carries no workload identity"))
            .and_then(|peer| self.accept(&peer.0));
        found.map_err(|error| self.refuse(what, error, by))
    }

    fn accept(&self, id: &SpiffeId) -> Result<Agent, Error> {
        let node = id
            .path()
            .strip_prefix(AGENT)
            .ok_or_else(|| Error::denied("only agents may ask for this"))?;
        // Also checks that the node is declared, and that it has one segment alone.
        if self.authority.agent_id(node)? != *id {
            return Err(Error::denied("only agents of this trust domain may ask"));
        }
        self.authority.refuse_revoked(id)?;
        Ok(Agent {
            id: id.clone(),
            node: node.to_owned(),
        })
    }

    fn refuse(&self, what: &'static str, error: Error, by: &str) -> Status {
        self.authority.audit.refused(what, &error, by, "");
        error.into()
    }

    fn answer<T>(
        &self,
        what: &'static str,
        agent: &Agent,
        result: Result<T, Error>,
    ) -> Result<Response<T>, Status> {
        result
            .map(Response::new)
            .map_err(|error| self.refuse(what, error, agent.id.as_str()))
    }
}

#[tonic::async_trait]
impl Identity for IdentityApi {
    type WatchTrustStream = ReceiverStream<Result<TrustMessage, Status>>;
    type WatchReachStream = ReceiverStream<Result<Reach, Status>>;

    async fn renew_agent(
        &self,
        request: Request<RenewAgentRequest>,
    ) -> Result<Response<Certificate>, Status> {
        const WHAT: &str = "renew_agent";
        let agent = self.agent(WHAT, request.extensions())?;
        let csr = request.into_inner().csr;
        let by = agent.id.as_str();
        let result = self.authority.agent_svid(&agent.node, &csr, by).await;
        self.answer(WHAT, &agent, result)
    }

    async fn issue_svid(
        &self,
        request: Request<IssueSvidRequest>,
    ) -> Result<Response<Certificate>, Status> {
        const WHAT: &str = "issue_svid";
        let agent = self.agent(WHAT, request.extensions())?;
        let IssueSvidRequest { workload, csr } = request.into_inner();
        let by = agent.id.as_str();
        let issuing = self
            .authority
            .workload_svid(&agent.node, &workload, &csr, by);
        let result = issuing.await;
        self.answer(WHAT, &agent, result)
    }

    async fn issue_jwt_svid(
        &self,
        request: Request<IssueJwtSvidRequest>,
    ) -> Result<Response<JwtSvid>, Status> {
        const WHAT: &str = "issue_jwt_svid";
        let agent = self.agent(WHAT, request.extensions())?;
        let IssueJwtSvidRequest { workload, audience } = request.into_inner();
        let by = agent.id.as_str();
        let result = self
            .authority
            .jwt_svid(&agent.node, &workload, &audience, by);
        self.answer(WHAT, &agent, result)
    }

    async fn issue_database_client(
        &self,
        request: Request<IssueDatabaseClientRequest>,
    ) -> Result<Response<Certificate>, Status> {
        const WHAT: &str = "issue_database_client";
        let agent = self.agent(WHAT, request.extensions())?;
        let asked = request.into_inner();
        let issuing = self.authority.database_client(
            &agent.node,
            &asked.workload,
            &asked.role,
            &asked.csr,
            agent.id.as_str(),
        );
        let result = issuing.await;
        self.answer(WHAT, &agent, result)
    }

    async fn issue_server(
        &self,
        request: Request<IssueServerRequest>,
    ) -> Result<Response<Certificate>, Status> {
        const WHAT: &str = "issue_server";
        let agent = self.agent(WHAT, request.extensions())?;
        let asked = request.into_inner();
        let by = agent.id.as_str();
        let result = self.authority.server(&agent.node, &asked, by).await;
        self.answer(WHAT, &agent, result)
    }

    async fn watch_trust(
        &self,
        request: Request<WatchTrustRequest>,
    ) -> Result<Response<Self::WatchTrustStream>, Status> {
        const WHAT: &str = "watch_trust";
        let agent = self.agent(WHAT, request.extensions())?;
        let result = self
            .trust
            .watch(&self.authority, agent.id.clone(), &agent.node);
        self.answer(WHAT, &agent, result)
    }

    async fn watch_reach(
        &self,
        request: Request<WatchReachRequest>,
    ) -> Result<Response<Self::WatchReachStream>, Status> {
        let Agent { id, node } = self.agent("watch_reach", request.extensions())?;
        let life = self.authority.lives.svid;
        Ok(Response::new(self.hub.watch_reach(id, node, life)))
    }
}
