//! What every filter does the same way: it reads its configuration strictly, refuses in one form, and looks at paths and
//! queries as the upstream will.
//!
//! Owns: the root context and access to the host without the SDK's panics on text that is not UTF-8. Must not: hold
//! rules of any filter. Read next: `filter.rs`, the trait that a filter implements; `target.rs`, paths and queries.

pub mod configuration;
pub mod filter;
pub mod host;
pub mod json;
pub mod media;
pub mod target;

pub use filter::{Filter, start};
