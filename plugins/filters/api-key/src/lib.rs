//! Lets through requests with an API key that another service knows.
//!
//! `rules.rs` decides, `filter.rs` asks the host.

pub mod filter;
pub mod rules;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    ringwall_guest::start::<filter::ApiKey>();
}}
