//! The policy administration point: versions, from a proposal to what every proxy applies (R31).
//!
//! Owns: the order parse → validate → run the examples → store → sign → push; rollback; the history; which proxies have
//! which version; the report of grants that nobody uses (R51).
//! Must not: take half of a bundle, or let a bad one take the place of the last good one.
//! Read next: `policy/admin.rs` (the operations), `policy/follow.rs` (what happens by itself), `policy/api.rs`.

mod admin;
mod api;
mod follow;
mod refusal;
mod usage;

pub(crate) use admin::{Author, PolicyAdmin};
pub(crate) use api::router;

#[cfg(test)]
mod tests;
