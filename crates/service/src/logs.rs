//! Log lines: one event, one line, always with the trace id of the request that it belongs to.
//!
//! Owns: the format. JSON goes to stdout for collectors, pretty to stderr for people. Spans cost
//! nothing here: only events are formatted.
//! Must not: filter secrets out; they must never be given to an event.

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
};

use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, ParseError, Targets, filter_fn},
    layer::{Context, Filter},
};

use crate::config::{LogFormat, LogsConfig};

/// Libraries that are silent unless named: what they warn about, the shell reports in its own words.
const QUIET: [&str; 5] = ["hyper", "hyper_util", "h2", "rustls", "opentelemetry"];

/// Levels by target, from the configured text.
pub(crate) fn filter(level: &str) -> Result<Targets, ParseError> {
    let mut targets: Targets = level.parse()?;
    for library in QUIET {
        if !level.contains(library) {
            targets = targets.with_target(library, LevelFilter::OFF);
        }
    }
    Ok(targets)
}

/// Filter of the log layer: events only, so that disabled spans stay free of cost.
pub(crate) fn events<S: Subscriber>(targets: Targets) -> impl Filter<S> {
    // Without a hint of its own it would hide that of the targets, and every library would trace.
    let events = filter_fn(|metadata| metadata.is_event()).with_max_level_hint(LevelFilter::TRACE);
    FilterExt::and(targets, events)
}

/// Writes events as lines.
pub(crate) struct LogLayer {
    component: String,
    format: LogFormat,
}

impl LogLayer {
    pub(crate) fn new(component: &str, config: &LogsConfig) -> Self {
        Self {
            component: component.to_owned(),
            format: config.format,
        }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let now = OffsetDateTime::now_utc();
        // A log line that cannot be written has nowhere to be reported.
        let _written = match self.format {
            LogFormat::Json => {
                let line = json_line(&self.component, now, event);
                io::stdout().lock().write_all(line.as_bytes())
            }
            LogFormat::Pretty => {
                let line = pretty_line(&self.component, now, event);
                io::stderr().lock().write_all(line.as_bytes())
            }
        };
    }
}

fn json_line(component: &str, now: OffsetDateTime, event: &Event<'_>) -> String {
    let mut fields = JsonFields(Map::new());
    fields.0.insert("timestamp".into(), timestamp(now).into());
    fields
        .0
        .insert("level".into(), event.metadata().level().as_str().into());
    fields.0.insert("component".into(), component.into());
    fields
        .0
        .insert("target".into(), event.metadata().target().into());
    if let Some((trace, span)) = current_ids() {
        fields.0.insert("trace_id".into(), trace.into());
        fields.0.insert("span_id".into(), span.into());
    }
    event.record(&mut fields);
    let mut line = Value::Object(fields.0).to_string();
    line.push('\n');
    line
}

fn pretty_line(component: &str, now: OffsetDateTime, event: &Event<'_>) -> String {
    let mut fields = PrettyFields::default();
    event.record(&mut fields);
    let level = match *event.metadata().level() {
        Level::ERROR => "\x1b[31mERROR\x1b[0m",
        Level::WARN => "\x1b[33m WARN\x1b[0m",
        Level::INFO => "\x1b[32m INFO\x1b[0m",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    };
    let trace = current_ids()
        .map(|(trace, _)| format!(" trace_id={trace}"))
        .unwrap_or_default();
    let time = timestamp(now);
    format!(
        "{time} {level} {component}: {}{}{trace}\n",
        fields.message, fields.rest
    )
}

fn timestamp(now: OffsetDateTime) -> String {
    now.format(&Rfc3339)
        .expect("a UTC time of our era has an RFC 3339 form")
}

/// Trace and span id of the request that this thread works on.
fn current_ids() -> Option<(String, String)> {
    opentelemetry::Context::map_current(|context| {
        let span = context.span();
        let ids = span.span_context();
        ids.is_valid()
            .then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
    })
}

struct JsonFields(Map<String, Value>);

impl JsonFields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[derive(Default)]
struct PrettyFields {
    message: String,
    rest: String,
}

impl Visit for PrettyFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = if field.name() == "message" {
            &mut self.message
        } else {
            &mut self.rest
        };
        // Control characters would let a value forge further lines.
        let value: String = format!("{value:?}").escape_controls();
        let _infallible = if field.name() == "message" {
            text.write_str(&value)
        } else {
            write!(text, " {}={value}", field.name())
        };
    }
}

trait EscapeControls {
    fn escape_controls(self) -> String;
}

impl EscapeControls for String {
    fn escape_controls(self) -> String {
        if !self.contains(char::is_control) {
            return self;
        }
        self.chars()
            .flat_map(|c| {
                let escaped = c.is_control().then(|| c.escape_default());
                let plain = (!c.is_control()).then_some(c);
                escaped.into_iter().flatten().chain(plain)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    struct Capture(Arc<Mutex<Vec<String>>>, LogFormat);

    impl<S: Subscriber> Layer<S> for Capture {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let now = OffsetDateTime::UNIX_EPOCH;
            self.0.lock().unwrap().push(match self.1 {
                LogFormat::Json => json_line("orders", now, event),
                LogFormat::Pretty => pretty_line("orders", now, event),
            });
        }
    }

    fn lines(format: LogFormat, log: impl FnOnce()) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let layer = Capture(lines.clone(), format).with_filter(events(filter("info").unwrap()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        Arc::try_unwrap(lines).unwrap().into_inner().unwrap()
    }

    #[test]
    fn a_json_line_is_one_object_with_typed_fields() {
        let lines = lines(LogFormat::Json, || {
            tracing::info!(status = 201_u64, ok = true, route = "/v1/x\n", "served");
            tracing::debug!("not shown");
        });
        assert_eq!(lines.len(), 1);
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["timestamp"], "1970-01-01T00:00:00Z");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["component"], "orders");
        assert_eq!(line["message"], "served");
        assert_eq!((&line["status"], &line["ok"]), (&201.into(), &true.into()));
        assert_eq!(lines[0].matches('\n').count(), 1);
    }

    #[test]
    fn a_pretty_line_cannot_be_forged_by_a_value() {
        let lines = lines(LogFormat::Pretty, || {
            tracing::warn!(path = "/a\n1970 ERROR orders: forged", "refused");
        });
        assert_eq!(lines[0].matches('\n').count(), 1, "{lines:?}");
        assert!(
            lines[0].contains("orders: refused path=/a\\n1970 ERROR"),
            "{lines:?}"
        );
    }

    #[test]
    fn libraries_are_quiet_unless_named() {
        let quiet = filter("debug").unwrap();
        assert!(!quiet.would_enable("hyper::proto", &Level::ERROR));
        assert!(quiet.would_enable("ringwall_orders", &Level::DEBUG));
        assert!(
            filter("info,hyper=debug")
                .unwrap()
                .would_enable("hyper", &Level::DEBUG)
        );
        assert!(filter("info,x=loud").is_err());
    }
}
