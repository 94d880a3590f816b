//! What is worth remembering for ever: the events of the append-only audit log (R55).
//!
//! Events name people and clients, never tokens, codes or passwords. `store/audit.rs` chains them
//! by hash; an event that belongs to a write is appended in the same transaction.

use crate::ids::{ClientId, Subject};

/// One entry.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) subject: Option<Subject>,
    pub(crate) client: Option<ClientId>,
    /// Free text without secrets: an address, an audience, a reason.
    pub(crate) detail: String,
}

impl Event {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            subject: None,
            client: None,
            detail: String::new(),
        }
    }

    pub(crate) fn subject(mut self, subject: &Subject) -> Self {
        self.subject = Some(subject.clone());
        self
    }

    pub(crate) fn client(mut self, client: &ClientId) -> Self {
        self.client = Some(client.clone());
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    SignedIn,
    SignInFailed,
    SignedOut,
    ConsentGranted,
    ConsentDenied,
    CodeReplayed,
    RefreshReplayed,
    AssertionReplayed,
    TokenRevoked,
    TokenExchanged,
    ClientRefused,
    KeysRotated,
    Seeded,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::SignedIn => "signed-in",
            Self::SignInFailed => "sign-in-failed",
            Self::SignedOut => "signed-out",
            Self::ConsentGranted => "consent-granted",
            Self::ConsentDenied => "consent-denied",
            Self::CodeReplayed => "code-replayed",
            Self::RefreshReplayed => "refresh-replayed",
            Self::AssertionReplayed => "assertion-replayed",
            Self::TokenRevoked => "token-revoked",
            Self::TokenExchanged => "token-exchanged",
            Self::ClientRefused => "client-refused",
            Self::KeysRotated => "keys-rotated",
            Self::Seeded => "seeded",
        }
    }
}
