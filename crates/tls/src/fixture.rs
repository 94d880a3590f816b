//! Certificates and handshakes for the tests of this crate.
