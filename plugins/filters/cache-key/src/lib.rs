//! Gives caches a coarse key: path, allowed query, class of device.
//!
//! `rules.rs` decides, `filter.rs` asks the host.

pub mod filter;
pub mod rules;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    ringwall_guest::start::<filter::CacheKey>();
}}
