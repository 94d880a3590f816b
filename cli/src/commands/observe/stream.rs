//! One proxy's stream of JSON lines, over mTLS as the operator.
//!
//! Owns: the connection and its repetition, the limit of a line, and the meaning of the lines that are no records. Must
//! not: print.

use std::time::Duration;

use ringwall_http_io::{Address, Client, Transport, body};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::probe::Prober;

/// Longest line, in bytes: the head of a message with many fields.
const MAX_LINE: usize = 512 * 1024;
/// Longest problem document that is quoted.
const MAX_PROBLEM: usize = 4096;
/// A proxy says something at least every ten seconds.
const SILENCE: Duration = Duration::from_secs(30);
/// Between two attempts to reach a proxy.
const PAUSE: Duration = Duration::from_secs(1);

/// Where one proxy is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Proxy {
    /// For people: the workload.
    pub(in crate::commands) name: String,
    /// Who must answer.
    pub(in crate::commands) identity: String,
    pub(in crate::commands) admin: Address,
}

/// What a stream brings.
#[derive(Debug, PartialEq)]
pub(in crate::commands) enum News {
    Record(Value),
    /// The proxy has begun to answer.
    Answers(String),
    /// It does not, and why.
    Silent(String, String),
    /// So many records were lost.
    Lost(String, u64),
    /// This component has no flows to show: it is no proxy.
    NoProxy,
}

/// A path with its parameters.
#[derive(Clone, Debug)]
pub(in crate::commands) struct Query(String);

impl Query {
    pub(in crate::commands) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// Adds a parameter, if it has a value.
    pub(in crate::commands) fn with(mut self, name: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.0.push(if self.0.contains('?') { '&' } else { '?' });
            self.0.push_str(name);
            self.0.push('=');
            for byte in value.bytes() {
                // RFC 3986 §2.3: these stand for themselves.
                if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                    self.0.push(char::from(byte));
                } else {
                    self.0.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        self
    }
}

/// Brings news of `proxy` until its stream ends; with `again`, for ever.
pub(in crate::commands) async fn follow(
    proxy: Proxy,
    prober: Prober,
    query: Query,
    again: bool,
    news: mpsc::Sender<News>,
) {
    loop {
        let ended = match prober.client(&proxy.identity, &proxy.admin) {
            Ok(client) => once(&proxy, &client, &query, &news).await,
            Err(why) => Err(End::Failed(why)),
        };
        let next = match ended {
            Ok(()) if again => None,
            Ok(()) => return,
            Err(End::NobodyListens) => return,
            Err(End::NoProxy) => {
                let _nobody = news.send(News::NoProxy).await;
                return;
            }
            Err(End::Failed(why)) => Some(News::Silent(proxy.name.clone(), why)),
        };
        if let Some(next) = next
            && news.send(next).await.is_err()
        {
            return;
        }
        if !again {
            return;
        }
        sleep(PAUSE).await;
        // The operator's certificate is renewed while we watch.
        let _last_good = prober.reload();
    }
}

/// Why a stream ended early.
enum End {
    NoProxy,
    NobodyListens,
    Failed(String),
}

async fn once(
    proxy: &Proxy,
    client: &Client,
    query: &Query,
    news: &mpsc::Sender<News>,
) -> Result<(), End> {
    let failed = |error: &dyn std::fmt::Display| End::Failed(error.to_string());
    let request = http::Request::get(query.0.as_str())
        .header("host", &proxy.name)
        .body(body::empty())
        .map_err(|error| failed(&error))?;
    let response = client.send(request).await.map_err(|error| failed(&error))?;
    let status = response.status();
    if status == http::StatusCode::NOT_FOUND {
        return Err(End::NoProxy);
    }
    if !status.is_success() {
        let text = body::collect(response.into_body(), MAX_PROBLEM)
            .await
            .unwrap_or_default();
        let problem: Value = serde_json::from_slice(&text).unwrap_or_default();
        let detail = problem
            .get("detail")
            .and_then(Value::as_str)
            .unwrap_or_default();
        return Err(End::Failed(
            format!("answers {status}: {detail}")
                .trim_end_matches(": ")
                .to_owned(),
        ));
    }
    tell(news, News::Answers(proxy.name.clone())).await?;
    let mut lines = Lines::default();
    let mut body = response.into_body();
    loop {
        let frame = match timeout(SILENCE, frame(&mut body)).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(failed(&error)),
            Ok(None) => return Ok(()),
            Err(_elapsed) => {
                return Err(End::Failed(format!(
                    "says nothing for {} s",
                    SILENCE.as_secs()
                )));
            }
        };
        lines.push(&frame).map_err(End::Failed)?;
        while let Some(line) = lines.next() {
            if let Some(next) = meaning(&proxy.name, &line) {
                tell(news, next).await?;
            }
        }
    }
}

async fn tell(news: &mpsc::Sender<News>, next: News) -> Result<(), End> {
    news.send(next).await.map_err(|_| End::NobodyListens)
}

async fn frame(
    body: &mut hyper::body::Incoming,
) -> Option<Result<hyper::body::Bytes, hyper::Error>> {
    loop {
        let frame = std::future::poll_fn(|cx| {
            hyper::body::Body::poll_frame(std::pin::Pin::new(&mut *body), cx)
        });
        match frame.await? {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
            Err(error) => return Some(Err(error)),
        }
    }
}

/// What one line says; nothing for a heartbeat.
fn meaning(name: &str, line: &[u8]) -> Option<News> {
    let value: Value = serde_json::from_slice(line).ok()?;
    match value.get("lost").and_then(Value::as_u64) {
        Some(lost) => Some(News::Lost(name.to_owned(), lost)),
        None => Some(News::Record(value)),
    }
}

/// Bytes to lines.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    /// No line ends before this.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.bytes.extend_from_slice(bytes);
        let unfinished = self.bytes.len()
            - self
                .bytes
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
        if unfinished > MAX_LINE {
            return Err("sends a line that is too long".to_owned());
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let rest = self.bytes.get(self.searched..)?;
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let end = self.searched + end;
        let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
        line.pop();
        self.searched = 0;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_wherever_the_frames_end() {
        let text = b"{\"a\":1}\n\n{\"lost\":3}\n{\"b\":2}\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(chunk).unwrap();
                while let Some(line) = lines.next() {
                    found.extend(meaning("orders", &line));
                }
            }
            let expected = [
                News::Record(serde_json::json!({ "a": 1 })),
                News::Lost("orders".into(), 3),
                News::Record(serde_json::json!({ "b": 2 })),
            ];
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; MAX_LINE]).is_ok());
        assert!(lines.push(b"x").is_err());
    }

    #[test]
    fn parameters_are_escaped() {
        let query = Query::new("/observe")
            .with("caller", Some("orders"))
            .with("verdict", None)
            .with("path", Some("/v1/a b&c=d"));
        assert_eq!(query.0, "/observe?caller=orders&path=/v1/a%20b%26c%3Dd");
    }
}
