//! control-plane of the mesh.

mod discovery;

fn main() {}
