//! The client side of the SPIFFE Workload API.
