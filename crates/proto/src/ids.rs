//! The small values of every contract, each valid by construction: names, numbers and identifiers.
//!
//! Owns: alphabets, lengths and ranges. Serde goes through the same checks as `parse`, so a
//! deserialised message holds no unchecked value. Must not: know any one service.
//! Read next: [`crate::lines`].

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::ProtoError;

/// A string newtype with a bounded length in bytes and a fixed alphabet.
macro_rules! bounded_text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $most:literal, $expected:literal, $pattern:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks length and alphabet.
            pub fn parse(text: impl Into<String>) -> Result<Self, ProtoError> {
                let text = text.into();
                let allowed: fn(char) -> bool = $allowed;
                if text.is_empty() || text.len() > $most || !text.chars().all(allowed) {
                    return Err(ProtoError::Text { what: $what, expected: $expected });
                }
                Ok(Self(text))
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = ProtoError;
            fn try_from(text: String) -> Result<Self, ProtoError> {
                Self::parse(text)
            }
        }

        impl FromStr for $name {
            type Err = ProtoError;
            fn from_str(text: &str) -> Result<Self, ProtoError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": 1, "maxLength": $most, "pattern": $pattern })
            }
        }
    };
}

bounded_text!(
    /// Stock-keeping unit: letters, digits and hyphens, at most 32.
    Sku, "sku", 32, "1 to 32 letters, digits or hyphens", "^[A-Za-z0-9-]+$",
    |c| c.is_ascii_alphanumeric() || c == '-'
);
bounded_text!(
    /// Subject of a token (OpenID Connect Core §2: at most 255 ASCII characters).
    Subject, "sub", 255, "1 to 255 visible ASCII characters", "^[!-~]+$",
    |c| c.is_ascii_graphic()
);
bounded_text!(
    /// OAuth client identifier (RFC 6749 §2.2, bounded).
    ClientId, "client_id", 128, "1 to 128 visible ASCII characters", "^[!-~]+$",
    |c| c.is_ascii_graphic()
);
bounded_text!(
    /// `Idempotency-Key` of a request.
    IdempotencyKey, "idempotency key", 64, "1 to 64 visible ASCII characters", "^[!-~]+$",
    |c| c.is_ascii_graphic()
);
bounded_text!(
    /// Topic, consumer group and other machine names.
    Name, "name", 64, "1 to 64 of a-z, 0-9, '.', '_' and '-'", "^[a-z0-9._-]+$",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
);
bounded_text!(
    /// One line of text for people, such as an item's name.
    Label, "label", 120, "1 to 120 bytes of text without control characters", "^[^\\x00-\\x1f\\x7f]+$",
    |c| !c.is_control()
);
bounded_text!(
    /// A paragraph for people, such as an item's description.
    Text, "text", 1000, "1 to 1000 bytes of text without control characters", "^[^\\x00-\\x1f\\x7f]+$",
    |c| !c.is_control()
);

/// Identifier of an order: a UUID of version 7 (RFC 9562 §5.7), so that ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Uuid", into = "Uuid")]
pub struct OrderId(Uuid);

impl OrderId {
    /// A new identifier from the clock and the system's randomness.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Accepts version 7 only.
    pub fn from_uuid(id: Uuid) -> Result<Self, ProtoError> {
        if id.get_version_num() == 7 {
            Ok(Self(id))
        } else {
            Err(ProtoError::Uuid {
                what: "order id",
                version: 7,
            })
        }
    }

    /// Parses the hyphenated lower-case form and only that: one order has one spelling.
    pub fn parse(text: &str) -> Result<Self, ProtoError> {
        let wrong = ProtoError::Uuid {
            what: "order id",
            version: 7,
        };
        let id = Uuid::try_parse(text).map_err(|_| wrong.clone())?;
        if id.as_hyphenated().to_string() != text {
            return Err(wrong);
        }
        Self::from_uuid(id)
    }

    /// The UUID, for storage.
    pub fn uuid(&self) -> Uuid {
        self.0
    }
}

/// Identifier of a captured payment (UUID version 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaymentId(pub Uuid);

/// Identifier of an event; consumers deduplicate by it (UUID version 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

macro_rules! uuid_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": "uuid" })
            }
        }
    };
}
uuid_text!(OrderId);
uuid_text!(PaymentId);
uuid_text!(EventId);

impl TryFrom<Uuid> for OrderId {
    type Error = ProtoError;
    fn try_from(id: Uuid) -> Result<Self, ProtoError> {
        Self::from_uuid(id)
    }
}

impl From<OrderId> for Uuid {
    fn from(id: OrderId) -> Self {
        id.0
    }
}

impl FromStr for OrderId {
    type Err = ProtoError;
    fn from_str(text: &str) -> Result<Self, ProtoError> {
        Self::parse(text)
    }
}

/// How many pieces of one item: 1 to 99.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Quantity(u8);

impl Quantity {
    pub const LEAST: i64 = 1;
    pub const MOST: i64 = 99;

    /// Checks the range.
    pub fn new(pieces: i64) -> Result<Self, ProtoError> {
        let wrong = ProtoError::Range {
            what: "quantity",
            least: Self::LEAST,
            most: Self::MOST,
        };
        match u8::try_from(pieces) {
            Ok(n) if (Self::LEAST..=Self::MOST).contains(&pieces) => Ok(Self(n)),
            _ => Err(wrong),
        }
    }

    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<i64> for Quantity {
    type Error = ProtoError;
    fn try_from(pieces: i64) -> Result<Self, ProtoError> {
        Self::new(pieces)
    }
}

impl From<Quantity> for i64 {
    fn from(quantity: Quantity) -> Self {
        i64::from(quantity.0)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": Quantity::LEAST, "maximum": Quantity::MOST })
    }
}

/// Money in the minor unit of its currency (cents): 0 to 10^12. No floating point anywhere.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "i64", into = "i64")]
pub struct MinorUnits(i64);

impl MinorUnits {
    pub const ZERO: Self = Self(0);
    /// Largest amount: ten thousand million of the major unit.
    pub const MOST: i64 = 1_000_000_000_000;

    /// Checks the range.
    pub fn new(amount: i64) -> Result<Self, ProtoError> {
        if (0..=Self::MOST).contains(&amount) {
            Ok(Self(amount))
        } else {
            Err(ProtoError::Range {
                what: "amount",
                least: 0,
                most: Self::MOST,
            })
        }
    }

    pub fn get(self) -> i64 {
        self.0
    }

    /// Sum, or an error beyond [`Self::MOST`].
    pub fn plus(self, other: Self) -> Result<Self, ProtoError> {
        self.0
            .checked_add(other.0)
            .and_then(|sum| Self::new(sum).ok())
            .ok_or(ProtoError::Amount)
    }

    /// Price of `quantity` pieces, or an error beyond [`Self::MOST`].
    pub fn times(self, quantity: Quantity) -> Result<Self, ProtoError> {
        self.0
            .checked_mul(i64::from(quantity))
            .and_then(|product| Self::new(product).ok())
            .ok_or(ProtoError::Amount)
    }
}

impl TryFrom<i64> for MinorUnits {
    type Error = ProtoError;
    fn try_from(amount: i64) -> Result<Self, ProtoError> {
        Self::new(amount)
    }
}

impl From<MinorUnits> for i64 {
    fn from(amount: MinorUnits) -> Self {
        amount.0
    }
}

impl fmt::Display for MinorUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for MinorUnits {
    fn schema_name() -> Cow<'static, str> {
        "MinorUnits".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": MinorUnits::MOST })
    }
}

/// Three upper-case letters (ISO 4217 alphabetic code).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

impl Currency {
    pub const EUR: Self = Self(*b"EUR");

    /// Checks the shape; whether a bank trades it is not our concern.
    pub fn parse(text: &str) -> Result<Self, ProtoError> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Self(code)),
            _ => Err(ProtoError::Text {
                what: "currency",
                expected: "three upper-case letters (ISO 4217)",
            }),
        }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a currency is three ASCII letters by construction")
    }
}

impl TryFrom<String> for Currency {
    type Error = ProtoError;
    fn try_from(text: String) -> Result<Self, ProtoError> {
        Self::parse(&text)
    }
}

impl FromStr for Currency {
    type Err = ProtoError;
    fn from_str(text: &str) -> Result<Self, ProtoError> {
        Self::parse(text)
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl JsonSchema for Currency {
    fn schema_name() -> Cow<'static, str> {
        "Currency".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Z]{3}$" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quantity_round_trips_or_is_refused(n in any::<i64>()) {
            match serde_json::from_str::<Quantity>(&n.to_string()) {
                Ok(q) => {
                    prop_assert!((1..=99).contains(&n));
                    prop_assert_eq!(serde_json::to_string(&q).unwrap(), n.to_string());
                }
                Err(_) => prop_assert!(!(1..=99).contains(&n)),
            }
        }

        #[test]
        fn small_quantities_round_trip(n in 1i64..=99) {
            prop_assert_eq!(i64::from(Quantity::new(n).unwrap()), n);
        }

        #[test]
        fn money_never_leaves_its_range(a in 0..=MinorUnits::MOST, b in 0..=MinorUnits::MOST, n in 1i64..=99) {
            let (a, b) = (MinorUnits::new(a).unwrap(), MinorUnits::new(b).unwrap());
            if let Ok(sum) = a.plus(b) { prop_assert!(sum.get() <= MinorUnits::MOST); }
            if let Ok(all) = a.times(Quantity::new(n).unwrap()) { prop_assert_eq!(all.get(), a.get() * n); }
        }

        #[test]
        fn sku_accepts_exactly_its_alphabet(text in "\\PC{0,40}") {
            let fits = !text.is_empty() && text.len() <= 32
                && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            prop_assert_eq!(Sku::parse(text.clone()).is_ok(), fits);
        }

        #[test]
        fn sku_round_trips(text in "[A-Za-z0-9-]{1,32}") {
            let sku = Sku::parse(text).unwrap();
            let json = serde_json::to_string(&sku).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sku>(&json).unwrap(), sku);
        }

        #[test]
        fn currency_is_three_capitals(text in "\\PC{0,5}") {
            let fits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase());
            prop_assert_eq!(Currency::parse(&text).is_ok(), fits);
        }

        #[test]
        fn order_id_round_trips(bits in any::<u128>()) {
            let id = uuid::Builder::from_u128(bits).with_version(uuid::Version::SortRand).into_uuid();
            let order = OrderId::from_uuid(id).unwrap();
            prop_assert_eq!(OrderId::parse(&order.to_string()).unwrap(), order);
        }
    }

    #[test]
    fn order_id_of_another_version_or_spelling_is_refused() {
        assert!(OrderId::parse(&Uuid::new_v4().to_string()).is_err());
        let id = OrderId::generate().to_string();
        assert!(OrderId::parse(&id.to_uppercase().replace('-', "")).is_err());
        assert!(OrderId::parse(&format!("{{{id}}}")).is_err());
        assert!(serde_json::from_str::<OrderId>("\"not-a-uuid\"").is_err());
    }

    #[test]
    fn negative_and_huge_amounts_are_refused() {
        assert!(MinorUnits::new(-1).is_err());
        assert!(MinorUnits::new(MinorUnits::MOST + 1).is_err());
        assert!(serde_json::from_str::<MinorUnits>("1.5").is_err());
    }
}
