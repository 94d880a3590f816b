//! Asking a component how it is: mTLS `GET /readyz` on its admin listener, as the operator.

use std::sync::Arc;
use std::time::Duration;

use ringwall_http_io::{Address, Client, ClientLimits, Transport, body};
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_proto::headers;
use ringwall_tls::{IdentitySource, mesh_client_config};

use crate::composition::OPERATOR;
use crate::error::CliError;
use crate::state::StateDir;

/// How long one question may take: as long as our servers grant a handshake, for machines that have much to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is shown.
const LONGEST_ANSWER: usize = 4096;
/// Largest page of metrics.
const LARGEST_METRICS: usize = 4 * 1024 * 1024;

/// The operator's side of every admin listener.
#[derive(Clone)]
pub(crate) struct Prober {
    identity: Arc<IdentitySource>,
    trust_domain: TrustDomain,
}

impl Prober {
    /// Loads the operator's certificate from the state directory.
    pub(crate) fn load(state: &StateDir, trust_domain: &str) -> Result<Self, CliError> {
        ringwall_tls::install_crypto_provider();
        let identity = IdentitySource::load(&state.identity(OPERATOR))
            .map_err(|error| CliError::internal("loading the operator's certificate", error))?;
        Ok(Self {
            identity,
            trust_domain: TrustDomain::parse(trust_domain)?,
        })
    }

    /// Reads the operator's certificate again after a rotation.
    pub(crate) fn reload(&self) -> Result<(), CliError> {
        let reloaded = self.identity.reload();
        reloaded
            .map(|_| ())
            .map_err(|error| CliError::internal("reloading the operator's certificate", error))
    }

    /// `Ok` when the workload at `admin` says that it is ready, and is process `pid` where one is
    /// given; the error is a sentence for people.
    pub(crate) async fn ready(
        &self,
        workload: &str,
        admin: &Address,
        pid: Option<i32>,
    ) -> Result<(), String> {
        let asked = tokio::time::timeout(PATIENCE, self.ask(workload, admin, pid)).await;
        asked.unwrap_or_else(|_| Err(format!("does not answer within {} s", PATIENCE.as_secs())))
    }

    /// The metrics of the workload at `admin`, as Prometheus reads them.
    pub(crate) async fn metrics(&self, workload: &str, admin: &Address) -> Result<String, String> {
        let asked = async {
            let client = self.client(workload, admin)?;
            let request = http::Request::get("/metrics")
                .header("host", workload)
                .body(body::empty());
            let request = request.map_err(|error| error.to_string())?;
            let response = client.send(request).await;
            let response = response.map_err(|error| error.to_string())?;
            if !response.status().is_success() {
                return Err(format!("answers {}", response.status()));
            }
            let bytes = body::collect(response.into_body(), LARGEST_METRICS).await;
            let bytes = bytes.map_err(|error| error.to_string())?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        asked.unwrap_or_else(|_| Err(format!("does not answer within {} s", PATIENCE.as_secs())))
    }

    /// A client of the admin listener at `admin`, where `workload` must answer.
    pub(crate) fn client(&self, workload: &str, admin: &Address) -> Result<Client, String> {
        let id =
            SpiffeId::workload(&self.trust_domain, workload).map_err(|error| error.to_string())?;
        let config = mesh_client_config(&self.identity, id).map_err(|error| error.to_string())?;
        let limits = ClientLimits {
            connect_timeout: PATIENCE,
            ..ClientLimits::default()
        };
        Ok(Client::mesh(admin.clone(), config, limits))
    }

    async fn ask(&self, workload: &str, admin: &Address, pid: Option<i32>) -> Result<(), String> {
        let client = self.client(workload, admin)?;
        let request = http::Request::get("/readyz")
            .header("host", workload)
            .body(body::empty());
        let request = request.map_err(|error| error.to_string())?;
        let response = client
            .send(request)
            .await
            .map_err(|error| error.to_string())?;
        let answered_by = response.headers().get(headers::PROCESS);
        let answered_by = answered_by.and_then(|value| value.to_str().ok()?.parse::<i32>().ok());
        if let (Some(expected), Some(seen)) = (pid, answered_by)
            && expected != seen
        {
            return Err(format!("process {seen} answers in its place"));
        }
        if response.status().is_success() {
            return Ok(());
        }
        let status = response.status();
        let text = body::collect(response.into_body(), LONGEST_ANSWER)
            .await
            .unwrap_or_default();
        Err(format!(
            "answers {status}: {}",
            String::from_utf8_lossy(&text).trim()
        ))
    }
}
