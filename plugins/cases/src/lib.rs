//! Cases of a plugin: what it is configured with, what it is asked, and what then has to be seen.
//!
//! Owns: the form of `cases.yaml`, which docs/plugins.md describes, and the comparison of what was seen with what was
//! expected. Must not: run anything. Two runners do: `ringwall plugin test` with our host, and the tests of
//! `plugins/envoy` with a real Envoy. Read next: `suite.rs`, what a runner gets; `observed.rs`, what it gives back.

mod capabilities;
mod file;
mod message;
mod observed;
mod suite;
mod text;

pub use capabilities::{BodyAccess, Capabilities};
pub use message::{Answer, Fields, GrpcAnswer, Message};
pub use observed::{Called, Difference, Observed, Reply};
pub use suite::{
    Case, Cluster, Error, Expectation, ExpectedCall, ExpectedMessage, Kind, Script, Step, Suite,
};
pub use text::Text;
