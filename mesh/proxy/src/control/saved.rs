//! The last good state on disk: what a proxy serves from that is restarted while the control plane is away (R57).
//!
//! Owns: the file `mesh-state.json` in the component's state directory, mode 0600, replaced atomically. It has what the
//! control plane sent, signatures and keys included: whoever reads it checks everything again. Must not: trust it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use ringwall_identity::SpiffeId;
use ringwall_mesh_api::v1;
use ringwall_secret::{SecretError, private_file};
use serde::{Deserialize, Serialize};

use super::policy::Anchor;

const FILE: &str = "mesh-state.json";
/// Longest file that is read, in bytes: as much as the longest messages can leave.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
const FORMAT: u32 = 1;

/// What is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Saved {
    pub(crate) revision: u64,
    pub(crate) anchor: Option<Anchor>,
    /// JWKS; empty when there were none.
    pub(crate) keys: Arc<[u8]>,
    pub(crate) resources: Vec<v1::Resource>,
}

/// Why there is no last good state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SavedError {
    #[error(transparent)]
    File(#[from] SecretError),
    #[error("{} is not a saved state: {why}", path.display())]
    Content { path: PathBuf, why: String },
    #[error("the state cannot be written as JSON: {0}")]
    Write(serde_json::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    /// Whose state it is: a file that was put here from another proxy is not used.
    workload: String,
    revision: u64,
    policy: Option<Anchor>,
    /// JWKS, base64.
    keys: String,
    /// A `ConfigMessage` in protobuf, base64.
    resources: String,
}

/// The place of one proxy's state.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    path: PathBuf,
    workload: SpiffeId,
}

impl Store {
    /// In the component's state directory, for the workload that this proxy serves.
    pub(crate) fn new(directory: &Path, workload: SpiffeId) -> Self {
        Self {
            path: directory.join(FILE),
            workload,
        }
    }

    /// Reads it; `None` when nothing was ever saved.
    pub(crate) fn read(&self) -> Result<Option<Saved>, SavedError> {
        let text = match private_file::read_at_most(&self.path, MAX_BYTES) {
            Ok(text) => text,
            Err(SecretError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        self.parse(text.expose()).map(Some)
    }

    /// Replaces it. Blocks until it is on disk.
    pub(crate) fn write(&self, saved: &Saved) -> Result<(), SavedError> {
        let message = v1::ConfigMessage {
            changed: saved.resources.clone(),
            ..v1::ConfigMessage::default()
        };
        let document = Document {
            format: FORMAT,
            workload: self.workload.as_str().to_owned(),
            revision: saved.revision,
            policy: saved.anchor.clone(),
            keys: STANDARD.encode(&saved.keys),
            resources: STANDARD.encode(message.encode_to_vec()),
        };
        let text = serde_json::to_vec(&document).map_err(SavedError::Write)?;
        private_file::write(&self.path, &text)?;
        Ok(())
    }

    fn parse(&self, text: &[u8]) -> Result<Saved, SavedError> {
        let document: Document =
            serde_json::from_slice(text).map_err(|error| self.wrong(&error.to_string()))?;
        if document.format != FORMAT {
            return Err(self.wrong("another format"));
        }
        if document.workload != self.workload.as_str() {
            return Err(self.wrong("of another workload"));
        }
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| self.wrong("not base64"));
        let message = v1::ConfigMessage::decode(decode(&document.resources)?.as_slice())
            .map_err(|_| self.wrong("not protobuf"))?;
        Ok(Saved {
            revision: document.revision,
            anchor: document.policy,
            keys: decode(&document.keys)?.into(),
            resources: message.changed,
        })
    }

    fn wrong(&self, why: &str) -> SavedError {
        SavedError::Content {
            path: self.path.clone(),
            why: why.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
    }

    fn saved() -> Saved {
        Saved {
            revision: 7,
            anchor: None,
            keys: Arc::from(&b"{}"[..]),
            resources: vec![v1::Resource {
                name: "edges".into(),
                revision: 7,
                body: Some(v1::resource::Body::Edges(v1::Edges::default())),
            }],
        }
    }

    #[test]
    fn what_is_written_is_read_by_its_own_workload_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path(), id("orders"));
        assert!(store.read().unwrap().is_none(), "the first boot");
        store.write(&saved()).unwrap();
        assert_eq!(store.read().unwrap().unwrap(), saved());
        let mode = std::fs::metadata(&store.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = Store::new(directory.path(), id("payments"));
        assert!(
            other
                .read()
                .unwrap_err()
                .to_string()
                .contains("another workload")
        );
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_cut_short_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path(), id("orders"));
        store.write(&saved()).unwrap();
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&store.path, open).unwrap();
        assert!(store.read().is_err());
        store.write(&saved()).unwrap();
        let text = std::fs::read(&store.path).unwrap();
        private_file::write(&store.path, &text[..text.len() / 2]).unwrap();
        assert!(matches!(store.read(), Err(SavedError::Content { .. })));
    }
}
