//! `ringwall plugin`, as an author uses it: the real binary, the installed toolchain, an empty folder.
//!
//! What is missing is named: a compiler for guests (`cargo xtask setup` installs it). All guests are built into one folder
//! beside those of `cargo xtask wasm`, whose dependencies they share.

#[cfg(test)]
mod authoring;
#[cfg(test)]
mod running;
#[cfg(test)]
mod support;
