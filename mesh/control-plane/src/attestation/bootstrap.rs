//! The bootstrap listener: TLS with our SVID, no client certificate, HTTP/2, one method.
//!
//! Owns: its limits. Whoever can reach it is a stranger: connections are few, small and short.
//! Must not: serve anything but `Attestation.Join`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ringwall_mesh_api::v1::attestation_server::AttestationServer;
use ringwall_service::Shell;
use ringwall_tls::{IdentitySource, TlsError, join_server_config};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tower::ServiceExt;

use super::api::{Address, JoinApi};

const MAX_CONNECTIONS: usize = 128;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A join is one short question; nobody needs to stay.
const CONNECTION_LIFE: Duration = Duration::from_secs(15);
/// A token and a request for a certificate.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
const MAX_STREAMS: u32 = 8;
const MAX_HEADER_BYTES: u32 = 8 * 1024;

/// The listener, ready to run.
pub(crate) struct Bootstrap {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
}

impl Bootstrap {
    pub(crate) fn new(
        listener: TcpListener,
        identity: &Arc<IdentitySource>,
        join: JoinApi,
    ) -> Result<Self, TlsError> {
        let service = AttestationServer::new(join).max_decoding_message_size(MAX_REQUEST_BYTES);
        Ok(Self {
            listener,
            acceptor: TlsAcceptor::from(join_server_config(identity)?),
            router: Routes::new(service).into_axum_router(),
        })
    }

    /// Serves until the shell begins to drain.
    pub(crate) async fn run(self, shell: Shell) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = tokio_util::task::TaskTracker::new();
        let stop = shell.shutdown();
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the bootstrap listener");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Full: strangers wait no longer than it takes to say no.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let (acceptor, router) = (self.acceptor.clone(), self.router.clone());
            connections.spawn(async move {
                let serving = serve(stream, address, acceptor, router);
                if timeout(CONNECTION_LIFE, serving).await.is_err() {
                    tracing::debug!(%address, "a bootstrap connection was closed for its age");
                }
                drop(place);
            });
        }
        connections.close();
        connections.wait().await;
    }
}

async fn serve(stream: TcpStream, address: SocketAddr, acceptor: TlsAcceptor, router: Router) {
    let tls = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "no handshake"),
        Err(_elapsed) => return,
    };
    let service = service_fn(move |request: http::Request<Incoming>| {
        let router = router.clone();
        let mut request = request.map(|body| Body::new(Limited::new(body, MAX_REQUEST_BYTES)));
        request.extensions_mut().insert(Address(address.ip()));
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_default()) }
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_pending_accept_reset_streams(Some(8))
        .max_local_error_reset_streams(Some(8))
        .serve_connection(TokioIo::new(tls), service);
    if let Err(error) = serving.await {
        tracing::debug!(%address, %error, "a bootstrap connection ended");
    }
}
