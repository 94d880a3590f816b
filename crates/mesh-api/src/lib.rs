//! What the parts of the mesh say to each other, generated from `proto/`.
//!
//! Owns: the control plane's API ([`v1`]), the SPIFFE Workload API ([`workload`]) and the part of Envoy's secret
//! discovery that the agent serves ([`sds`]).
//! Must not: connect, serve or decide. Read next: `proto/ringwall/mesh/v1/identity.proto` and `config.proto`.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::too_many_lines,
    reason = "generated code"
)]

/// The control plane's API.
pub mod v1 {
    tonic::include_proto!("ringwall.mesh.v1");
}

/// The SPIFFE Workload API.
pub mod workload {
    tonic::include_proto!("_");

    /// Every call carries this metadata key with the value `true`; a server refuses calls without it.
    pub const SECURITY_HEADER: &str = "workload.spiffe.io";
}

/// Envoy's names; the modules nest as its packages do, since the generated code refers to them so.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
        pub mod secret {
            pub mod v3 {
                tonic::include_proto!("envoy.service.secret.v3");
            }
        }
    }
    pub mod extensions {
        pub mod transport_sockets {
            pub mod tls {
                pub mod v3 {
                    tonic::include_proto!("envoy.extensions.transport_sockets.tls.v3");
                }
            }
        }
    }
}

/// Google's status, which xDS refers to.
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

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
