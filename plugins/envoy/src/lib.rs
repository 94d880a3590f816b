//! Our modules in a real Envoy, with the same cases as in our own host (R94): see `tests/envoy`.
