//! The X.509 identity of this process, delivered and kept fresh by the agent.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ringwall_mesh_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use ringwall_mesh_api::workload::{X509svidRequest, X509svidResponse};
use ringwall_tls::{IdentityMaterial, IdentitySource};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use tonic::transport::Channel;

use crate::WorkloadApiError;
use crate::der::split;
use crate::error::Attempt;
use crate::follow::{Feed, begin, follow, request};

/// Waits for the first SVID, for at most `patience`, and keeps the returned source fresh until its
/// last user drops it. Call it inside a tokio runtime.
///
/// # Errors
/// [`WorkloadApiError::Waited`] names the socket, what was seen last, and the fix.
pub async fn identity(
    socket: &Path,
    patience: Duration,
) -> Result<Arc<IdentitySource>, WorkloadApiError> {
    let first =
        |answer| IdentitySource::from_material(material(answer)?).map_err(Attempt::Unusable);
    let (source, begun) = begin::<Svids, _>(socket, patience, first).await?;
    tokio::spawn(follow(begun, Svids(Arc::downgrade(&source))));
    Ok(source)
}

struct Svids(Weak<IdentitySource>);

impl Feed for Svids {
    type Answer = X509svidResponse;
    const WHAT: &'static str = "workload identity";

    async fn open(
        mut client: SpiffeWorkloadApiClient<Channel>,
    ) -> Result<tonic::Streaming<X509svidResponse>, tonic::Status> {
        let response = client.fetch_x509svid(request(X509svidRequest {})).await?;
        Ok(response.into_inner())
    }

    fn take(&mut self, answer: X509svidResponse) -> Result<(), Attempt> {
        let Some(source) = self.0.upgrade() else {
            return Ok(());
        };
        source.update(material(answer)?)?;
        tracing::info!(not_after = %source.not_after(), "a new workload identity is in use");
        Ok(())
    }

    fn is_wanted(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// The default identity of an answer: the first one (SPIFFE Workload API §5.3).
fn material(answer: X509svidResponse) -> Result<IdentityMaterial, Attempt> {
    let svid = answer
        .svids
        .into_iter()
        .next()
        .ok_or(Attempt::Content("there is no SVID in it"))?;
    let certificates = |der: &[u8], what| {
        let parts = split(der).ok_or(Attempt::Content(what))?;
        Ok::<_, Attempt>(parts.into_iter().map(CertificateDer::from).collect())
    };
    Ok(IdentityMaterial {
        chain: certificates(&svid.x509_svid, "the chain is not concatenated DER")?,
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.x509_svid_key)),
        bundle: certificates(&svid.bundle, "the bundle is not concatenated DER")?,
        crls: answer
            .crl
            .into_iter()
            .map(CertificateRevocationListDer::from)
            .collect(),
    })
}

#[cfg(test)]
mod tests;
