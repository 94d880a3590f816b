//! What the agent asks of the control plane.
//!
//! Owns: the requests, their time limits, which replica is asked, and the one place that knows the generated client.
//! Must not: ask a replica twice; `renewal.rs` and `trust.rs` repeat.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use ringwall_mesh_api::v1::identity_client::IdentityClient;
use ringwall_mesh_api::v1::{
    Certificate, IssueDatabaseClientRequest, IssueJwtSvidRequest, IssueServerRequest,
    IssueSvidRequest, JwtSvid, Reach, RenewAgentRequest, Trust, WatchReachRequest,
    WatchTrustRequest,
};
use ringwall_service::ConfigError;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::error::AgentError;

/// Limit of one question; a renewal that fails is repeated.
const PATIENCE: Duration = Duration::from_secs(5);

/// One certificate that somebody needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// The node's own.
    Agent,
    Svid {
        workload: String,
    },
    DatabaseClient {
        workload: String,
        role: String,
    },
    Server {
        workload: String,
        dns: Vec<String>,
        ips: Vec<IpAddr>,
    },
}

impl Want {
    /// For metrics and logs.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Svid { .. } => "svid",
            Self::DatabaseClient { .. } => "database_client",
            Self::Server { .. } => "server",
        }
    }

    /// For whom; the node itself is nobody's.
    pub(crate) fn workload(&self) -> &str {
        match self {
            Self::Agent => "",
            Self::Svid { workload }
            | Self::DatabaseClient { workload, .. }
            | Self::Server { workload, .. } => workload,
        }
    }
}

/// Whoever certifies keys: the control plane, or a test's authority.
#[async_trait]
pub(crate) trait Issuer: Send + Sync + 'static {
    async fn certify(&self, want: &Want, request: Vec<u8>) -> Result<Certificate, AgentError>;

    async fn jwt(&self, workload: &str, audience: &[String]) -> Result<JwtSvid, AgentError>;
}

/// The control plane over mTLS: several replicas, any of which will do. Clones share the connections.
#[derive(Clone)]
pub(crate) struct ControlPlane(Arc<Replicas>);

struct Replicas {
    clients: Mutex<Vec<IdentityClient<Channel>>>,
    /// Which of them has answered last.
    current: AtomicUsize,
    dial: Box<dyn Fn() -> Result<Vec<Channel>, ConfigError> + Send + Sync>,
}

impl ControlPlane {
    /// `dial` makes a channel to each replica, which connects at its first use.
    pub(crate) fn new(
        dial: impl Fn() -> Result<Vec<Channel>, ConfigError> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        Ok(Self(Arc::new(Replicas {
            clients: Mutex::new(clients(dial()?)),
            current: AtomicUsize::new(0),
            dial: Box::new(dial),
        })))
    }

    /// Asks over new connections from now on. The control plane ends one when the certificate that
    /// it began with does, and whoever asks at that moment would get no answer.
    pub(crate) fn dial_again(&self) {
        match (self.0.dial)() {
            Ok(channels) => *self.0.clients.lock() = clients(channels),
            Err(error) => tracing::warn!(%error, "the connection to the control plane stays"),
        }
    }

    /// Asks the replica that has answered last, and each of the others while there is no answer. A refusal is an answer.
    async fn ask<T, F>(
        &self,
        mut question: impl FnMut(IdentityClient<Channel>) -> F + Send,
    ) -> Result<T, AgentError>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let clients = self.0.clients.lock().clone();
        let first = self.0.current.load(Ordering::Relaxed);
        let mut away = AgentError::Away("no control plane is declared".to_owned());
        for step in 0..clients.len() {
            let Some(index) = first.wrapping_add(step).checked_rem(clients.len()) else {
                break;
            };
            let Some(client) = clients.get(index) else {
                break;
            };
            let answer = question(client.clone()).await.map_err(AgentError::from);
            match answer {
                Err(error @ AgentError::Away(_)) => away = error,
                answer => {
                    if step > 0 {
                        tracing::warn!(replica = index + 1, error = %away, "another control plane is asked from now on");
                        self.0.current.store(index, Ordering::Relaxed);
                    }
                    return answer.map(Response::into_inner);
                }
            }
        }
        Err(away)
    }

    /// The stream of trust; it begins with the whole.
    pub(crate) async fn watch_trust(&self) -> Result<Streaming<Trust>, AgentError> {
        self.ask(|mut client| async move { opened(client.watch_trust(WatchTrustRequest {})).await })
            .await
    }

    /// The stream of what this node's workloads may connect to; it begins with the whole.
    pub(crate) async fn watch_reach(&self) -> Result<Streaming<Reach>, AgentError> {
        self.ask(|mut client| async move { opened(client.watch_reach(WatchReachRequest {})).await })
            .await
    }
}

/// The limit is for the beginning alone: the stream itself lasts.
async fn opened<T>(
    opening: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
) -> Result<Response<Streaming<T>>, Status> {
    let opened = tokio::time::timeout(PATIENCE, opening).await;
    opened.unwrap_or_else(|_elapsed| {
        Err(Status::unavailable(format!(
            "no stream within {PATIENCE:?}"
        )))
    })
}

fn clients(channels: Vec<Channel>) -> Vec<IdentityClient<Channel>> {
    channels.into_iter().map(IdentityClient::new).collect()
}

#[async_trait]
impl Issuer for ControlPlane {
    async fn certify(&self, want: &Want, csr: Vec<u8>) -> Result<Certificate, AgentError> {
        self.ask(|client| certify(client, want.clone(), csr.clone()))
            .await
    }

    async fn jwt(&self, workload: &str, audience: &[String]) -> Result<JwtSvid, AgentError> {
        self.ask(|mut client| {
            let request = IssueJwtSvidRequest {
                workload: workload.to_owned(),
                audience: audience.to_vec(),
            };
            async move { client.issue_jwt_svid(limited(request)).await }
        })
        .await
    }
}

async fn certify(
    mut client: IdentityClient<Channel>,
    want: Want,
    csr: Vec<u8>,
) -> Result<Response<Certificate>, Status> {
    match want {
        Want::Agent => client.renew_agent(limited(RenewAgentRequest { csr })).await,
        Want::Svid { workload } => {
            let request = IssueSvidRequest { workload, csr };
            client.issue_svid(limited(request)).await
        }
        Want::DatabaseClient { workload, role } => {
            let request = IssueDatabaseClientRequest {
                workload,
                role,
                csr,
            };
            client.issue_database_client(limited(request)).await
        }
        Want::Server { workload, dns, ips } => {
            let request = IssueServerRequest {
                workload,
                dns_names: dns,
                ip_addresses: ips.iter().map(ToString::to_string).collect(),
                csr,
            };
            client.issue_server(limited(request)).await
        }
    }
}

pub(crate) fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}
