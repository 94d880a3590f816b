//! Versions of the policy, and how often its grants were used.
//!
//! Owns: the contract; both databases pass one suite (`policy/contract.rs`). Must not: read a bundle.

mod embedded;
mod postgres;

#[cfg(test)]
mod contract;

use std::collections::BTreeMap;

use async_trait::async_trait;
use ringwall_policy::mesh::PolicyUse;
use ringwall_policy::mesh::administration::Version;
use ringwall_store::StoreError;
use time::OffsetDateTime;

use super::model::{AuditEntry, Fence};

/// Versions that are kept.
const KEPT_VERSIONS: u64 = 1_000;

/// A version that is to be added; its number is one above `version.previous`.
#[derive(Clone, Debug)]
pub(crate) struct NewVersion {
    pub(crate) version: Version,
    /// JSON.
    pub(crate) bundle: String,
    /// Digest of the configuration file's policy, when it comes from there.
    pub(crate) seed: Option<String>,
}

/// A version with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredVersion {
    pub(crate) version: Version,
    pub(crate) bundle: String,
}

/// Uses by name (policies, edges), and since when they are counted.
pub(crate) type Uses = BTreeMap<String, (PolicyUse, OffsetDateTime)>;

/// See [`super::Store`]. Every method that changes something answers after the change is durable.
#[async_trait]
pub(crate) trait PolicyStore: Send + Sync + 'static {
    /// The active version.
    async fn newest_version(&self) -> Result<Option<StoredVersion>, StoreError>;

    async fn version(&self, version: u64) -> Result<Option<StoredVersion>, StoreError>;

    /// The newest versions, below `before` when that is given.
    async fn versions(&self, before: Option<u64>, limit: u32) -> Result<Vec<Version>, StoreError>;

    /// Adds a version with its audit entry by one decision: `false` when `previous` is not the newest any more, or the
    /// fence's holder does not lead.
    async fn add_version(&self, new: &NewVersion, fence: &Fence) -> Result<bool, StoreError>;

    /// Digest of what last came from the configuration file.
    async fn last_seed(&self) -> Result<Option<String>, StoreError>;

    /// Keeps the counts of `names` alone: those of `anew` begin at zero, as do names without one.
    async fn expect_uses(
        &self,
        names: &[String],
        anew: &[String],
        now: OffsetDateTime,
    ) -> Result<(), StoreError>;

    /// Adds to counts; names that are not expected are left out.
    async fn add_uses(&self, uses: &BTreeMap<String, PolicyUse>) -> Result<(), StoreError>;

    async fn uses(&self) -> Result<Uses, StoreError>;
}

impl NewVersion {
    fn audit_entry(&self) -> AuditEntry {
        let version = &self.version;
        let event = match version.rollback_of {
            Some(_) => "policy_rolled_back",
            None => "policy_applied",
        };
        AuditEntry {
            at: version.at,
            event: event.to_owned(),
            actor: format!("{} ({})", version.author, version.identity),
            subject: format!("policy {}", version.previous + 1),
            serial: None,
            reason: match version.rollback_of {
                Some(of) => format!("content of version {of}; {}", version.note),
                None => version.note.clone(),
            },
        }
    }
}
