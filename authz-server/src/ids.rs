//! Newtypes for the names that travel through the server, so that a session id is never taken for
//! a client id.
//!
//! They are public names, not secrets; secrets are [`crate::random::OpaqueToken`].

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(transparent)]
        pub(crate) struct $name(String);

        impl $name {
            pub(crate) fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// `client_id` of RFC 6749 §2.2.
    ClientId
);
text_id!(
    /// The `sub` claim: a random, never reassigned name of a user, or the id of a client that acts
    /// for itself.
    Subject
);
text_id!(
    /// The `sid` claim: one sign-in of one user in one browser (OpenID Connect Front/Back-Channel
    /// Logout).
    SessionId
);
text_id!(
    /// Every token that descends from one authorization code.
    FamilyId
);
text_id!(
    /// The `jti` claim of an access token.
    TokenId
);

macro_rules! random_id {
    ($($name:ident),*) => {
        $(impl $name {
            pub(crate) fn random() -> Self {
                Self(uuid::Uuid::new_v4().simple().to_string())
            }
        })*
    };
}

random_id!(Subject, SessionId, FamilyId, TokenId);
