//! What the gateway and the service proxy do alike with connections: one worker per core, strict bytes, cheap clocks.
//!
//! Owns: the strict reading of HTTP/1.1 ([`guard`], [`io`]) and of paths ([`path`]), deadlines without a timer per
//! request ([`watch`]), reading below TLS ([`gulp`]), the access log's lines and writer ([`log`]), the trace of a
//! request ([`trace`]), the removal of fields that end at a hop ([`fields`]), the sockets of workers ([`listen`]) and
//! the bound on connections ([`permit`]).
//! Must not: know routes, services or policies. Read next: `io.rs`, then `watch.rs`.

pub mod fields;
pub mod guard;
pub mod gulp;
pub mod io;
pub mod listen;
pub mod log;
pub mod path;
pub mod permit;
pub mod random;
pub mod trace;
pub mod watch;
