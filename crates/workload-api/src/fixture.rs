//! An agent that says what a test tells it to say.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use ringwall_identity::authority::{Authority, Issued};
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_mesh_api::workload::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use ringwall_mesh_api::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, SECURITY_HEADER,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
    X509svid, X509svidRequest, X509svidResponse,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status};

/// What the agent says at the moment; a change is pushed.
pub(crate) type Say<T> = watch::Sender<Result<T, Status>>;

pub(crate) struct FakeAgent {
    pub(crate) socket: PathBuf,
    pub(crate) svids: Arc<Say<X509svidResponse>>,
    pub(crate) bundles: Arc<Say<JwtBundlesResponse>>,
    pub(crate) authority: Authority,
    serving: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl FakeAgent {
    /// An agent that is not started yet and knows nobody.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        let nobody = || Status::permission_denied("no identity issued");
        Self {
            socket: folder.path().join("agent.sock"),
            svids: Arc::new(watch::Sender::new(Err(nobody()))),
            bundles: Arc::new(watch::Sender::new(Err(nobody()))),
            authority: Authority::generate(&domain, OffsetDateTime::now_utc()).unwrap(),
            serving: None,
            _folder: folder,
        }
    }

    pub(crate) fn start(&mut self) {
        let listener = UnixListener::bind(&self.socket).unwrap();
        let service = Service {
            svids: Arc::clone(&self.svids),
            bundles: Arc::clone(&self.bundles),
        };
        self.serving = Some(tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(SpiffeWorkloadApiServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        }));
    }

    /// Dies as a process does: connections and socket are gone.
    pub(crate) async fn kill(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _aborted = serving.await;
        std::fs::remove_file(&self.socket).unwrap();
        // Connections are tasks of their own; ending their streams ends them.
        self.say(Err(Status::unavailable("gone")));
    }

    pub(crate) fn say(&self, answer: Result<X509svidResponse, Status>) {
        drop(self.svids.send_replace(answer));
    }

    pub(crate) fn say_bundles(&self, answer: Result<JwtBundlesResponse, Status>) {
        drop(self.bundles.send_replace(answer));
    }

    pub(crate) fn issue(&self, name: &str, ttl: Duration) -> X509svidResponse {
        let id = SpiffeId::workload(self.authority.trust_domain(), name).unwrap();
        let now = OffsetDateTime::now_utc();
        let issued = self.authority.issue_svid(&id, &[], ttl, now).unwrap();
        X509svidResponse {
            svids: vec![self.svid(&id, &issued)],
            crl: vec![],
            federated_bundles: Default::default(),
        }
    }

    fn svid(&self, id: &SpiffeId, issued: &Issued) -> X509svid {
        let der = |pem: &str| {
            CertificateDer::from_pem_slice(pem.as_bytes())
                .unwrap()
                .to_vec()
        };
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        X509svid {
            spiffe_id: id.to_string(),
            x509_svid: der(&issued.chain_pem),
            x509_svid_key: key.secret_der().to_vec(),
            bundle: der(self.authority.cert_pem()),
            hint: String::new(),
        }
    }
}

struct Service {
    svids: Arc<Say<X509svidResponse>>,
    bundles: Arc<Say<JwtBundlesResponse>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answers<T: Clone + Send + Sync + 'static, R>(
    say: &Say<T>,
    request: &Request<R>,
) -> Response<Answers<T>> {
    assert_eq!(request.metadata().get(SECURITY_HEADER).unwrap(), "true");
    Response::new(WatchStream::new(say.subscribe()).boxed())
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Ok(answers(&self.svids, &request))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Ok(answers(&self.bundles, &request))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }
}
