//! The way to the agent: one report after another, beside the data path.
//!
//! Owns: how long one may take, and what is counted. A report that fails is not repeated: who goes on is reported again.

use std::path::Path;
use std::time::Duration;

use ringwall_mesh_api::v1::deny_reply::Outcome;
use ringwall_mesh_api::v1::edge_shield_client::EdgeShieldClient;
use ringwall_mesh_api::v1::{DenyReply, DenyRequest};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use super::Report;
use crate::metrics::GatewayMetrics;

/// How long the agent may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The background's side.
pub(crate) struct Feed {
    agent: EdgeShieldClient<Channel>,
    waiting: mpsc::Receiver<Report>,
    metrics: GatewayMetrics,
}

impl Feed {
    pub(super) fn new(
        socket: &Path,
        waiting: mpsc::Receiver<Report>,
        metrics: GatewayMetrics,
    ) -> Self {
        Self {
            agent: EdgeShieldClient::new(ringwall_workload_api::channel(socket)),
            waiting,
            metrics,
        }
    }

    /// Reports until no worker is left.
    pub(crate) async fn run(mut self) {
        while let Some(report) = self.waiting.recv().await {
            match self.tell(report).await {
                Ok(outcome) => {
                    self.metrics.reported(outcome == Outcome::Denied);
                    tracing::warn!(
                        source = %report.address,
                        cause = report.cause.as_str(),
                        seconds = report.lasts.as_secs(),
                        outcome = outcome.as_str_name(),
                        "a source was reported for abuse"
                    );
                }
                Err(error) => {
                    self.metrics.report_failed();
                    tracing::warn!(
                        source = %report.address,
                        cause = report.cause.as_str(),
                        %error,
                        "a source could not be reported for abuse; its requests are limited as before"
                    );
                }
            }
        }
    }

    async fn tell(&mut self, report: Report) -> Result<Outcome, Status> {
        let request = DenyRequest {
            address: report.address.to_string(),
            cause: report.cause.as_str().to_owned(),
            seconds: u32::try_from(report.lasts.as_secs()).unwrap_or(u32::MAX),
        };
        let asked = timeout(PATIENCE, self.agent.deny(request)).await;
        let reply: DenyReply = asked
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the agent does not answer")))?
            .into_inner();
        Ok(reply.outcome())
    }
}
