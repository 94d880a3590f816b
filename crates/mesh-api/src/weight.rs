//! An endpoint's share of what its service is asked.
//!
//! Owns: the range and the default, once for those who declare and those who apply. Must not: choose an endpoint.

/// Of an endpoint that says nothing else.
pub const DEFAULT: u32 = 100;
/// What is above it would starve everybody else. 0 is nothing at all: registered, and not called.
pub const MAX: u32 = 10_000;

/// What the wire says: absent is the default.
pub fn read(weight: Option<u32>) -> u32 {
    weight.unwrap_or(DEFAULT)
}
