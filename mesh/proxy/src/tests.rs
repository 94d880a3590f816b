//! The proxy as a whole: real sockets, real TLS, a real application behind it.
//!
//! Read first: `tests/world.rs` (what is started), `tests/app.rs` (who answers), `tests/peers.rs` (who calls).

mod app;
mod calls;
mod clocks;
mod denied;
mod drain;
mod ends;
mod hostile;
mod limits;
mod memory;
mod peers;
mod plugins;
mod requests;
mod streams;
mod tunnels;
mod users;
mod world;
