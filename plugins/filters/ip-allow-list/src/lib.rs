//! Lets through only clients whose address is on a list.
//!
//! `network.rs` reads addresses and networks, `rules.rs` decides, `filter.rs` asks the host.

pub mod filter;
pub mod network;
pub mod rules;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    ringwall_guest::start::<filter::IpAllowList>();
}}
