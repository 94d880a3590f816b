//! What a JSON body may look like: types, fields, lengths and ranges.

use std::collections::BTreeMap;

use ringwall_guest::json::{Kind, Node};
use serde::Deserialize;

/// The form of a value. What is not said is as narrow as it can be: fields that are not named are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Schema {
    Object(ObjectForm),
    Array(ArrayForm),
    String(StringForm),
    Integer(NumberForm),
    Number(NumberForm),
    Boolean(BooleanForm),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectForm {
    fields: BTreeMap<String, Schema>,
    #[serde(default)]
    required: Vec<String>,
    #[serde(default)]
    other_fields: bool,
    #[serde(default)]
    nullable: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayForm {
    items: Box<Schema>,
    #[serde(default)]
    min_items: usize,
    #[serde(default = "default_items")]
    max_items: usize,
    #[serde(default)]
    nullable: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StringForm {
    #[serde(default)]
    min_length: usize,
    #[serde(default = "default_length")]
    max_length: usize,
    #[serde(default)]
    one_of: Option<Vec<String>>,
    #[serde(default)]
    format: Option<Format>,
    #[serde(default)]
    nullable: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberForm {
    #[serde(default)]
    minimum: Option<f64>,
    #[serde(default)]
    maximum: Option<f64>,
    #[serde(default)]
    nullable: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BooleanForm {
    #[serde(default)]
    nullable: bool,
}

/// Characters, unless said otherwise.
const fn default_length() -> usize {
    1024
}

const fn default_items() -> usize {
    1000
}

/// The form of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Decimal digits with an optional sign, within 64 bits.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// RFC 9562, with hyphens.
    Uuid,
    /// `2026-01-31`.
    Date,
    /// Letters, digits, `-`, `_` and `.`.
    Slug,
}

impl Format {
    #[must_use]
    pub fn fits(self, text: &str) -> bool {
        match self {
            Self::Integer => text.parse::<i64>().is_ok() && !text.starts_with('+'),
            Self::Boolean => matches!(text, "true" | "false"),
            Self::Uuid => is_uuid(text),
            Self::Date => is_date(text),
            Self::Slug => {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                !text.is_empty() && text.bytes().all(fits)
            }
        }
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| {
            if matches!(index, 8 | 13 | 18 | 23) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        })
}

fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut number = |length: usize| {
        let part = parts.next()?;
        let digits = part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u32>().ok()).flatten()
    };
    let (year, month, day) = (number(4), number(2), number(2));
    let (Some(year), Some(month), Some(day)) = (year, month, day) else {
        return false;
    };
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    parts.next().is_none() && (1..=days).contains(&day)
}

impl Schema {
    /// Complains about a schema that nothing could fit.
    ///
    /// # Errors
    /// Names the place.
    pub fn check(&self, place: &str) -> Result<(), String> {
        match self {
            Self::Object(form) => {
                for name in &form.required {
                    if !form.fields.contains_key(name) {
                        return Err(format!("{place}: required {name:?} is no field"));
                    }
                }
                let mut fields = form.fields.iter();
                fields.try_for_each(|(name, schema)| schema.check(&format!("{place}.{name}")))
            }
            Self::Array(form) if form.min_items > form.max_items => {
                Err(format!("{place}: min_items is over max_items"))
            }
            Self::Array(form) => form.items.check(&format!("{place}[]")),
            Self::String(form) if form.min_length > form.max_length => {
                Err(format!("{place}: min_length is over max_length"))
            }
            Self::Integer(form) | Self::Number(form) => match (form.minimum, form.maximum) {
                (Some(low), Some(high)) if low > high => {
                    Err(format!("{place}: minimum is over maximum"))
                }
                _ => Ok(()),
            },
            Self::String(_) | Self::Boolean(_) => Ok(()),
        }
    }

    /// Judges a value.
    ///
    /// # Errors
    /// The place of what does not fit, and why. Holds names of the schema only, no input.
    pub fn judge(&self, node: &Node, place: &str) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("{place} {why}"));
        if node.kind == Kind::Null {
            return if self.nullable() {
                Ok(())
            } else {
                wrong("is null")
            };
        }
        match (self, &node.kind) {
            (Self::Object(form), Kind::Object(members)) => {
                for name in &form.required {
                    if node.member(name).is_none() {
                        return wrong(&format!("has no {name}"));
                    }
                }
                for member in members {
                    match form.fields.get(&member.name) {
                        Some(schema) => {
                            schema.judge(&member.value, &format!("{place}.{}", member.name))?;
                        }
                        None if form.other_fields => {}
                        None => return wrong("has a field that is not listed"),
                    }
                }
                Ok(())
            }
            (Self::Array(form), Kind::Array(items)) => {
                if !(form.min_items..=form.max_items).contains(&items.len()) {
                    return wrong("has too few or too many items");
                }
                let mut items = items.iter();
                items.try_for_each(|item| form.items.judge(item, &format!("{place}[]")))
            }
            (Self::String(form), Kind::Text(text)) => form.judge(text).map_or(Ok(()), wrong),
            (Self::Integer(form), Kind::Number(text)) => {
                if text.parse::<i64>().is_err() {
                    return wrong("is no integer of 64 bits");
                }
                form.judge(text).map_or(Ok(()), wrong)
            }
            (Self::Number(form), Kind::Number(text)) => form.judge(text).map_or(Ok(()), wrong),
            (Self::Boolean(_), Kind::Bool(_)) => Ok(()),
            _ => wrong("is of another type"),
        }
    }

    fn nullable(&self) -> bool {
        match self {
            Self::Object(form) => form.nullable,
            Self::Array(form) => form.nullable,
            Self::String(form) => form.nullable,
            Self::Integer(form) | Self::Number(form) => form.nullable,
            Self::Boolean(form) => form.nullable,
        }
    }
}

impl StringForm {
    fn judge(&self, text: &str) -> Option<&'static str> {
        let length = text.chars().count();
        if !(self.min_length..=self.max_length).contains(&length) {
            return Some("is too short or too long");
        }
        let listed = self
            .one_of
            .as_ref()
            .is_none_or(|texts| texts.iter().any(|other| other == text));
        if !listed {
            return Some("is none of the texts that are listed");
        }
        let fits = self.format.is_none_or(|format| format.fits(text));
        (!fits).then_some("does not have its format")
    }
}

impl NumberForm {
    fn judge(&self, text: &str) -> Option<&'static str> {
        let Some(number) = text.parse::<f64>().ok().filter(|number| number.is_finite()) else {
            return Some("is no number");
        };
        let low = self.minimum.is_some_and(|minimum| number < minimum);
        let high = self.maximum.is_some_and(|maximum| number > maximum);
        (low || high).then_some("is out of its range")
    }
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration;
    use ringwall_guest::json::parse;

    use super::*;

    fn schema(json: &str) -> Schema {
        configuration::parse(json.as_bytes()).unwrap()
    }

    fn order() -> Schema {
        schema(
            r#"{"type":"object","required":["sku"],"fields":{
                "sku":{"type":"string","min_length":2,"max_length":4},
                "count":{"type":"integer","minimum":1,"maximum":9},
                "price":{"type":"number"},
                "gift":{"type":"boolean","nullable":true},
                "state":{"type":"string","one_of":["new","old"]},
                "tags":{"type":"array","max_items":2,"items":{"type":"string","format":"slug"}}}}"#,
        )
    }

    #[test]
    fn what_fits_passes() {
        for json in [
            r#"{"sku":"ab"}"#,
            r#"{"sku":"äöüß","count":9,"price":1e3,"gift":null,"state":"new","tags":["a-b","c"]}"#,
        ] {
            let node = parse(json.as_bytes()).unwrap();
            assert_eq!(order().judge(&node, "body"), Ok(()), "{json}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_place() {
        for (json, complaint) in [
            ("[]", "body is of another type"),
            ("null", "body is null"),
            ("{}", "body has no sku"),
            (r#"{"sku":"a"}"#, "body.sku is too short or too long"),
            (r#"{"sku":"abcde"}"#, "body.sku is too short or too long"),
            (r#"{"sku":1}"#, "body.sku is of another type"),
            (
                r#"{"sku":"ab","count":1.5}"#,
                "body.count is no integer of 64 bits",
            ),
            (
                r#"{"sku":"ab","count":10}"#,
                "body.count is out of its range",
            ),
            (r#"{"sku":"ab","price":1e999}"#, "body.price is no number"),
            (
                r#"{"sku":"ab","state":"x"}"#,
                "body.state is none of the texts that are listed",
            ),
            (
                r#"{"sku":"ab","tags":["a","b","c"]}"#,
                "body.tags has too few or too many items",
            ),
            (
                r#"{"sku":"ab","tags":["a b"]}"#,
                "body.tags[] does not have its format",
            ),
            (
                r#"{"sku":"ab","admin":true}"#,
                "body has a field that is not listed",
            ),
        ] {
            let node = parse(json.as_bytes()).unwrap();
            assert_eq!(
                order().judge(&node, "body"),
                Err(complaint.to_owned()),
                "{json}"
            );
        }
    }

    #[test]
    fn formats_are_exact() {
        for (format, good, bad) in [
            (Format::Integer, "-12", "1.0"),
            (Format::Integer, "0", "+1"),
            (Format::Boolean, "true", "True"),
            (
                Format::Uuid,
                "0190a1b2-0000-7000-8000-0123456789ab",
                "0190a1b200007000800001234567",
            ),
            (Format::Date, "2024-02-29", "2023-02-29"),
            (Format::Date, "2023-12-31", "2023-13-01"),
            (Format::Slug, "a.b-c_1", "a/b"),
        ] {
            assert!(format.fits(good), "{good}");
            assert!(!format.fits(bad), "{bad}");
        }
    }

    #[test]
    fn schemas_that_nothing_fits_are_refused() {
        for json in [
            r#"{"type":"object","fields":{},"required":["a"]}"#,
            r#"{"type":"object","fields":{"a":{"type":"string","min_length":2,"max_length":1}}}"#,
            r#"{"type":"array","items":{"type":"integer","minimum":2,"maximum":1}}"#,
            r#"{"type":"array","items":{"type":"boolean"},"min_items":5000}"#,
        ] {
            assert!(schema(json).check("body").is_err(), "{json}");
        }
        for json in [
            r#"{"type":"objekt"}"#,
            r#"{"type":"string","maxlength":1}"#,
            r#"{"fields":{}}"#,
        ] {
            assert!(
                configuration::parse::<Schema>(json.as_bytes()).is_err(),
                "{json}"
            );
        }
    }
}
