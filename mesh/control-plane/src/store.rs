//! What the control plane remembers, in the embedded database or in PostgreSQL.
//!
//! Owns: the contract of the store ([`IdentityStore`]) and all SQL of this component, below this
//! module. Both implementations pass one suite (`store/contract.rs`).
//! Must not: decide, sign, or see a token's text or a key in the clear.
//! Read next: `store/schema.rs` (the tables), `store/model.rs` (what goes in and out), then
//! `store/embedded.rs` and `store/postgres.rs`.
//!
//! Whoever adds tables writes the next migration in `schema.rs`, a trait of its own beside
//! [`IdentityStore`] for both [`embedded::Embedded`] and [`postgres::Postgresql`], and names it in
//! [`Store`].

pub(crate) mod embedded;
pub(crate) mod model;
pub(crate) mod policy;
pub(crate) mod postgres;
pub(crate) mod schema;

#[cfg(test)]
pub(crate) mod contract;

use std::time::Duration;

use async_trait::async_trait;
use ringwall_identity::SpiffeId;
use ringwall_store::StoreError;
use time::OffsetDateTime;

pub(crate) use self::policy::PolicyStore;

use self::model::{
    AuditEntry, Claim, Consumption, Document, Fence, IssuedCertificate, NewJoinToken, Recorded,
    Revisions, Revocation, RevocationState, TokenHash,
};

/// Everything that the component keeps.
pub(crate) trait Store: IdentityStore + PolicyStore {}

impl<S: IdentityStore + PolicyStore> Store for S {}

/// Join tokens, certificates, revocations, sealed documents, leadership and the audit log.
///
/// Every method that changes something answers after the change is durable.
#[async_trait]
pub(crate) trait IdentityStore: Send + Sync + 'static {
    /// Whether it can be read: for readiness checks.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Adds a join token; `false` when one of this hash stands there, used or not.
    async fn add_join_token(&self, token: &NewJoinToken) -> Result<bool, StoreError>;

    /// Spends a token by one conditional statement: of any number of callers, on any number of
    /// replicas, one wins. `by` is the SHA-256 of the winner's public key.
    async fn consume_join_token(
        &self,
        hash: &TokenHash,
        by: &[u8; 32],
        now: OffsetDateTime,
    ) -> Result<Consumption, StoreError>;

    /// Records a certificate before it is handed out, unless its holder or key is revoked by now.
    async fn record_issued(&self, issued: &IssuedCertificate) -> Result<Recorded, StoreError>;

    /// Certificates on record.
    async fn count_issued(&self) -> Result<u64, StoreError>;

    /// Revokes; answers the revision that contains it. Revoking twice is no error.
    async fn revoke(&self, revocation: &Revocation, by: &str) -> Result<u64, StoreError>;

    /// Lifts the revocation of an id; `None` when there was none.
    async fn restore(
        &self,
        id: &SpiffeId,
        by: &str,
        now: OffsetDateTime,
    ) -> Result<Option<u64>, StoreError>;

    /// Every revocation, and the serials of all certificates that they end and that are still valid.
    async fn revocations(&self, now: OffsetDateTime) -> Result<RevocationState, StoreError>;

    /// How far each part has come: cheap enough to ask several times a second.
    async fn revisions(&self) -> Result<Revisions, StoreError>;

    /// A document, sealed by its owner.
    async fn document(&self, name: &str) -> Result<Option<Document>, StoreError>;

    /// Replaces a document that has revision `expected` (0: is not there yet); `false` when it has
    /// another one by now. With a fence, only while its holder leads.
    async fn replace_document(
        &self,
        name: &str,
        expected: u64,
        content: &[u8],
        fence: Option<&Fence>,
    ) -> Result<bool, StoreError>;

    /// Adds to the audit log what no other method writes there: refusals.
    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError>;

    /// The newest entries of the audit log.
    async fn audit_log(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError>;

    /// Removes some rows that nobody needs any more: tokens that ended, certificates and
    /// revocations of certificates that expired before `now`, audit entries before `audit_before`.
    /// `true` when there may be more.
    async fn purge(
        &self,
        now: OffsetDateTime,
        audit_before: OffsetDateTime,
    ) -> Result<bool, StoreError>;

    /// Asks for the leadership, or to keep it, for `ttl` from now by the store's clock.
    async fn lead(&self, holder: &str, ttl: Duration) -> Result<Claim, StoreError>;

    /// Gives the leadership back, so that another replica need not wait for its end.
    async fn resign(&self, fence: &Fence) -> Result<(), StoreError>;
}

/// Unix milliseconds, the form of every time in both databases.
pub(crate) fn millis(time: OffsetDateTime) -> i64 {
    // i64 holds 292 million years of milliseconds.
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// The time that [`millis`] wrote; the epoch for what no time can be.
pub(crate) fn from_millis(millis: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Databases have no unsigned numbers; ours count from 0 and never reach 2^63.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
