//! Authorization: Cedar policies over one embedded schema.
//!
//! Owns: the schema, the loading of policies (parsed and strictly validated, all faults with file
//! and line) and the decision. This crate is the only user of Cedar.
//! Must not: read files, look at a clock, or keep state between decisions. A decision is a pure
//! function of (principal, action, resource, context), so that a caller may cache it per token.
//! Read next: `ringwall.cedarschema`, `engine.rs`, `compile.rs`.
//!
//! Default is deny: no permitting policy, an unknown action, a malformed context or an error in any
//! policy that was evaluated all deny.
//!
//! ```
//! use ringwall_policy::{PolicyEngine, PolicySource, Principal, Request, Resource};
//!
//! let engine = PolicyEngine::compile(&[PolicySource::new(
//!     "orders.cedar",
//!     r#"@id("customers-place-orders")
//!        permit (principal is User, action == Action::"order:place", resource)
//!        when { principal.roles.contains("customer") };"#,
//! )])?;
//! let decision = engine.decide(&Request {
//!     principal: Principal::User {
//!         sub: "alice".into(),
//!         client: "spa-proxy".into(),
//!         roles: vec!["customer".into()],
//!         scopes: vec![],
//!         acr: None,
//!     },
//!     action: "order:place".into(),
//!     resource: Resource::Route {
//!         id: "place-order".into(),
//!         service: "orders".into(),
//!         host: "api.localhost".into(),
//!     },
//!     context: serde_json::json!({}),
//! });
//! assert!(decision.allowed);
//! assert_eq!(decision.reasons, ["customers-place-orders"]);
//! # Ok::<(), ringwall_policy::PolicyError>(())
//! ```

mod compile;
pub mod engine;
pub mod error;
pub mod mesh;
mod nesting;
pub mod request;

pub use compile::{ActionClass, ActionDecl, PolicySource};
pub use engine::{Decision, Outcome, PolicyEngine};
pub use error::{Fault, PolicyError};
pub use request::{Principal, Request, Resource};
