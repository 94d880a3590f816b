//! The plain types that components say to each other: every HTTP contract of the platform in one place.
//!
//! Owns: the wire shapes, their validation (a value that exists is valid), the canonical payment
//! digest, and the names of headers, paths and problem types.
//! Must not: open sockets, hold keys, or know a framework. Deployables meet here and nowhere else.
//! Read next: [`ids`] for the newtypes, [`orders`] for the main journey, [`events`] for messages.

pub mod error;
pub mod events;
pub mod headers;
pub mod ids;
pub mod introspection;
pub mod inventory;
pub mod lines;
pub mod notifications;
pub mod oauth;
pub mod orders;
pub mod paths;
pub mod payments;
pub mod problems;
pub mod session;
pub mod tokenizer;
mod wire_token;

pub use error::ProtoError;
pub use wire_token::WireToken;
