//! The host through its public face, with guests in WebAssembly text.
//!
//! Owns: one binary for all of it. Guests are written beside their tests; `support.rs` has what they share. A test that
//! proves a row of the requirements carries it: r90 the ABI, r91 limits and failures, r92 hot swap.

mod abi;
mod calls;
mod hostile;
mod http;
mod loading;
mod pause;
mod properties;
mod support;
mod swap;
mod tcp;
mod wasi;
