//! Lets through only requests that an allow-list describes.
//!
//! `rules.rs` judges methods, paths, headers and queries, `schema.rs` bodies; `filter.rs` asks the host.

pub mod filter;
pub mod rules;
pub mod schema;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    ringwall_guest::start::<filter::RequestValidation>();
}}
