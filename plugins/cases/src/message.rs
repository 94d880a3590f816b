//! Requests and answers as both runners send, record and answer them.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

/// Header fields in their order; names in lower case, a name may come again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    pub fn new(fields: impl IntoIterator<Item = (String, String)>) -> Self {
        let fields = fields.into_iter();
        Self(
            fields
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .collect(),
        )
    }

    /// Every field.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let fields = self.0.iter();
        fields.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The values of a name, joined by `, ` as HTTP allows (RFC 9110 section 5.3); `set-cookie` by line breaks.
    pub fn value(&self, name: &str) -> Option<String> {
        let values = self.iter().filter(|(other, _)| *other == name);
        let values: Vec<&str> = values.map(|(_, value)| value).collect();
        let separator = if name == "set-cookie" { "\n" } else { ", " };
        (!values.is_empty()).then(|| values.join(separator))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("header names with a value, or a list of values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, Values(values))) = map.next_entry::<String, Values>()? {
                    fields.extend(values.into_iter().map(|value| (name.clone(), value)));
                }
                Ok(Fields::new(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// One value, or several.
struct Values(Vec<String>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValuesVisitor;
        impl<'de> Visitor<'de> for ValuesVisitor {
            type Value = Values;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text, or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Values, E> {
                Ok(Values(vec![text.to_owned()]))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Values, E> {
                Ok(Values(vec![number.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(Values(values))
            }
        }
        deserializer.deserialize_any(ValuesVisitor)
    }
}

/// A request: sent by a case, or seen by the upstream or a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `:authority`.
    pub authority: String,
    pub headers: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
}

/// What the upstream or a cluster says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Fields,
    pub body: Vec<u8>,
    /// In place of a body: one message and a status.
    pub grpc: Option<GrpcAnswer>,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            status: 200,
            headers: Fields::default(),
            body: Vec::new(),
            grpc: None,
        }
    }
}

/// The end of a unary gRPC call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrpcAnswer {
    /// 0 is `OK`.
    pub status: u32,
    /// `grpc-message`.
    pub message: String,
    /// The response, serialised; sent with status 0 only.
    pub body: Vec<u8>,
}
