//! Join tokens: by one of them the agent gets its first identity, and another one if it loses that.
//!
//! Owns: making them, for the agent's sealed file as text and for the control plane's as a hash. Each is
//! good once; the control plane remembers which were spent.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use ringwall_secret::Secret;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::secrets::{self, random};
use crate::composition::Composition;
use crate::error::CliError;
use crate::state::StateDir;

/// How long a token may be used. Another one is made at half of that: an agent that has lost its
/// identity finds one that is good.
const LIFE: Duration = Duration::from_secs(600);
const TOKEN: &str = "join-token";
const LIST: &str = "join-tokens";

/// One entry of the control plane's list.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Listed {
    sha256: String,
    node: String,
    not_after: i64,
}

/// When the next token is due.
#[derive(Debug, Default)]
pub(crate) struct JoinTokens {
    made_at: Option<OffsetDateTime>,
}

impl JoinTokens {
    /// True when the last token is half as old as it may become, and when there is none.
    pub(crate) fn is_due(&self, now: OffsetDateTime) -> bool {
        self.made_at.is_none_or(|made| now - made >= LIFE / 2)
    }

    /// Makes a token for the agent of this node; those that are still good stay.
    pub(crate) fn renew(
        &mut self,
        composition: &Composition,
        state: &StateDir,
        now: OffsetDateTime,
    ) -> Result<(), CliError> {
        let (Some(mesh), Some(agent)) = (&composition.mesh, composition.agent()) else {
            return Ok(());
        };
        let token = random()?;
        let entry = Listed {
            sha256: hex(digest(&SHA256, token.expose()).as_ref()),
            node: mesh.node.value.clone(),
            not_after: (now + LIFE).unix_timestamp(),
        };
        // The hash first: a token that the agent reads is known already.
        for (plane, _) in composition.control_planes() {
            add(state, &plane.name.value, &entry, now)?;
        }
        secrets::update(state, &agent.name.value, |secrets| {
            secrets.insert(TOKEN.to_owned(), token);
            Ok(true)
        })?;
        self.made_at = Some(now);
        Ok(())
    }
}

/// Adds to the list of the control plane `plane`; what has ended leaves it.
fn add(state: &StateDir, plane: &str, entry: &Listed, now: OffsetDateTime) -> Result<(), CliError> {
    secrets::update(state, plane, |secrets| {
        let list = secrets.get(LIST);
        let list = list.map(|text| serde_json::from_slice::<Vec<Listed>>(text.expose()));
        let mut list = list.and_then(Result::ok).unwrap_or_default();
        list.retain(|entry| entry.not_after > now.unix_timestamp());
        list.push(entry.clone());
        let text = serde_json::to_vec(&list)
            .map_err(|error| CliError::internal("writing join tokens", error))?;
        secrets.insert(LIST.to_owned(), Secret::new(text));
        Ok(true)
    })?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::fixture;

    #[test]
    fn the_agent_s_token_is_the_one_whose_hash_the_control_plane_has() {
        let place = fixture::Place::new();
        let now = OffsetDateTime::now_utc();
        let mut tokens = JoinTokens::default();
        assert!(tokens.is_due(now));
        tokens.renew(&place.composition, &place.state, now).unwrap();
        assert!(!tokens.is_due(now + LIFE / 3));
        assert!(tokens.is_due(now + LIFE / 2));
        let list = || -> Vec<Listed> {
            let list = secrets::read(&place.state, "control-plane", LIST)
                .unwrap()
                .unwrap();
            assert!(!list.expose().contains("token\""));
            serde_json::from_str(list.expose()).unwrap()
        };
        let token = secrets::read(&place.state, "agent", TOKEN)
            .unwrap()
            .unwrap();
        let hash = hex(digest(&SHA256, token.expose().as_bytes()).as_ref());
        assert_eq!(list()[0].sha256, hash);
        assert_eq!(list()[0].node, "local");
        // Two lives later the first one is gone.
        tokens
            .renew(&place.composition, &place.state, now + LIFE / 2)
            .unwrap();
        assert_eq!(list().len(), 2);
        tokens
            .renew(&place.composition, &place.state, now + 2 * LIFE)
            .unwrap();
        assert_eq!(list().len(), 1);
        assert!(list()[0].sha256 != hash);
    }
}
