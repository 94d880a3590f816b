//! A host for proxy-wasm plugins, ABI 0.2.1 (0.2.0 and 0.1.0 too), on wasmtime.
//!
//! Owns: everything between a route that names plugins and their guest code: loading and verifying modules, instances and
//! their limits, the ABI's callbacks and host functions, hot swap, and metrics about all of it. It is the only user of
//! wasmtime. Must not: dial, listen, or know a gateway: the embedder gives it streams, facts about them ([`StreamInfo`]) and
//! a way out ([`Callouts`]).
//!
//! Decided: guests run synchronously, one instance per worker and version, under a limit of processor time that the engine's
//! epochs enforce; a plugin may do nothing that is not declared; one that fails takes its own streams with it and no other.
//! Where the specification is silent, this host does as Envoy does; README.md has the table.
//!
//! Read next: `runtime.rs`, `module.rs`, `plugin.rs`, `worker.rs`, then `http/stream.rs` for the life of a request.

mod abi;
mod callouts;
mod chain;
pub mod config;
mod error;
mod foreign;
mod hostcalls;
mod http;
mod instance;
mod loaded;
mod metrics;
mod module;
mod plugin;
mod properties;
mod runtime;
mod shared;
mod spec;
pub mod tcp;
mod worker;

pub use self::abi::{AbiVersion, LogLevel, Peer, Status};
pub use self::callouts::{BoxError, CalloutBody, CalloutFuture, Callouts, NoCallouts};
pub use self::chain::Chain;
pub use self::error::Error;
pub use self::foreign::ForeignFunction;
pub use self::http::{Cause, Filtered, HttpStream, Refused};
pub use self::instance::{Failure, FailureKind};
pub use self::loaded::{Changes, Loaded, Plugins};
pub use self::module::{Inspection, Module, Needs, Producer, PublicKey, Verification};
pub use self::plugin::Plugin;
pub use self::properties::{
    ConnectionInfo, Direction, PeerCertificate, Properties, StreamInfo, UpstreamInfo, Value,
};
pub use self::runtime::{Clock, Runtime, RuntimeOptions};
pub use self::spec::{
    BodyAccess, Capabilities, HeadersPause, Limits, Names, OnFailure, PluginSpec,
};
pub use self::tcp::TcpStream;
pub use self::worker::{Callback, Observer, Worker};
