//! The lines of an order: what and how many. Shared by orders, inventory and events.
//!
//! Owns: the bound on their number and the ban on naming an item twice.

use std::{borrow::Cow, collections::BTreeSet};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{
    error::ProtoError,
    ids::{Label, MinorUnits, Quantity, Sku},
};

/// Most lines of one order.
pub const MAX_LINES: usize = 20;

/// One wish: an item and a quantity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub sku: Sku,
    pub quantity: Quantity,
}

/// 1 to 20 lines, each item at most once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Line>", into = "Vec<Line>")]
pub struct Lines(Vec<Line>);

impl Lines {
    /// Checks number and uniqueness.
    pub fn new(lines: Vec<Line>) -> Result<Self, ProtoError> {
        let wrong = ProtoError::List {
            what: "lines",
            expected: "1 to 20 lines, each sku once",
        };
        if lines.is_empty() || lines.len() > MAX_LINES {
            return Err(wrong);
        }
        let distinct: BTreeSet<&Sku> = lines.iter().map(|line| &line.sku).collect();
        if distinct.len() == lines.len() {
            Ok(Self(lines))
        } else {
            Err(wrong)
        }
    }

    pub fn as_slice(&self) -> &[Line] {
        &self.0
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Line> {
        self.0.iter()
    }

    pub fn into_vec(self) -> Vec<Line> {
        self.0
    }
}

impl<'a> IntoIterator for &'a Lines {
    type Item = &'a Line;
    type IntoIter = std::slice::Iter<'a, Line>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl TryFrom<Vec<Line>> for Lines {
    type Error = ProtoError;
    fn try_from(lines: Vec<Line>) -> Result<Self, ProtoError> {
        Self::new(lines)
    }
}

impl From<Lines> for Vec<Line> {
    fn from(lines: Lines) -> Self {
        lines.0
    }
}

impl JsonSchema for Lines {
    fn schema_name() -> Cow<'static, str> {
        "Lines".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let line = generator.subschema_for::<Line>();
        json_schema!({ "type": "array", "items": line, "minItems": 1, "maxItems": MAX_LINES })
    }
}

/// A line with the price that the catalogue had when the stock was reserved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PricedLine {
    pub sku: Sku,
    pub name: Label,
    pub quantity: Quantity,
    /// Price of one piece.
    pub unit_price_minor: MinorUnits,
}

impl PricedLine {
    /// Price of the whole line.
    pub fn total(&self) -> Result<MinorUnits, ProtoError> {
        self.unit_price_minor.times(self.quantity)
    }
}

/// Sum of priced lines.
pub fn total(lines: &[PricedLine]) -> Result<MinorUnits, ProtoError> {
    lines
        .iter()
        .try_fold(MinorUnits::ZERO, |sum, line| sum.plus(line.total()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(n: usize) -> Line {
        Line {
            sku: Sku::parse(format!("SKU-{n}")).unwrap(),
            quantity: Quantity::new(1).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn the_number_of_lines_is_bounded(n in 0usize..40) {
            let lines: Vec<Line> = (0..n).map(line).collect();
            let fits = (1..=MAX_LINES).contains(&n);
            prop_assert_eq!(Lines::new(lines.clone()).is_ok(), fits);
            let json = serde_json::to_string(&lines).unwrap();
            prop_assert_eq!(serde_json::from_str::<Lines>(&json).is_ok(), fits);
        }
    }

    #[test]
    fn an_item_named_twice_is_refused() {
        assert!(Lines::new(vec![line(1), line(1)]).is_err());
    }

    #[test]
    fn unknown_members_are_refused() {
        let text = r#"[{"sku":"A","quantity":1,"price_minor":1}]"#;
        assert!(serde_json::from_str::<Lines>(text).is_err());
    }

    #[test]
    fn totals_add_up() {
        let priced = |price, quantity| PricedLine {
            sku: Sku::parse("A").unwrap(),
            name: Label::parse("A").unwrap(),
            quantity: Quantity::new(quantity).unwrap(),
            unit_price_minor: MinorUnits::new(price).unwrap(),
        };
        assert_eq!(total(&[priced(250, 2), priced(1, 3)]).unwrap().get(), 503);
        assert!(total(&[priced(MinorUnits::MOST, 2)]).is_err());
    }
}
