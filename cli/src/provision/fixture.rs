//! A small mesh with a state directory of its own.

use crate::composition::Composition;
use crate::config::Source;
use crate::site::Site;
use crate::state::StateDir;

/// What is provisioned in tests.
pub(super) struct Place {
    _folder: tempfile::TempDir,
    pub(super) composition: Composition,
    pub(super) state: StateDir,
    pub(super) site: Site,
}

impl Place {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = include_str!("../../testdata/mesh.yaml").to_owned();
        let name = "mesh.yaml".to_owned();
        let mut composition = Composition::read(&Source { name, text }).unwrap();
        composition.policy = Some(Source {
            name: "mesh-policy.yaml".into(),
            text: include_str!("../../testdata/mesh-policy.yaml").into(),
        });
        let state = StateDir::new(folder.path().join("state"));
        state.create(&composition).unwrap();
        Self {
            site: Site::native(&state, &composition),
            _folder: folder,
            composition,
            state,
        }
    }
}
