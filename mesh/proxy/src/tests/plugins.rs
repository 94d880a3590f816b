//! Plugins in both directions: guests written as text, in real proxies between real sockets.
//!
//! Read first: `plugins/guests.rs` (how a guest is written), then `plugins/inbound.rs`.

mod bytes;
mod guests;
mod inbound;
mod outbound;
mod swap;
