//! A small core set of rules against the common attacks on web applications.
//!
//! `normalise.rs` undoes encodings, `core_set.rs` lists the rules, `rules.rs` sums up scores, `filter.rs` asks the host.

pub mod core_set;
pub mod filter;
pub mod normalise;
pub mod rules;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    ringwall_guest::start::<filter::Waf>();
}}
