//! What goes into the store and comes out of it.
//!
//! Owns: the types that both implementations speak, and their spelling in columns.

use std::time::Duration;

use ringwall_identity::intermediate::RevokedSerial;
use ringwall_identity::{Serial, SpiffeId};
use time::OffsetDateTime;

/// SHA-256 of a join token: the token itself is never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash(pub(crate) [u8; 32]);

/// A join token as it is added.
#[derive(Clone, Debug)]
pub(crate) struct NewJoinToken {
    pub(crate) hash: TokenHash,
    pub(crate) node: String,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    /// Who made it, for the audit log.
    pub(crate) by: String,
}

/// What became of an attempt to spend a join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Consumption {
    Won { node: String },
    Refused(JoinRefusal),
}

/// Why a token was not spent: for the audit log alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum JoinRefusal {
    Unknown,
    Used,
    Expired,
}

impl JoinRefusal {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown token",
            Self::Used => "token used before",
            Self::Expired => "token expired",
        }
    }
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// An agent's SVID, by join token or renewed.
    Agent,
    /// A workload's SVID.
    Svid,
    /// The control plane's own SVID.
    Own,
    /// A client certificate for a database.
    Database,
    /// A server certificate.
    Server,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Svid => "svid",
            Self::Own => "own",
            Self::Database => "database",
            Self::Server => "server",
        }
    }
}

/// A certificate as it is recorded.
#[derive(Clone, Debug)]
pub(crate) struct IssuedCertificate {
    pub(crate) serial: Serial,
    pub(crate) kind: Kind,
    /// The workload that holds it; certificates without a SPIFFE id have a holder too.
    pub(crate) holder: SpiffeId,
    pub(crate) spki: [u8; 32],
    pub(crate) issued_at: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    /// Who asked for it.
    pub(crate) by: String,
    /// What it says beyond the holder: a role, names, the node.
    pub(crate) detail: String,
}

/// Whether a certificate is on record and may be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    Yes,
    /// Its holder or key is revoked: nothing was written.
    Revoked,
}

/// What a revocation names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    SpiffeId(SpiffeId),
    Serial(Serial),
    Spki([u8; 32]),
}

impl Target {
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::SpiffeId(_) => "spiffe_id",
            Self::Serial(_) => "serial",
            Self::Spki(_) => "spki",
        }
    }

    pub(crate) fn value(&self) -> Vec<u8> {
        match self {
            Self::SpiffeId(id) => id.as_str().as_bytes().to_vec(),
            Self::Serial(serial) => serial.as_bytes().to_vec(),
            Self::Spki(hash) => hash.to_vec(),
        }
    }

    /// What [`Target::kind`] and [`Target::value`] wrote.
    pub(crate) fn parse(kind: &str, value: &[u8]) -> Option<Self> {
        match kind {
            "spiffe_id" => {
                let text = std::str::from_utf8(value).ok()?;
                SpiffeId::parse(text).ok().map(Self::SpiffeId)
            }
            "serial" => Serial::from_bytes(value).ok().map(Self::Serial),
            "spki" => value.try_into().ok().map(Self::Spki),
            _ => None,
        }
    }
}

/// For people and logs.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SpiffeId(id) => write!(f, "{id}"),
            Self::Serial(serial) => write!(f, "serial {serial}"),
            Self::Spki(hash) => write!(f, "key {}", hex::encode(hash)),
        }
    }
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revocation {
    pub(crate) target: Target,
    pub(crate) at: OffsetDateTime,
    pub(crate) reason: String,
}

/// Every revocation at one revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct RevocationState {
    pub(crate) revision: u64,
    pub(crate) entries: Vec<Revocation>,
    /// For the revocation list: certificates that are named, and those whose holder or key is.
    pub(crate) serials: Vec<RevokedSerial>,
}

/// How far each part has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Revisions {
    pub(crate) revocations: u64,
    pub(crate) jwt_keys: u64,
}

/// A stored document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) revision: u64,
    pub(crate) content: Vec<u8>,
}

/// One line of the audit log: who did what to whom, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditEntry {
    pub(crate) at: OffsetDateTime,
    pub(crate) event: String,
    pub(crate) actor: String,
    pub(crate) subject: String,
    pub(crate) serial: Option<Serial>,
    pub(crate) reason: String,
}

/// A leader's proof at a write: a holder that was replaced has an epoch that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) holder: String,
    pub(crate) epoch: u64,
}

/// The answer to a claim on the leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Who leads.
    pub(crate) holder: String,
    pub(crate) epoch: u64,
    /// Whether that is who asked.
    pub(crate) mine: bool,
    /// For how long, unless it is prolonged.
    pub(crate) remaining: Duration,
}

/// A token is kept this long after its end.
pub(crate) const TOKEN_GRACE_MILLIS: i64 = 24 * 3600 * 1000;
/// A certificate stays on record this long after its end: clocks differ.
pub(crate) const CERTIFICATE_GRACE_MILLIS: i64 = 3600 * 1000;
/// A revoked serial number is remembered this long: no leaf lives longer than a week.
pub(crate) const SERIAL_KEPT_MILLIS: i64 = 8 * 24 * 3600 * 1000;

impl NewJoinToken {
    pub(crate) fn audit_entry(&self) -> AuditEntry {
        AuditEntry {
            at: self.created_at,
            event: "join_token_created".to_owned(),
            actor: self.by.clone(),
            subject: format!("node {}", self.node),
            serial: None,
            reason: format!("until {}", self.not_after),
        }
    }
}

impl IssuedCertificate {
    pub(crate) fn audit_entry(&self) -> AuditEntry {
        AuditEntry {
            at: self.issued_at,
            event: format!("{}_issued", self.kind.as_str()),
            actor: self.by.clone(),
            subject: self.holder.to_string(),
            serial: Some(self.serial.clone()),
            reason: self.detail.clone(),
        }
    }
}

impl Revocation {
    pub(crate) fn audit_entry(&self, by: &str) -> AuditEntry {
        AuditEntry {
            at: self.at,
            event: "revoked".to_owned(),
            actor: by.to_owned(),
            subject: self.target.to_string(),
            serial: match &self.target {
                Target::Serial(serial) => Some(serial.clone()),
                _ => None,
            },
            reason: self.reason.clone(),
        }
    }
}

impl AuditEntry {
    pub(crate) fn restored(target: &Target, by: &str, at: OffsetDateTime) -> Self {
        Self {
            at,
            event: "restored".to_owned(),
            actor: by.to_owned(),
            subject: target.to_string(),
            serial: None,
            reason: String::new(),
        }
    }
}
