//! Signs requests: HTTP Message Signatures (RFC 9421) with HMAC-SHA256.
//!
//! `date.rs` writes dates, `rules.rs` makes signatures, `filter.rs` asks the host.

pub mod date;
pub mod filter;
pub mod rules;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    ringwall_guest::start::<filter::RequestSigning>();
}}
