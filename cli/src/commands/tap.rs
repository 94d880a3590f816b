//! `ringwall tap`: heads of requests to and from one service and of their responses, as its proxy shows them.
//!
//! Owns: the limits that are asked for; the proxy has limits of its own, hides secrets before anything leaves it, and writes
//! down who asked. Must not: show more than it is given.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::sync::mpsc;

use super::observe::stream::{self, News, Query};
use super::observe::{ProxyArgs, Tally, clean, clock};
use super::{StateArgs, runtime};
use crate::error::CliError;
use crate::output::{Format, print, say};

#[derive(Args, Clone, Debug)]
pub(super) struct TapArgs {
    /// The service whose proxy is asked
    service: String,
    #[command(flatten)]
    state: StateArgs,
    /// Requests at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    max: u32,
    /// Time at most, such as 30s or 2m; ten minutes at the longest
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = seconds)]
    time: Duration,
    /// Only requests of this caller
    #[arg(long, value_name = "NAME")]
    caller: Option<String>,
    /// Only requests to this service
    #[arg(long, value_name = "NAME")]
    callee: Option<String>,
    /// Only this method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only paths that begin so
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    #[command(flatten)]
    proxies: ProxyArgs,
    /// For people, or one JSON object a line
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Shows heads until there were enough, or the time is over.
pub(super) fn run(args: &TapArgs) -> Result<ExitCode, CliError> {
    let (proxies, prober) = args.proxies.find(&args.state.open()?)?;
    let names: Vec<String> = proxies.iter().map(|proxy| proxy.name.clone()).collect();
    let Some(proxy) = proxies.into_iter().find(|proxy| proxy.name == args.service) else {
        return Err(CliError::State {
            what: format!("there is no proxy of `{}`", args.service),
            fix: format!("name one of {}", names.join(", ")),
        });
    };
    let query = Query::new("/tap")
        .with("max", Some(&args.max.to_string()))
        .with("seconds", Some(&args.time.as_secs().to_string()))
        .with("caller", args.caller.as_deref())
        .with("callee", args.callee.as_deref())
        .with("method", args.method.as_deref())
        .with("path", args.path.as_deref());
    say(&format!(
        "tapping {}: {} requests or {} s at most; the proxy's log says who asked",
        args.service,
        args.max,
        args.time.as_secs()
    ));
    runtime()?.block_on(async {
        let (sender, mut news) = mpsc::channel(64);
        tokio::spawn(stream::follow(proxy, prober, query, false, sender));
        let mut tally = Tally::default();
        let mut requests = 0_u32;
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            let next = tokio::select! {
                _ = &mut interrupted => break,
                next = news.recv() => next,
            };
            match next {
                None => break,
                Some(News::Record(head)) => {
                    requests += u32::from(head.get("message") == Some(&"request".into()));
                    match args.output {
                        Format::Json => print(&head.to_string())?,
                        Format::Text => print(&show(&head))?,
                    }
                }
                Some(News::NoProxy) => tally.note(
                    News::Silent(args.service.clone(), "it is no proxy".into()),
                    false,
                ),
                Some(other) => tally.note(other, false),
            }
        }
        say(&format!("{requests} requests were shown"));
        tally.finish(true)
    })
}

/// A head on several lines.
fn show(head: &Value) -> String {
    let text = |name: &str| head.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| head.get(name).and_then(Value::as_u64).unwrap_or(0);
    let time = clock(text("time"));
    let exchange = number("exchange");
    let mut lines = vec![match text("message") {
        "request" => format!(
            "{time}  #{exchange} → {} {}  ({} → {}:{})",
            text("method"),
            text("target"),
            text("caller"),
            text("callee"),
            number("port")
        ),
        _ => format!("{time}  #{exchange} ← {}", number("status")),
    }];
    let headers = head.get("headers").and_then(Value::as_object);
    for (name, value) in headers.into_iter().flatten() {
        let values = match value {
            Value::Array(list) => list.clone(),
            other => vec![other.clone()],
        };
        let values = values
            .iter()
            .map(|value| value.as_str().unwrap_or_default().to_owned());
        lines.extend(values.map(|value| format!("    {name}: {value}")));
    }
    let lines: Vec<String> = lines.iter().map(|line| clean(line)).collect();
    lines.join("\n")
}

/// `30s` or `2m`.
fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time from 1s to 10m");
    let (digits, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        _ => return Err(wrong()),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    match count.checked_mul(factor) {
        Some(seconds @ 1..=600) => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_a_unit_and_a_limit() {
        assert_eq!(seconds("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(seconds("2m"), Ok(Duration::from_secs(120)));
        for wrong in [
            "",
            "s",
            "30",
            "0s",
            "11m",
            "-1s",
            "1h",
            "9999999999999999999m",
            "é",
        ] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn heads_are_shown_with_every_value() {
        let head = json!({ "message": "request", "time": "2026-01-01T12:00:00.5Z", "exchange": 3, "method": "GET",
            "target": "/v1", "caller": "orders", "callee": "inventory", "port": 7106,
            "headers": { "accept": ["a", "b"], "authorization": "[redacted 9 bytes]" } });
        assert_eq!(
            show(&head),
            "12:00:00.500  #3 → GET /v1  (orders → inventory:7106)\n    accept: a\n    accept: b\n    authorization: [redacted 9 bytes]"
        );
        let head = json!({ "message": "response", "time": "2026-01-01T12:00:01Z", "exchange": 3, "status": 200,
            "headers": { "x": "\u{1b}[2J" } });
        assert_eq!(show(&head), "12:00:01.000  #3 ← 200\n    x: \u{fffd}[2J");
    }
}
