//! HTTP streams through a chain of plugins.
//!
//! Owns: the embedder's side of a stream ([`HttpStream`]), bodies that pass plugins ([`Filtered`]), and what is sent in the
//! place of a response. Read next: `http/stream.rs`, in the order of a request; then `http/stage.rs`.

pub(crate) mod fields;
mod filtered;
mod local;
pub(crate) mod shared;
mod stage;
mod stream;

pub use self::filtered::Filtered;
pub(crate) use self::local::Ended;
pub use self::local::{Cause, Refused};
pub use self::stream::HttpStream;
