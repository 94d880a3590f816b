//! The keys of the trust domain's JWTs, delivered and kept fresh by the agent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ringwall_identity::TrustDomain;
use ringwall_mesh_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use ringwall_mesh_api::workload::{JwtBundlesRequest, JwtBundlesResponse};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::WorkloadApiError;
use crate::error::Attempt;
use crate::follow::{Feed, begin, follow, request};

/// A key set (JWKS, RFC 7517) as JSON.
type Keys = Arc<[u8]>;

/// Waits for the first JWT bundle of `domain`, for at most `patience`, and keeps the returned value
/// fresh until its last receiver is dropped. It is not parsed: `ringwall-token` does that. Call it
/// inside a tokio runtime.
///
/// # Errors
/// [`WorkloadApiError::Waited`] names the socket, what was seen last, and the fix.
pub async fn jwt_bundle(
    socket: &Path,
    domain: &TrustDomain,
    patience: Duration,
) -> Result<watch::Receiver<Keys>, WorkloadApiError> {
    let name = format!("spiffe://{domain}");
    let of_domain = |answer| keys(answer, &name);
    let (first, begun) = begin::<Bundles, _>(socket, patience, of_domain).await?;
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(follow(begun, Bundles { name, sender }));
    Ok(receiver)
}

struct Bundles {
    name: String,
    sender: watch::Sender<Keys>,
}

impl Feed for Bundles {
    type Answer = JwtBundlesResponse;
    const WHAT: &'static str = "JWT bundle";

    async fn open(
        mut client: SpiffeWorkloadApiClient<Channel>,
    ) -> Result<tonic::Streaming<JwtBundlesResponse>, tonic::Status> {
        let response = client
            .fetch_jwt_bundles(request(JwtBundlesRequest {}))
            .await?;
        Ok(response.into_inner())
    }

    fn take(&mut self, answer: JwtBundlesResponse) -> Result<(), Attempt> {
        let fresh = keys(answer, &self.name)?;
        self.sender.send_if_modified(|current| {
            let differs = **current != *fresh;
            *current = fresh;
            differs
        });
        Ok(())
    }

    fn is_wanted(&self) -> bool {
        self.sender.receiver_count() > 0
    }
}

fn keys(mut answer: JwtBundlesResponse, name: &str) -> Result<Keys, Attempt> {
    answer
        .bundles
        .remove(name)
        .map(Keys::from)
        .ok_or(Attempt::Content(
            "there is no bundle of our trust domain in it",
        ))
}
