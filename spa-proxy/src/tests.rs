//! The whole router against a small authorization server and a small API on loopback.
//!
//! Read next: [`fixture`] for the two servers and the browser.

pub(crate) mod fixture;

pub(crate) mod mesh;

mod api;
mod logout;
mod refresh;
mod sign_in;
mod spans;
