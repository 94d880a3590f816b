//! The secrets that a composition declares.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

/// Which component holds a secret under which name.
pub(crate) type Holders = BTreeMap<String, String>;

/// A secret that is made at first start.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum SecretSpec {
    /// 32 random bytes as base64url text, the same for each holder.
    Random {
        r#for: Spanned<Holders>,
        #[serde(default)]
        shown: Option<Shown>,
    },
    /// A password that a person can type.
    Password {
        r#for: Spanned<Holders>,
        #[serde(default)]
        shown: Option<Shown>,
    },
    /// A private signing key (PKCS#8 PEM, ES256).
    SigningKey {
        r#for: Spanned<Holders>,
        #[serde(default)]
        shown: Option<Shown>,
    },
    /// An API key for the caller, and its keyed hash in the callee's `api-key-entries`.
    ApiKey {
        r#for: Spanned<Holders>,
        to: Spanned<String>,
        scopes: Vec<String>,
    },
}

/// A demo identity, which `ringwall status --credentials` shows and production refuses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Shown {
    User(String),
    Client(String),
}

impl SecretSpec {
    /// Who holds it under which name.
    pub(crate) fn holders(&self) -> &Spanned<Holders> {
        match self {
            Self::Random { r#for, .. }
            | Self::Password { r#for, .. }
            | Self::SigningKey { r#for, .. }
            | Self::ApiKey { r#for, .. } => r#for,
        }
    }

    /// The demo identity that it belongs to.
    pub(crate) fn shown(&self) -> Option<&Shown> {
        match self {
            Self::Random { shown, .. }
            | Self::Password { shown, .. }
            | Self::SigningKey { shown, .. } => shown.as_ref(),
            Self::ApiKey { .. } => None,
        }
    }
}
