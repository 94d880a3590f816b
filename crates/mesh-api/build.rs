//! Generates the messages and services from `proto/`. The compiler is a crate: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "ringwall/mesh/v1/config.proto",
        "ringwall/mesh/v1/identity.proto",
        "ringwall/mesh/v1/shield.proto",
        "spiffe/workload.proto",
        "envoy/service/secret/v3/sds.proto",
        "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
