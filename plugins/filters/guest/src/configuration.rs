//! Configuration is JSON, read strictly: an unknown field, a wrong type or a value out of range refuses the plugin.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;

/// Reads a configuration; an empty one is `{}`.
///
/// # Errors
/// What is wrong, with line and column.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = if bytes.trim_ascii().is_empty() {
        b"{}"
    } else {
        bytes
    };
    // serde also reads a list as the fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err("it is no JSON object".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Complains about a value that is out of its range.
///
/// # Errors
/// Names the field, the value and the range.
pub fn in_range<T: PartialOrd + Display>(
    field: &str,
    value: &T,
    range: &RangeInclusive<T>,
) -> Result<(), String> {
    if range.contains(value) {
        return Ok(());
    }
    let (low, high) = (range.start(), range.end());
    Err(format!("{field} is {value}, it may be {low} to {high}"))
}

/// Complains about a header name that is no token (RFC 9110 section 5.6.2), or that HTTP itself needs.
///
/// # Errors
/// Names the field and the header.
pub fn header_name(field: &str, name: &str) -> Result<(), String> {
    const FRAMING: [&str; 8] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let is_token = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
    };
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("{field}: {name:?} is no header name in lower case"));
    }
    if FRAMING.contains(&name) {
        return Err(format!("{field}: {name} belongs to HTTP's framing"));
    }
    Ok(())
}

/// Complains about a header value that would end its line.
///
/// # Errors
/// Names the field.
pub fn header_value(field: &str, value: &str) -> Result<(), String> {
    if value
        .bytes()
        .all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
    {
        return Ok(());
    }
    Err(format!(
        "{field}: {value:?} has control characters, which no header value has"
    ))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        count: u32,
    }

    #[test]
    fn nothing_is_an_empty_object() {
        assert_eq!(parse::<Config>(b" \n").unwrap().count, 0);
        assert_eq!(parse::<Config>(b"{\"count\": 3}").unwrap().count, 3);
    }

    #[test]
    fn an_unknown_field_is_named_with_its_place() {
        let error = parse::<Config>(b"{\n \"cuont\": 3}").unwrap_err();
        assert!(
            error.contains("unknown field `cuont`") && error.contains("line 2"),
            "{error}"
        );
    }

    #[test]
    fn ranges_and_headers_are_checked() {
        assert!(in_range("a", &5, &(1..=5)).is_ok());
        assert_eq!(
            in_range("a", &6, &(1..=5)).unwrap_err(),
            "a is 6, it may be 1 to 5"
        );
        for good in ["x-a", "server", "x_y"] {
            assert!(header_name("f", good).is_ok(), "{good}");
        }
        for bad in ["", "X-A", "a b", "a:", "content-length", ":path", "ä"] {
            assert!(header_name("f", bad).is_err(), "{bad}");
        }
        assert!(header_value("f", "a b\tü").is_ok());
        assert!(header_value("f", "a\r\nb: c").is_err());
    }
}
