//! Sets security headers on responses and removes those that tell what runs behind the proxy.
//!
//! `rules.rs` decides, `filter.rs` asks the host.

pub mod filter;
pub mod rules;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    ringwall_guest::start::<filter::ResponseHardening>();
}}
