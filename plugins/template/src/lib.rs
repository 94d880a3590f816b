//! Lets requests through that name a tenant of the list, and tells the client whom it was answered as.
//!
//! Two files, so that the rules can be tested without a proxy: `rules.rs` decides, `filter.rs` asks the host.

pub mod filter;
pub mod rules;

// Called once when the module is loaded.
#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    filter::start();
}}
