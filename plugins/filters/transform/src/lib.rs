//! Changes headers and JSON bodies of requests and responses.
//!
//! `body.rs` changes JSON, `rules.rs` reads the configuration, `filter.rs` asks the host.

pub mod body;
pub mod filter;
pub mod rules;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    ringwall_guest::start::<filter::Transform>();
}}
