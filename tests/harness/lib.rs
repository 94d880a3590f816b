//! The end-to-end harness: it starts the platform, natively or in containers, on free ports and gives
//! the scenarios real clients for it.
//!
//! Owns: the life of the platform under test ([`stack`]), a browserless person ([`person`]), raw and
//! mTLS clients ([`edge`], [`mesh`]), a real Chromium ([`browser`]), customers who order all the time
//! ([`customers`]), a network outside this machine ([`outside`]), what the wire carries ([`wire`]), certificates that end under load ([`soak`]), what an operator does ([`operator`]),
//! what an author of plugins does ([`plugins`]), what "within a second" is ([`promptly`]), and what a failed scenario shows ([`journal`]).
//! Must not: know any component's code; it meets them over the network and through the state
//! directory, as an operator does. Read next: [`stack::Stack`], then `tests/e2e.rs`.

#![allow(
    clippy::indexing_slicing,
    reason = "serde_json answers null to an unknown key; it does not panic"
)]

pub mod browser;
pub mod composition;
pub mod customers;
pub mod edge;
pub mod journal;
pub mod mesh;
pub mod oauth;
pub mod operator;
pub mod options;
pub mod outside;
pub mod person;
pub mod plugins;
pub mod promptly;
pub mod soak;
pub mod stack;
pub mod wire;
