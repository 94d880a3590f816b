//! What a plugin of a suite may touch: the declaration that an operator makes for it, in the same words.

use serde::{Deserialize, Serialize};

/// Nothing, unless declared. Names are exact, prefixes ended by `*`, or `*` for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// Header and trailer names it may read, pseudo-headers (`:path`) included.
    pub read_headers: Vec<String>,
    /// Names it may add, replace or remove.
    pub write_headers: Vec<String>,
    pub body: BodyAccess,
    /// Whether it may answer a request itself.
    pub local_response: bool,
    /// Clusters that it may call.
    pub clusters: Vec<String>,
    /// Keys of shared data.
    pub shared_data: Vec<String>,
    /// Names of queues.
    pub queues: Vec<String>,
    /// Properties it may read, as dotted paths.
    pub read_properties: Vec<String>,
    /// Properties it may set.
    pub write_properties: Vec<String>,
    pub foreign_functions: Vec<String>,
}

/// What a plugin may do with the bytes of bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyAccess {
    /// Its body callbacks are not called.
    #[default]
    None,
    Read,
    Write,
}
