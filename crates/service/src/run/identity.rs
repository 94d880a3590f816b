//! The identity that the configuration names.

use std::{sync::Arc, time::Duration};

use ringwall_tls::IdentitySource;

use crate::{
    config::{ConfigError, IdentityFrom, ServiceConfig},
    error::StartError,
};

/// How long a start waits for the agent: it may be starting too, and register us only then.
pub(super) const AGENT_PATIENCE: Duration = Duration::from_secs(30);
/// Where a component that gets its identity in its own way keeps it, below its `service.state`.
const OWN_DIRECTORY: &str = "identity";

/// Reads or fetches the identity.
pub(super) async fn configured(
    config: &ServiceConfig,
) -> Result<Option<Arc<IdentitySource>>, StartError> {
    match &config.identity {
        IdentityFrom::Directory(directory) => Ok(Some(IdentitySource::load(directory)?)),
        IdentityFrom::WorkloadApi(socket) => {
            ringwall_workload_api::identity(socket, AGENT_PATIENCE)
                .await
                .map(Some)
                .map_err(|error| StartError::unavailable("the workload's identity", error))
        }
        IdentityFrom::Proxy => Ok(None),
        IdentityFrom::Own => Err(ConfigError::invalid(
            "service.identity",
            "`self`",
            "a directory, or `unix:PATH` of the agent's socket: this component issues no identity",
            "write `identity: unix:/run/ringwall/agent.sock`",
        )
        .into()),
    }
}

/// The same for another process of the same component, within `patience`.
pub(super) async fn of_running(
    config: &ServiceConfig,
    patience: Duration,
) -> Result<Arc<IdentitySource>, String> {
    match &config.identity {
        IdentityFrom::Directory(directory) => {
            IdentitySource::load(directory).map_err(|error| error.to_string())
        }
        IdentityFrom::WorkloadApi(socket) => ringwall_workload_api::identity(socket, patience)
            .await
            .map_err(|error| error.to_string()),
        IdentityFrom::Own => {
            let state = config
                .state
                .as_ref()
                .ok_or("service.state is not set, so that the identity cannot be found")?;
            IdentitySource::load(&state.join(OWN_DIRECTORY)).map_err(|error| error.to_string())
        }
        IdentityFrom::Proxy => Err("the service proxy has the identity".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, pin::Pin};

    use ringwall_mesh_api::workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
        X509svid, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    };
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    use tokio::net::UnixListener;
    use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
    use tonic::{Request, Response, Status};

    use super::*;
    use crate::{
        Shell,
        fixture::{Mesh, id},
    };

    type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

    /// An agent that knows one workload, and nothing but X.509.
    struct Agent(X509svidResponse);

    #[tonic::async_trait]
    impl SpiffeWorkloadApi for Agent {
        type FetchX509SVIDStream = Answers<X509svidResponse>;
        type FetchX509BundlesStream = Answers<X509BundlesResponse>;
        type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

        async fn fetch_x509svid(
            &self,
            _: Request<X509svidRequest>,
        ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
            let first = tokio_stream::once(Ok(self.0.clone()));
            Ok(Response::new(Box::pin(
                first.chain(tokio_stream::pending()),
            )))
        }

        async fn fetch_x509_bundles(
            &self,
            _: Request<X509BundlesRequest>,
        ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn fetch_jwtsvid(
            &self,
            _: Request<JwtsvidRequest>,
        ) -> Result<Response<JwtsvidResponse>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn fetch_jwt_bundles(
            &self,
            _: Request<JwtBundlesRequest>,
        ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn validate_jwtsvid(
            &self,
            _: Request<ValidateJwtsvidRequest>,
        ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
            Err(Status::unimplemented(""))
        }
    }

    fn serve(socket: &Path, files: &Path) {
        let der = |name: &str| {
            CertificateDer::from_pem_file(files.join(name))
                .unwrap()
                .to_vec()
        };
        let key = PrivateKeyDer::from_pem_file(files.join("svid.key")).unwrap();
        let svid = X509svid {
            x509_svid: der("svid.pem"),
            x509_svid_key: key.secret_der().to_vec(),
            bundle: der("bundle.pem"),
            ..X509svid::default()
        };
        let agent = Agent(X509svidResponse {
            svids: vec![svid],
            ..X509svidResponse::default()
        });
        let listener = UnixListener::bind(socket).unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(agent))
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::spawn(serving);
    }

    /// The configuration of `orders-proxy`, whose workload is `orders`.
    fn proxy(mesh: &Mesh, folder: &Path) -> ServiceConfig {
        let orders = mesh.shell("orders", &[], "");
        let socket = folder.join("agent.sock");
        serve(&socket, orders.config.identity.directory().unwrap());
        let mut config = (*orders.config).clone();
        config.name = "orders-proxy".into();
        config.workload = Some("orders".into());
        config.identity = IdentityFrom::WorkloadApi(socket);
        config
    }

    #[tokio::test]
    async fn r33_a_shell_stands_on_an_identity_of_the_workload_api() {
        let (mesh, folder) = (Mesh::new(), tempfile::tempdir().unwrap());
        let config = proxy(&mesh, folder.path());
        config.validate("proxy").unwrap();
        let identity = configured(&config).await.unwrap().unwrap();
        let shell = Shell::with_identity("proxy", config.clone(), identity).unwrap();
        assert_eq!(shell.spiffe_id(), id("orders"));
        let health = of_running(&config, Duration::from_secs(3)).await.unwrap();
        assert_eq!(health.spiffe_id(), id("orders"));
    }

    #[tokio::test]
    async fn r53_a_shell_refuses_the_identity_of_another_workload() {
        let (mesh, folder) = (Mesh::new(), tempfile::tempdir().unwrap());
        let mut config = proxy(&mesh, folder.path());
        config.workload = Some("payments".into());
        let identity = configured(&config).await.unwrap().unwrap();
        let error = Shell::with_identity("proxy", config, identity)
            .err()
            .unwrap();
        let text = error.to_string();
        assert_eq!(error.code(), crate::exit::CONFIG);
        assert!(
            text.contains("agent.sock holds the identity spiffe://ringwall.local/orders"),
            "{text}"
        );
        assert!(
            text.contains("this component is spiffe://ringwall.local/payments"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_identity_that_is_nowhere_is_named_with_the_fix() {
        let mesh = Mesh::new();
        let mut config = (*mesh.shell("orders", &[], "").config).clone();
        config.identity = IdentityFrom::WorkloadApi("/nowhere/agent.sock".into());
        let why = of_running(&config, Duration::from_millis(20))
            .await
            .unwrap_err();
        assert!(why.contains("unix:/nowhere/agent.sock"), "{why}");
        config.identity = IdentityFrom::Own;
        let why = configured(&config).await.unwrap_err();
        assert_eq!(why.code(), crate::exit::CONFIG);
        assert!(
            why.to_string()
                .contains("`unix:PATH` of the agent's socket"),
            "{why}"
        );
        let why = of_running(&config, Duration::from_millis(20))
            .await
            .unwrap_err();
        assert!(why.contains("service.state is not set"), "{why}");
        config.state = Some(
            mesh.shell("orders", &[], "")
                .config
                .identity
                .directory()
                .unwrap()
                .parent()
                .unwrap()
                .join("state"),
        );
        let own = config.state.as_ref().unwrap();
        std::fs::create_dir(own).unwrap();
        std::fs::rename(own.parent().unwrap().join("orders"), own.join("identity")).unwrap();
        assert!(of_running(&config, Duration::from_millis(20)).await.is_ok());
    }

    #[test]
    fn a_name_fits_its_binary_alone_or_beside_a_workload() {
        let mesh = Mesh::new();
        let mut config = (*mesh.shell("orders", &[], "").config).clone();
        for (name, workload, binary, fits) in [
            ("orders", None, "orders", true),
            ("orders", None, "proxy", false),
            ("orders-proxy", Some("orders"), "proxy", true),
            ("orders-proxy", None, "proxy", false),
            ("-proxy", Some("orders"), "proxy", false),
            ("proxy", Some("orders"), "proxy", true),
            ("ordersproxy", Some("orders"), "proxy", false),
            ("orders-proxy", Some("not a path"), "proxy", false),
        ] {
            config.name = name.into();
            config.workload = workload.map(Into::into);
            assert_eq!(
                config.validate(binary).is_ok(),
                fits,
                "{name} {workload:?} {binary}"
            );
        }
    }
}
