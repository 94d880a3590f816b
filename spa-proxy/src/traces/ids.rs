//! Ids of traces and spans (W3C Trace Context §3.2.2), as values that cannot be malformed.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) struct $name([u8; $bytes]);

        impl $name {
            /// Lower-case hexadecimal digits, not all zero.
            pub(crate) fn parse(text: &str) -> Option<Self> {
                let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                if text.len() != 2 * $bytes || !text.bytes().all(lower) {
                    return None;
                }
                let mut bytes = [0; $bytes];
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
                }
                Self::from_bytes(&bytes)
            }

            /// The exact number of bytes, not all zero.
            pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
                let bytes: [u8; $bytes] = bytes.try_into().ok()?;
                if bytes == [0; $bytes] { None } else { Some(Self(bytes)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

hex_id!(
    /// 128 bits.
    TraceId,
    16
);
hex_id!(
    /// 64 bits.
    SpanId,
    8
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_exact() {
        let text = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(TraceId::parse(text).unwrap().to_string(), text);
        let upper = text.to_uppercase();
        let zero = "0".repeat(32);
        for bad in [
            "",
            "4bf9",
            &upper,
            &zero,
            "4bf92f3577b34da6a3ce929d0e0e473g",
            "../../../../etc/passwd/xxxxxxxxx",
        ] {
            assert!(TraceId::parse(bad).is_none(), "{bad}");
        }
        assert!(SpanId::from_bytes(&[1; 7]).is_none());
        assert!(SpanId::from_bytes(&[0; 8]).is_none());
        assert!(SpanId::from_bytes(&[1; 8]).is_some());
    }
}
