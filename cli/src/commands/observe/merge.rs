//! Records of many proxies in the order in which things ended.
//!
//! Owns: the time that a record waits for older ones of slower proxies. Must not: read a clock.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

/// How long a record waits for others, live.
pub(super) const WINDOW: Duration = Duration::from_millis(250);
/// Records that wait at most.
const MAX_HELD: usize = 100_000;

/// Sorts.
pub(super) struct Merge {
    window: Duration,
    /// By the end of the flow in nanoseconds, and the order of arrival.
    held: BTreeMap<(i128, u64), (Instant, Value)>,
    arrived: u64,
}

impl Merge {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            held: BTreeMap::new(),
            arrived: 0,
        }
    }

    pub(super) fn push(&mut self, record: Value, now: Instant) {
        self.arrived += 1;
        self.held
            .insert((end_of(&record), self.arrived), (now, record));
    }

    /// When there may be something to show.
    pub(super) fn due(&self) -> Option<Instant> {
        let oldest = self.held.values().map(|(at, _)| *at).min()?;
        oldest.checked_add(self.window)
    }

    /// What has waited long enough, oldest first, with what is older than it.
    pub(super) fn ready(&mut self, now: Instant) -> Vec<Value> {
        let crowded = self.held.len() > MAX_HELD;
        let waited = |at: &Instant| crowded || now.saturating_duration_since(*at) >= self.window;
        let last = self.held.iter().rev().find(|(_, (at, _))| waited(at));
        let Some(last) = last.map(|(key, _)| *key) else {
            return Vec::new();
        };
        let rest = self.held.split_off(&(last.0, last.1 + 1));
        let ready = std::mem::replace(&mut self.held, rest);
        ready.into_values().map(|(_, record)| record).collect()
    }

    /// Everything that still waits.
    pub(super) fn rest(self) -> Vec<Value> {
        self.held.into_values().map(|(_, record)| record).collect()
    }
}

/// A flow is recorded when it ends; `time` is when it began.
fn end_of(record: &Value) -> i128 {
    let began = record
        .get("time")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let began =
        OffsetDateTime::parse(began, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp_nanos);
    let took = record
        .get("duration_us")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    began + i128::from(took) * 1000
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(second: u32, micros: u64, name: &str) -> Value {
        json!({ "time": format!("2026-01-01T00:00:{second:02}Z"), "duration_us": micros, "name": name })
    }

    fn names(records: Vec<Value>) -> Vec<String> {
        records
            .iter()
            .map(|record| record["name"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn records_are_shown_in_the_order_of_their_ends() {
        let now = Instant::now();
        let mut merge = Merge::new(WINDOW);
        merge.push(record(5, 0, "five"), now);
        merge.push(record(3, 0, "three"), now + WINDOW / 2);
        merge.push(
            record(1, 3_500_000, "one, four and a half long"),
            now + WINDOW / 2,
        );
        assert!(
            names(merge.ready(now)).is_empty(),
            "others may be on their way"
        );
        assert_eq!(merge.due(), Some(now + WINDOW));
        let shown = names(merge.ready(now + WINDOW));
        assert_eq!(shown, ["three", "one, four and a half long", "five"]);
        merge.push(record(7, 0, "seven"), now + WINDOW);
        merge.push(record(6, 0, "six"), now + WINDOW);
        assert_eq!(names(merge.rest()), ["six", "seven"]);
    }

    #[test]
    fn without_a_window_all_waits_for_the_end() {
        let now = Instant::now();
        let mut merge = Merge::new(Duration::MAX);
        merge.push(record(2, 0, "two"), now);
        merge.push(record(1, 0, "one"), now);
        assert_eq!(merge.due(), None);
        assert!(merge.ready(now + Duration::from_secs(3600)).is_empty());
        assert_eq!(names(merge.rest()), ["one", "two"]);
    }
}
