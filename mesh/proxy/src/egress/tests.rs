//! The egress gateway as a whole: a name server of our own, real TLS servers, and an attacker on every side.

mod attacks;
mod limits;
mod passage;
mod requests;
mod world;
