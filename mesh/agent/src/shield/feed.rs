//! The gateway's word: one call on the agent's socket.
//!
//! Owns: who may call it. The caller is who the kernel says it is, as for an identity (`attest.rs`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringwall_ebpf_loader::Cause;
use ringwall_mesh_api::v1::deny_reply;
use ringwall_mesh_api::v1::edge_shield_server::EdgeShield;
use ringwall_mesh_api::v1::{DenyReply, DenyRequest};
use tonic::{Request, Response, Status};

use super::{Edge, EdgeError, LONGEST, Outcome};
use crate::api::Shared;

pub(crate) struct EdgeShieldService {
    shared: Arc<Shared>,
    edge: Arc<Edge>,
}

impl EdgeShieldService {
    pub(crate) fn new(shared: &Arc<Shared>, edge: &Arc<Edge>) -> Self {
        Self {
            shared: Arc::clone(shared),
            edge: Arc::clone(edge),
        }
    }
}

#[tonic::async_trait]
impl EdgeShield for EdgeShieldService {
    async fn deny(&self, request: Request<DenyRequest>) -> Result<Response<DenyReply>, Status> {
        self.shared.metrics.called("Deny");
        let caller = self.shared.caller(&request)?;
        if !self.edge.is_feeder(caller.workload()) {
            self.shared.metrics.refused("no_feeder");
            tracing::warn!(
                workload = caller.workload(),
                "a workload that may not feed the shield has tried to"
            );
            return Err(Status::permission_denied("this workload denies nobody"));
        }
        let (address, cause, lasts) = read(request.get_ref()).map_err(Status::invalid_argument)?;
        let edge = Arc::clone(&self.edge);
        let denied = tokio::task::spawn_blocking(move || edge.report(address, cause, lasts)).await;
        match denied {
            Ok(Ok(outcome)) => Ok(Response::new(DenyReply {
                outcome: reply(outcome).into(),
            })),
            Ok(Err(error @ EdgeError::Off(_))) => Err(Status::unavailable(error.to_string())),
            Ok(Err(EdgeError::Kernel(error))) => {
                tracing::error!(%error, "a source could not be denied");
                Err(Status::internal("the kernel refuses"))
            }
            Err(_panicked) => Err(Status::internal("the shield has failed")),
        }
    }
}

fn read(request: &DenyRequest) -> Result<(IpAddr, Cause, Duration), &'static str> {
    let address = request
        .address
        .parse()
        .map_err(|_| "address: no IP address")?;
    let cause = Cause::from_word(&request.cause)
        .filter(|cause| *cause != Cause::Operator)
        .ok_or("cause: none that a gateway can have")?;
    let lasts = Duration::from_secs(request.seconds.into());
    if lasts.is_zero() || lasts > LONGEST {
        return Err("seconds: from 1 to 86400");
    }
    Ok((address, cause, lasts))
}

const fn reply(outcome: Outcome) -> deny_reply::Outcome {
    match outcome {
        Outcome::Denied => deny_reply::Outcome::Denied,
        Outcome::Kept => deny_reply::Outcome::Kept,
        Outcome::Exempt => deny_reply::Outcome::Exempt,
        Outcome::Full => deny_reply::Outcome::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_says_who_why_and_how_long_at_most() {
        let request = |address: &str, cause: &str, seconds| DenyRequest {
            address: address.to_owned(),
            cause: cause.to_owned(),
            seconds,
        };
        assert!(read(&request("192.0.2.7", "malformed", 86_400)).is_ok());
        for (address, cause, seconds) in [
            ("192.0.2.0/24", "malformed", 60),
            ("example.org", "malformed", 60),
            ("192.0.2.7", "operator", 60),
            ("192.0.2.7", "dislike", 60),
            ("192.0.2.7", "malformed", 0),
            ("192.0.2.7", "malformed", 86_401),
        ] {
            assert!(
                read(&request(address, cause, seconds)).is_err(),
                "{address} {cause}"
            );
        }
    }
}
