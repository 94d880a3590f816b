//! Clients: the registry of who they are, and the proof that a request comes from one.
//!
//! Read next: `clients/authentication.rs`.

pub(crate) mod assertion;
pub(crate) mod authentication;
pub(crate) mod registry;

pub(crate) use registry::{Client, ClientRegistry};
