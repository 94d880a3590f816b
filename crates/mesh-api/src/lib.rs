//! What the parts of the mesh say to each other, generated from `proto/`, and how a service's traffic is declared.
//!
//! Owns: the control plane's API ([`v1`]), the SPIFFE Workload API ([`workload`]), the part of Envoy's secret
//! discovery that the agent serves ([`sds`]), and the one definition of what may be said of a
//! service's [`traffic`] and of an endpoint's [`weight`].
//! Must not: connect, serve or decide. Read next: `proto/ringwall/mesh/v1/identity.proto` and `config.proto`.

mod generated;
pub mod traffic;
pub mod weight;

pub use self::generated::{envoy, google, v1, workload};

/// Envoy's secret discovery.
pub mod sds {
    pub use crate::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source};
    pub use crate::envoy::extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
        spiffe_cert_validator_config::TrustDomain,
    };
    pub use crate::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
    pub use crate::envoy::service::secret::v3::{
        secret_discovery_service_client, secret_discovery_service_server,
    };

    /// Type of the resources.
    pub const SECRET_TYPE: &str =
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    /// Type of the validator that checks SPIFFE ids.
    pub const SPIFFE_VALIDATOR_TYPE: &str =
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
}
