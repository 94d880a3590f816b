//! Redacts personal data in bodies.
//!
//! `detect.rs` finds it in texts, `rules.rs` in bodies of several kinds; `filter.rs` asks the host.

pub mod detect;
pub mod filter;
pub mod rules;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    ringwall_guest::start::<filter::PiiRedaction>();
}}
