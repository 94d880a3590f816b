//! Writing one JSON object into a byte buffer without building it first.
//!
//! Owns: JSON escaping (RFC 8259 §7). Must not: know what is logged.

use std::io::Write as _;

/// One line under construction.
#[derive(Debug)]
pub struct Line<'buffer> {
    out: &'buffer mut Vec<u8>,
}

impl<'buffer> Line<'buffer> {
    /// Begins a line with its time stamp.
    pub fn begin(out: &'buffer mut Vec<u8>, stamp: &str) -> Self {
        out.extend_from_slice(b"{\"ts\":\"");
        out.extend_from_slice(stamp.as_bytes());
        out.extend_from_slice(b"\",\"kind\":\"access\"");
        Self { out }
    }

    pub fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.push(b'"');
        escape(self.out, value.as_bytes());
        self.out.push(b'"');
    }

    pub fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        decimal(self.out, value);
    }

    /// A value whose text holds nothing to escape, such as an address.
    pub fn display(&mut self, name: &str, value: &impl std::fmt::Display) {
        self.name(name);
        self.out.push(b'"');
        // Writing into a vector does not fail.
        let _written = write!(self.out, "{value}");
        self.out.push(b'"');
    }

    pub fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

fn escape(out: &mut Vec<u8>, value: &[u8]) {
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\');
    if value.iter().all(plain) {
        out.extend_from_slice(value);
        return;
    }
    for byte in value {
        match byte {
            byte if plain(byte) => out.push(*byte),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            // UTF-8 passes as it is: `value` is a str's bytes.
            0x80.. => out.push(*byte),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
            }
        }
    }
}

fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        at -= 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_and_number_survive_the_round_trip(text in any::<String>(), number in any::<u64>()) {
            let mut out = Vec::new();
            let mut line = Line::begin(&mut out, "2026-01-01T00:00:00.000Z");
            line.text("text", &text);
            line.number("number", number);
            line.end();
            prop_assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
            let parsed: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            prop_assert_eq!(parsed["text"].as_str(), Some(text.as_str()));
            prop_assert_eq!(parsed["number"].as_u64(), Some(number));
            prop_assert_eq!(parsed["kind"].as_str(), Some("access"));
        }
    }
}
