//! agent of the mesh.

fn main() {}
