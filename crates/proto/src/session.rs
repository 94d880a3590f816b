//! What spa-proxy tells the browser about its session. Never a token.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer of `GET /api/session`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    pub signed_in: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<SessionUser>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csrf: Option<String>,
}

impl Session {
    /// Nobody is signed in.
    pub fn anonymous() -> Self {
        Self {
            signed_in: false,
            user: None,
            csrf: None,
        }
    }
}

/// Who is signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionUser {
    pub sub: String,
    pub name: String,
    #[serde(default)]
    pub roles: Vec<String>,
}
