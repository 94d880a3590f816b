//! The policy administration point: versions, from a proposal to what every proxy applies (R31).
//!
//! Owns: the order parse → validate → run the examples → store → sign → push; rollback; the history; which proxies have
//! which version; the report of grants that nobody uses (R51).
//! Must not: take half of a bundle, or let a bad one take the place of the last good one.
//! Read next: `policy/admin.rs` (what changes it), `policy/answers.rs` (what can be asked), `policy/follow.rs` (what happens by itself), `policy/api.rs`.

mod admin;
mod answers;
mod api;
mod follow;
mod refusal;
mod usage;

pub(crate) use admin::PolicyAdmin;
pub(crate) use api::router;

#[cfg(test)]
mod tests;
