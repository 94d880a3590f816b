//! control-plane of the mesh.

fn main() {}
