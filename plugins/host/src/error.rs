//! What can go wrong before a plugin runs: loading, verifying, configuring.
//!
//! Owns: the crate's one error type. Must not: describe what happens to a stream; that is [`crate::Failure`] and
//! [`crate::Refused`].

use std::io;
use std::path::PathBuf;

use crate::instance::FailureKind;

/// Why a module or a plugin was not accepted. What ran before goes on running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    #[error("the ticker of the engine does not start: {0}")]
    Ticker(#[source] io::Error),
    #[error("the cache directory {path} {problem}")]
    CacheDirectory { path: PathBuf, problem: String },
    #[error("{path}: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the pinned digest `{0}` is no SHA-256 in 64 hexadecimal digits")]
    Pin(String),
    #[error("the module's SHA-256 is {actual}, not {pinned} as pinned")]
    DigestMismatch { actual: String, pinned: String },
    #[error("the module is not signed, and signatures are required")]
    Unsigned,
    #[error("the module's signature is by none of the {keys} trusted keys")]
    BadSignature { keys: usize },
    #[error("an ed25519 public key has 32 bytes, not {0}")]
    BadKey(usize),
    #[error("the module has {size} bytes; {limit} are allowed")]
    ModuleTooLarge { size: usize, limit: usize },
    #[error("the module does not compile: {0}")]
    Compile(String),
    #[error(
        "the module exports no proxy_abi_version_0_1_0, _0_2_0 or _0_2_1: it is no proxy-wasm plugin"
    )]
    NoAbiMarker,
    #[error("the module is for ABI {0}; this host runs 0.1.0, 0.2.0 and 0.2.1")]
    UnsupportedAbi(String),
    #[error("the module exports no memory named `memory`")]
    NoMemory,
    #[error("the module imports `{module}.{name}`, which this host does not have")]
    UnknownImport { module: String, name: String },
    #[error("the module's import does not fit: {0}")]
    ImportType(String),
    #[error("the module's export `{name}` has the type {found}, not one of the ABI")]
    ExportType { name: String, found: String },
    #[error("plugin `{plugin}` does not start: {problem}")]
    Instantiate { plugin: String, problem: String },
    #[error("plugin `{plugin}` has refused its {what}")]
    Configuration { plugin: String, what: &'static str },
    #[error("plugin `{plugin}` failed in `{callback}` ({kind}), failure {id}: {problem}")]
    Callback {
        plugin: String,
        callback: &'static str,
        kind: FailureKind,
        id: String,
        problem: String,
    },
    #[error("the weight of a canary is 0 to 100, not {0}")]
    Weight(u8),
    #[error("the replacement of plugin `{expected}` is named `{found}`")]
    Name { expected: String, found: String },
    #[error("no canary of plugin `{0}` is under way")]
    NoCandidate(String),
}
