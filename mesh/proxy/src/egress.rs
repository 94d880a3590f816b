//! The egress gateway.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What may be reached outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EgressConfig {}
