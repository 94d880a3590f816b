//! The only TLS configuration of the platform: rustls over aws-lc-rs.
//!
//! Owns: mutual TLS inside the mesh ([`mesh_server_config`], [`mesh_client_config`]), TLS at the
//! edge ([`edge_server_config`], [`edge_client_config`]), TLS to PostgreSQL ([`postgres`]), revocation
//! lists, the exchange of every certificate while it is in use ([`IdentitySource`],
//! [`EdgeCertificates`]), and the end of connections to servers that are believed no more
//! ([`LiveServers`]).
//! Must not: accept connections, issue certificates, or offer a way to switch verification off.
//! Read next: `identity_source.rs`, then `verify.rs` (who is believed) and `chain.rs` (which
//! certificates are genuine), then `mesh.rs` and `edge.rs`.

mod chain;
mod edge;
mod error;
mod external;
mod identity_source;
mod join;
mod live;
mod mesh;
mod pem;
pub mod postgres;
mod provider;
mod reload;
mod verify;

#[cfg(test)]
mod fixture;

pub use edge::{Alpn, EdgeCertificate, EdgeCertificates, edge_client_config, edge_server_config};
pub use error::TlsError;
pub use external::{Sni, external_client_config, sni};
pub use identity_source::{IdentityMaterial, IdentitySource};
pub use join::{join_client_config, join_server_config};
pub use live::{LiveServers, Severable, usable_for};
pub use mesh::{mesh_client_config, mesh_grpc_client_config, mesh_server_config, mesh_server_name};
pub use provider::install_crypto_provider;
pub use verify::{Gatekeeper, PeerPolicy, PeerRefused, PeerSide, peer_refused, peer_spiffe_id};
