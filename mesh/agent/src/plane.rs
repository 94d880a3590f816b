//! What the agent asks of the control plane.
//!
//! Owns: the requests, their time limits, and the one place that knows the generated client.
//! Must not: repeat anything; `renewal.rs` and `trust.rs` do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use ringwall_mesh_api::v1::identity_client::IdentityClient;
use ringwall_mesh_api::v1::{
    Certificate, IssueDatabaseClientRequest, IssueJwtSvidRequest, IssueServerRequest,
    IssueSvidRequest, JwtSvid, RenewAgentRequest, Trust, WatchTrustRequest,
};
use ringwall_service::ConfigError;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

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

/// The control plane over mTLS. Clones share the connection.
#[derive(Clone)]
pub(crate) struct ControlPlane {
    client: Arc<Mutex<IdentityClient<Channel>>>,
    dial: Arc<dyn Fn() -> Result<Channel, ConfigError> + Send + Sync>,
}

impl ControlPlane {
    /// `dial` makes a channel, which connects at its first use.
    pub(crate) fn new(
        dial: impl Fn() -> Result<Channel, ConfigError> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            client: Arc::new(Mutex::new(IdentityClient::new(dial()?))),
            dial: Arc::new(dial),
        })
    }

    /// Asks over a new connection from now on. The control plane ends one when the certificate that
    /// it began with does, and whoever asks at that moment would get no answer.
    pub(crate) fn dial_again(&self) {
        match (self.dial)() {
            Ok(channel) => *self.client.lock() = IdentityClient::new(channel),
            Err(error) => tracing::warn!(%error, "the connection to the control plane stays"),
        }
    }

    fn client(&self) -> IdentityClient<Channel> {
        self.client.lock().clone()
    }

    /// The stream of trust; it begins with the whole.
    pub(crate) async fn watch_trust(&self) -> Result<Streaming<Trust>, AgentError> {
        let mut client = self.client();
        // The limit is for the beginning alone: the stream itself lasts.
        let opening = client.watch_trust(WatchTrustRequest {});
        match tokio::time::timeout(PATIENCE, opening).await {
            Ok(opened) => Ok(opened?.into_inner()),
            Err(_elapsed) => Err(AgentError::Away(format!("no stream within {PATIENCE:?}"))),
        }
    }
}

#[async_trait]
impl Issuer for ControlPlane {
    async fn certify(&self, want: &Want, csr: Vec<u8>) -> Result<Certificate, AgentError> {
        let mut client = self.client();
        let answer = match want.clone() {
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
        };
        Ok(answer?.into_inner())
    }

    async fn jwt(&self, workload: &str, audience: &[String]) -> Result<JwtSvid, AgentError> {
        let request = IssueJwtSvidRequest {
            workload: workload.to_owned(),
            audience: audience.to_vec(),
        };
        let mut client = self.client();
        Ok(client.issue_jwt_svid(limited(request)).await?.into_inner())
    }
}

pub(crate) fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}
