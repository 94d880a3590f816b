//! Assigns clients to the variants of an experiment, and keeps them there by a cookie.
//!
//! `rules.rs` decides, `filter.rs` asks the host.

pub mod filter;
pub mod rules;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    ringwall_guest::start::<filter::AbCookie>();
}}
