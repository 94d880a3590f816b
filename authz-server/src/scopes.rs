//! Scope sets (RFC 6749 §3.3): parsed once, then only compared, shrunk and printed.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Scopes that speak to the identity provider itself and mean nothing to another audience.
const IDENTITY_SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];
const MAX_SCOPES: usize = 32;
const MAX_LENGTH: usize = 1024;

/// A set of scope tokens, ordered so that its text is canonical.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Scopes(BTreeSet<String>);

impl Scopes {
    /// Parses the space-delimited form; `None` when a character, the length or the count is not
    /// allowed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let set: BTreeSet<String> = text
            .split(' ')
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect();
        (set.len() <= MAX_SCOPES && set.iter().all(|s| is_scope_token(s))).then_some(Self(set))
    }

    pub(crate) fn contains(&self, scope: &str) -> bool {
        self.0.contains(scope)
    }

    pub(crate) fn is_subset(&self, of: &Self) -> bool {
        self.0.is_subset(&of.0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub(crate) fn union(&self, with: &Self) -> Self {
        Self(self.0.union(&with.0).cloned().collect())
    }

    /// What is left for an audience that is not this server.
    pub(crate) fn without_identity_scopes(&self) -> Self {
        Self(
            self.0
                .iter()
                .filter(|s| !IDENTITY_SCOPES.contains(&s.as_str()))
                .cloned()
                .collect(),
        )
    }

    /// `openid` and its companions need a user; a client that acts for itself has none.
    pub(crate) fn has_identity_scope(&self) -> bool {
        IDENTITY_SCOPES.iter().any(|s| self.0.contains(*s))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, scope) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope)?;
        }
        Ok(())
    }
}

impl FromIterator<String> for Scopes {
    fn from_iter<I: IntoIterator<Item = String>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// `scope-token = 1*( %x21 / %x23-5B / %x5D-7E )`, RFC 6749 §3.3.
fn is_scope_token(text: &str) -> bool {
    text.bytes()
        .all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_canonically_and_compares_as_sets() {
        let scopes = Scopes::parse("profile openid  orders:read").unwrap();
        assert_eq!(scopes.to_string(), "openid orders:read profile");
        assert!(Scopes::parse("openid").unwrap().is_subset(&scopes));
        assert!(!Scopes::parse("email").unwrap().is_subset(&scopes));
        assert_eq!(scopes.without_identity_scopes().to_string(), "orders:read");
    }

    #[test]
    fn refuses_characters_and_sizes_outside_the_grammar() {
        assert!(Scopes::parse("open\"id").is_none());
        assert!(Scopes::parse("open\nid").is_none());
        assert!(Scopes::parse("ä").is_none());
        assert!(Scopes::parse(&"x".repeat(2000)).is_none());
        let many: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
        assert!(Scopes::parse(&many.join(" ")).is_none());
    }
}
