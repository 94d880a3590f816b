//! Attacks on the verifier, one test for each (RFC 8725).
