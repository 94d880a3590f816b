//! What makes a value unfit for the wire. Owns the texts that end up in `400` problem details.

/// A value that the contract does not allow. The text never repeats the value: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// A bounded string is too short, too long, or holds a character outside its alphabet.
    #[error("{what} must be {expected}")]
    Text {
        what: &'static str,
        expected: &'static str,
    },
    /// A number lies outside its range.
    #[error("{what} must be from {least} to {most}")]
    Range {
        what: &'static str,
        least: i64,
        most: i64,
    },
    /// An identifier is not a UUID of the expected version (RFC 9562).
    #[error("{what} must be a UUID of version {version}")]
    Uuid { what: &'static str, version: usize },
    /// A list is too short, too long, or names something twice.
    #[error("{what} must hold {expected}")]
    List {
        what: &'static str,
        expected: &'static str,
    },
    /// A sum left the range of money.
    #[error("the amount is larger than the platform handles")]
    Amount,
    /// A CloudEvent breaks CloudEvents 1.0 or our profile of it.
    #[error("event attribute `{attribute}` must be {expected}")]
    Event {
        attribute: &'static str,
        expected: &'static str,
    },
}
