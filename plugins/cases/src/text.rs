//! Texts that are expected: exactly, or by their parts where they hold a time or a random number.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

/// An expected text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// The whole of it.
    Exactly(String),
    /// All of these parts.
    Parts(Parts),
}

/// Every part that is named has to be there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parts {
    starts_with: String,
    ends_with: String,
    contains: Vec<String>,
    lacks: Vec<String>,
}

impl Text {
    /// True when the text is as expected.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exactly(expected) => expected == text,
            Self::Parts(parts) => {
                text.starts_with(&parts.starts_with)
                    && text.ends_with(&parts.ends_with)
                    && parts.contains.iter().all(|part| text.contains(part))
                    && !parts.lacks.iter().any(|part| text.contains(part))
            }
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(text) => write!(formatter, "{text:?}"),
            Self::Parts(parts) => {
                let mut shown = Vec::new();
                if !parts.starts_with.is_empty() {
                    shown.push(format!("starts with {:?}", parts.starts_with));
                }
                if !parts.ends_with.is_empty() {
                    shown.push(format!("ends with {:?}", parts.ends_with));
                }
                shown.extend(
                    parts
                        .contains
                        .iter()
                        .map(|part| format!("contains {part:?}")),
                );
                shown.extend(parts.lacks.iter().map(|part| format!("lacks {part:?}")));
                write!(formatter, "a text that {}", shown.join(", "))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand, not `untagged`: that would lose the line of an error.
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text (in quotes where YAML reads something else), or a mapping of starts_with, ends_with, contains, lacks")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text::Exactly(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text::Exactly(number.to_string()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Text, E> {
                Ok(Text::Exactly(number.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Text, A::Error> {
                Parts::deserialize(MapAccessDeserializer::new(map)).map(Text::Parts)
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(yaml: &str) -> Text {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn a_text_is_matched_whole_or_by_its_parts() {
        assert!(text("abc").matches("abc"));
        assert!(!text("abc").matches("abcd"));
        assert!(text("200").matches("200"));
        let parts = text("{starts_with: a, ends_with: z, contains: [m, n], lacks: ['!']}");
        assert!(parts.matches("a mn z"));
        for other in ["mn z", "a mn", "a m z", "a mn! z"] {
            assert!(!parts.matches(other), "{other}");
        }
    }

    #[test]
    fn it_says_what_it_expects() {
        let parts = text("{contains: [m], lacks: [x]}");
        assert_eq!(parts.to_string(), r#"a text that contains "m", lacks "x""#);
    }
}
