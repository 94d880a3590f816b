//! Declared groups (roles and access lists) and the seeds of the demo profile.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clients::ClientDeclaration;

/// A group: what its members are (roles) and which services they may reach (audiences, R54).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupDeclaration {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) roles: Vec<String>,
    #[serde(default)]
    pub(crate) audiences: Vec<String>,
}

/// Identities that exist so that the demonstration can be used at once.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Demo {
    #[serde(default)]
    pub(crate) users: Vec<DemoUser>,
    #[serde(default)]
    pub(crate) clients: Vec<ClientDeclaration>,
}

/// A demo user; the password is the secret `demo-password-<username>`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DemoUser {
    pub(crate) username: String,
    pub(crate) name: String,
    pub(crate) email: String,
    #[serde(default)]
    pub(crate) groups: Vec<String>,
}

impl DemoUser {
    pub(crate) fn password_secret(&self) -> String {
        format!("demo-password-{}", self.username)
    }
}
