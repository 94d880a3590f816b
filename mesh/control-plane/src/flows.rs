//! Whole control planes over real sockets: who gets what, who gets nothing, and what is left after a
//! restart. Read next: `testing.rs`.

mod clocks;
mod issuing;
mod joining;
mod policies;
mod pushes;
mod questions;
mod replicas;
mod revoking;
mod rogues;
