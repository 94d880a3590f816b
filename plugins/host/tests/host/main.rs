//! The host through its public face, with guests in WebAssembly text.
//!
//! Owns: one binary for all of it. Guests are written beside their tests; `support.rs` has what they share. A test that
//! proves a row of the requirements carries it: r90 the ABI, r91 limits and failures, r92 hot swap.

#[cfg(test)]
mod abi;
#[cfg(test)]
mod bodies;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod driver;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod http;
#[cfg(test)]
mod loading;
#[cfg(test)]
mod pause;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod support;
#[cfg(test)]
mod swap;
#[cfg(test)]
mod tcp;
#[cfg(test)]
mod wasi;
