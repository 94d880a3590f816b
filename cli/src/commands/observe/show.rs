//! Flows and heads as lines for people.

use std::fmt::Write as _;

use serde_json::Value;

/// Width of the caller and callee.
const EDGE: usize = 34;
/// Width of method and path.
const REQUEST: usize = 40;

/// One flow on one line.
pub(super) fn flow(record: &Value) -> String {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| record.get(name).and_then(Value::as_u64).unwrap_or(0);
    let direction = match text("direction") {
        "inbound" => "in",
        "outbound" => "out",
        other => other,
    };
    let edge = format!("{} → {}:{}", text("caller"), text("callee"), number("port"));
    let request = match text("method") {
        "" => text("protocol").to_owned(),
        method => format!("{method} {}", text("path")),
    };
    let status = match number("status") {
        0 => "-".to_owned(),
        status => status.to_string(),
    };
    let mut line = format!(
        "{}  {direction:<6}  {edge:<EDGE$}  {request:<REQUEST$}  {status:>3}  {:<14}  {:>9}",
        clock(text("time")),
        text("verdict"),
        took(number("duration_us")),
    );
    if number("retries") > 0 {
        let _ = write!(line, "  {} retries", number("retries"));
    }
    let policies = record.get("policies").and_then(Value::as_array);
    let policies = policies.into_iter().flatten().filter_map(Value::as_str);
    let why: Vec<&str> = Some(text("reason"))
        .into_iter()
        .chain(policies)
        .filter(|why| !why.is_empty())
        .collect();
    if !why.is_empty() {
        let _ = write!(line, "  {}", why.join(", "));
    }
    clean(line.trim_end())
}

/// `12:00:00.123` of an RFC 3339 time in UTC.
pub(in crate::commands) fn clock(time: &str) -> String {
    let clock = time
        .split_once('T')
        .map_or("", |(_, clock)| clock)
        .trim_end_matches('Z');
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let millis: String = fraction.chars().chain("000".chars()).take(3).collect();
    format!("{whole:<8}.{millis}")
}

fn took(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..1_000_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

/// What came over the network must not move the cursor of a terminal.
pub(in crate::commands) fn clean(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_flow_is_one_line() {
        let record = json!({
            "time": "2026-01-01T12:00:00.1234Z", "proxy": "inventory", "direction": "inbound", "caller": "orders",
            "callee": "inventory", "port": 7106, "protocol": "h2", "method": "GET", "path": "/v1/stock", "status": 403,
            "verdict": "denied", "reason": "policy-denied", "policies": ["no-night"], "duration_us": 1234, "bytes_sent": 0,
        });
        let line = flow(&record);
        assert!(
            line.starts_with("12:00:00.123  in      orders → inventory:7106 "),
            "{line}"
        );
        assert!(line.contains(" GET /v1/stock "), "{line}");
        assert!(
            line.ends_with("403  denied             1.2 ms  policy-denied, no-night"),
            "{line}"
        );
        let bytes = json!({ "time": "2026-01-01T12:00:00Z", "caller": "orders", "callee": "postgres", "port": 5432,
            "protocol": "tcp", "direction": "outbound", "verdict": "allowed", "duration_us": 2_500_000 });
        let line = flow(&bytes);
        assert!(
            line.contains("out     orders → postgres:5432") && line.contains("tcp"),
            "{line}"
        );
        assert!(line.ends_with("2.5 s"), "{line}");
    }

    #[test]
    fn attack_a_path_cannot_move_the_cursor() {
        let record =
            json!({ "time": "", "method": "GET", "path": "/\u{1b}[2J\r\n", "duration_us": 1 });
        assert!(!flow(&record).chars().any(char::is_control));
    }
}
