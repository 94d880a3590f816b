//! The messages and services of `proto/`, each package as a module of its name.
//!
//! Owns: nothing but the includes. Must not: hold anything written by hand.
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
