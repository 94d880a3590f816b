//! What a failed scenario shows beside its own words: the trace of its last order, what the
//! components in question logged meanwhile, and where screenshots are.
//!
//! Owns: the memory of the orders that the scenario on this thread has placed. A scenario runs on
//! one thread, so its memory is the thread's.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use url::Url;

use crate::options;
use crate::stack::{LogMark, StackInfo};

/// Last log lines of each component.
const LINES: usize = 25;
/// Spans are exported in batches; a failure is worth the wait for the last one.
const EXPORT: Duration = Duration::from_secs(3);

thread_local! {
    static LAST: RefCell<Option<Entry>> = const { RefCell::new(None) };
}

/// An order's trace, and who may look at it.
#[derive(Clone)]
struct Entry {
    client: reqwest::Client,
    app: Url,
    trace: String,
}

/// A new trace, and its `traceparent` (W3C Trace Context §3.2) for the request that begins it.
pub(crate) fn begin(client: &reqwest::Client, app: &Url) -> String {
    let trace = uuid::Uuid::new_v4().simple().to_string();
    let span = uuid::Uuid::new_v4().simple().to_string();
    let entry = Entry {
        client: client.clone(),
        app: app.clone(),
        trace: trace.clone(),
    };
    LAST.with(|last| last.replace(Some(entry)));
    let span = span.get(..16).unwrap_or(&span);
    format!("00-{trace}-{span}-01")
}

/// Forgets what the scenario before has placed on this thread.
pub fn forget() {
    LAST.with(|last| last.replace(None));
}

/// Everything that helps to understand a failure.
pub async fn of_failure(stack: &StackInfo, needs: &[&str], since: &LogMark) -> String {
    let mut report = String::new();
    let last = LAST.with(|last| last.borrow().clone());
    if let Some(entry) = last {
        report.push_str(&trace(stack, &entry).await);
    }
    let proxies = needs.iter().map(|component| format!("{component}-proxy"));
    let proxies = proxies.filter(|proxy| stack.component(proxy).is_ok());
    let own = needs.iter().map(|&component| component.to_owned());
    for component in &own.chain(proxies).collect::<Vec<_>>() {
        let log = stack.log_since(component, since);
        let log = log.unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<&str> = log.lines().rev().take(LINES).collect();
        let _ = writeln!(report, "--- log of {component}, last {} lines", lines.len());
        for line in lines.into_iter().rev() {
            report.push_str(line);
            report.push('\n');
        }
    }
    if let Some(folder) = options::screenshots() {
        let _ = writeln!(report, "screenshots: {}", folder.display());
    }
    report
}

/// The spans as spa-proxy knows them; where it does not answer, the lines that carry the trace's id.
async fn trace(stack: &StackInfo, entry: &Entry) -> String {
    tokio::time::sleep(EXPORT).await;
    let mut text = format!("--- trace {} of the last order\n", entry.trace);
    match spans(entry).await {
        Ok(spans) => {
            tree(&spans, &Value::Null, 0, &mut text);
            return text;
        }
        Err(error) => {
            let _ = writeln!(text, "(no spans from spa-proxy: {error:#})");
        }
    }
    for component in stack.components().unwrap_or_default() {
        let log = stack.log(&component.name).unwrap_or_default();
        for line in log.lines().filter(|line| line.contains(&entry.trace)) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

async fn spans(entry: &Entry) -> Result<Vec<Value>> {
    let url = entry.app.join(&format!("/api/traces/{}", entry.trace))?;
    let request = entry.client.get(url).timeout(EXPORT).send().await?;
    let body: Value = request.error_for_status()?.json().await?;
    let mut spans = body["spans"].as_array().cloned().context("no spans")?;
    spans.sort_by_key(|span| span["start_us"].as_u64());
    Ok(spans)
}

/// The children of `parent`, each with its own; spans without a known parent are roots.
fn tree(spans: &[Value], parent: &Value, depth: usize, text: &mut String) {
    for span in spans {
        let known = spans.iter().any(|other| other["id"] == span["parent"]);
        let is_child = if parent.is_null() {
            !known
        } else {
            span["parent"] == *parent
        };
        if is_child {
            let _ = writeln!(
                text,
                "{:indent$}{} · {} · {:.1} ms · {}",
                "",
                span["service"].as_str().unwrap_or("?"),
                span["name"].as_str().unwrap_or("?"),
                span["duration_us"].as_f64().unwrap_or(0.0) / 1000.0,
                span["status"].as_str().unwrap_or("?"),
                indent = depth * 2
            );
            if depth < spans.len() {
                tree(spans, &span["id"], depth + 1, text);
            }
        }
    }
}
