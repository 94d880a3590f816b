//! proxy of the mesh.

fn main() {}
