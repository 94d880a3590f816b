//! The access log: one JSON line per exchange, written without waiting.
//!
//! Owns: the form of a line and its way to the sink. Must not: know what is logged. Next: `log/writer.rs`.

mod line;
mod writer;

pub use self::line::Line;
pub use self::writer::{LogBuffer, LogError, LogWriter};
