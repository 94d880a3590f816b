//! The service proxy: the mesh's data plane beside a workload, and the egress gateway.

mod control;
mod egress;
mod inbound;
mod observe;
mod outbound;
mod resilience;
mod snapshot;
mod tunnel;

fn main() {}
