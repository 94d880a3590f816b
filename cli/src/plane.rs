//! The operator's way to the running platform: its control plane's API, and the certificates that its
//! components serve. Everything goes over mTLS with the operator's own SVID.
//!
//! Must not: hold anything; each command connects anew.

use std::sync::Arc;
use std::time::Duration;

use ringwall_http_io::{Address, Client, ClientLimits};
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_mesh_api::v1::DescribeRequest;
use ringwall_mesh_api::v1::authority_client::AuthorityClient;
use ringwall_tls::{IdentitySource, mesh_client_config, mesh_grpc_client_config, mesh_server_name};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use crate::composition::OPERATOR;
use crate::error::CliError;
use crate::record::{ComponentRecord, Record};
use crate::state::StateDir;

/// The component that is the control plane; its name is its identity.
const CONTROL_PLANE: &str = "control-plane";
/// How long one answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer of the HTTP API, in bytes: a bundle of 1 MiB, escaped, and what is said of it.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;

/// The same of an admin listener: a full list of the shield.
const LONGEST_LIST: usize = 32 * 1024 * 1024;

/// A running platform, as its operator reaches it.
pub(crate) struct Plane {
    pub(crate) record: Record,
    identity: Arc<IdentitySource>,
    domain: TrustDomain,
}

impl Plane {
    /// Finds the platform of a state directory.
    pub(crate) fn of(state: &StateDir) -> Result<Self, CliError> {
        let record = Record::read(state)?.filter(|record| record.supervisor().is_alive());
        let record = record.ok_or_else(|| CliError::NotRunning(state.root().to_path_buf()))?;
        ringwall_tls::install_crypto_provider();
        let identity = IdentitySource::load(&state.identity(OPERATOR))
            .map_err(|error| CliError::internal("loading the operator's certificate", error))?;
        Ok(Self {
            domain: TrustDomain::parse(&record.trust_domain)?,
            record,
            identity,
        })
    }

    /// The control plane that leads; of several replicas without a leader one that answers, else the first.
    async fn control_plane(&self) -> Result<&ComponentRecord, CliError> {
        let all = self.record.components.iter();
        let all: Vec<_> = all.filter(|one| one.identity == CONTROL_PLANE).collect();
        let mut found = self.component(CONTROL_PLANE)?;
        if all.len() < 2 {
            return Ok(found);
        }
        let mut answered = false;
        for replica in all {
            let mut authority = self.authority_at(replica)?;
            let asked = authority.describe(DescribeRequest {});
            let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await else {
                continue;
            };
            if answer.into_inner().is_leader {
                return Ok(replica);
            }
            if !answered {
                (found, answered) = (replica, true);
            }
        }
        Ok(found)
    }

    /// The operator's part of the control plane's API.
    pub(crate) async fn authority(&self) -> Result<AuthorityClient<Channel>, CliError> {
        self.authority_at(self.control_plane().await?)
    }

    fn authority_at(&self, plane: &ComponentRecord) -> Result<AuthorityClient<Channel>, CliError> {
        let id = SpiffeId::workload(&self.domain, &plane.identity)?;
        let tls = mesh_grpc_client_config(&self.identity, id)
            .map_err(|error| CliError::internal("dialling the control plane", error))?;
        let channel = ringwall_service::grpc::channel(plane.address.clone(), tls);
        Ok(AuthorityClient::new(channel))
    }

    /// A client of its HTTP API.
    pub(crate) async fn client(&self) -> Result<Client, CliError> {
        let plane = self.control_plane().await?;
        let id = SpiffeId::workload(&self.domain, &plane.identity)?;
        let tls = mesh_client_config(&self.identity, id)
            .map_err(|error| CliError::internal("dialling the control plane", error))?;
        let limits = ClientLimits {
            connect_timeout: PATIENCE,
            max_body: LONGEST_ANSWER,
            ..ClientLimits::default()
        };
        Ok(Client::mesh(plane.address.clone(), tls, limits).named(CONTROL_PLANE))
    }

    /// A client of a component's admin listener.
    pub(crate) fn admin_client(&self, component: &ComponentRecord) -> Result<Client, CliError> {
        let admin = component.admin.clone().ok_or_else(|| CliError::State {
            what: format!("{} has no admin listener", component.name),
            fix: "give it one in ringwall.yaml".into(),
        })?;
        let id = SpiffeId::workload(&self.domain, &component.identity)?;
        let tls = mesh_client_config(&self.identity, id)
            .map_err(|error| CliError::internal("dialling an admin listener", error))?;
        let limits = ClientLimits {
            max_body: LONGEST_LIST,
            ..ClientLimits::default()
        };
        Ok(Client::mesh(admin, tls, limits))
    }

    /// SPIFFE id of a workload of this platform.
    pub(crate) fn id(&self, workload: &str) -> Result<SpiffeId, CliError> {
        Ok(SpiffeId::workload(&self.domain, workload)?)
    }

    pub(crate) fn component(&self, name: &str) -> Result<&ComponentRecord, CliError> {
        let known = self.record.components.iter().find(|one| one.name == name);
        known.ok_or_else(|| CliError::State {
            what: format!("the running platform has no component `{name}`"),
            fix: "`ringwall status` lists them".into(),
        })
    }

    /// The chain that a component serves now, leaf first.
    pub(crate) async fn served(
        &self,
        component: &ComponentRecord,
    ) -> Result<Vec<CertificateDer<'static>>, String> {
        let admin = component.admin.as_ref().ok_or("it has no admin listener")?;
        let asked = tokio::time::timeout(PATIENCE, self.handshake(&component.identity, admin));
        asked
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    async fn handshake(
        &self,
        workload: &str,
        admin: &Address,
    ) -> Result<Vec<CertificateDer<'static>>, String> {
        let say = |error: &dyn ToString| error.to_string();
        let id = SpiffeId::workload(&self.domain, workload).map_err(|error| say(&error))?;
        let config = mesh_client_config(&self.identity, id).map_err(|error| say(&error))?;
        let tcp = match admin {
            Address::Ip(address) => TcpStream::connect(address).await,
            Address::Name { host, port } => TcpStream::connect((host.as_ref(), *port)).await,
        };
        let tcp = tcp.map_err(|error| say(&error))?;
        let name = mesh_server_name(tcp.peer_addr().map_err(|error| say(&error))?);
        let stream = TlsConnector::from(config).connect(name, tcp).await;
        let stream = stream.map_err(|error| say(&error))?;
        let chain = stream.get_ref().1.peer_certificates();
        Ok(chain
            .unwrap_or_default()
            .iter()
            .map(|der| der.clone().into_owned())
            .collect())
    }
}

/// A refusal of the control plane, for people.
pub(crate) fn refused(what: &'static str, status: &tonic::Status) -> CliError {
    CliError::Plane {
        what,
        said: status.message().to_owned(),
        fix: match status.code() {
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => {
                "look whether it runs: ringwall status, ringwall logs control-plane"
            }
            tonic::Code::PermissionDenied => {
                "use the state directory of this platform: --state-dir"
            }
            _ => "correct the command",
        },
    }
}
