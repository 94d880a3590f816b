//! OpenMetrics' text format, without its last line: other metrics may follow.
//!
//! Owns: the names of families, and that no plugin's name can break a line. What plugins define keeps its own name in a
//! label, so that no two of them collide after mangling.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::metrics::defined::{BOUNDS, Metric, MetricKind};
use crate::metrics::{Buckets, CALLBACK_BOUNDS, PluginMetrics};

type Plugins = BTreeMap<Arc<str>, Arc<PluginMetrics>>;
type Read = fn(&PluginMetrics) -> u64;

const COUNTERS: [(&str, &str, Read); 16] = [
    ("streams_total", "Streams that it has seen.", |m| {
        m.streams.get()
    }),
    ("traps_total", "Instances lost to a trap.", |m| {
        m.traps.get()
    }),
    (
        "timeouts_total",
        "Instances lost to the processor-time limit.",
        |m| m.timeouts.get(),
    ),
    (
        "hostcall_floods_total",
        "Instances lost to the limit on host calls.",
        |m| m.floods.get(),
    ),
    (
        "exits_total",
        "Instances that have ended themselves.",
        |m| m.exits.get(),
    ),
    (
        "paused_too_long_total",
        "Streams that it has paused for too long.",
        |m| m.paused_too_long.get(),
    ),
    (
        "recreations_total",
        "Instances made in the place of a lost one.",
        |m| m.recreations.get(),
    ),
    (
        "unavailable_total",
        "Streams that met no configured instance.",
        |m| m.unavailable.get(),
    ),
    ("failed_open_total", "Streams passed on without it.", |m| {
        m.failed_open.get()
    }),
    (
        "failed_closed_total",
        "Streams refused because it failed.",
        |m| m.failed_closed.get(),
    ),
    (
        "refused_hostcalls_total",
        "Host calls beyond its capabilities.",
        |m| m.refused_hostcalls.get(),
    ),
    (
        "log_lines_dropped_total",
        "Log lines beyond its rate.",
        |m| m.log_lines_dropped.get(),
    ),
    (
        "local_responses_total",
        "Requests that it has answered itself.",
        |m| m.local_responses.get(),
    ),
    ("callouts_total", "Calls that it has made.", |m| {
        m.callouts.get()
    }),
    ("callouts_failed_total", "Calls without an answer.", |m| {
        m.callouts_failed.get()
    }),
    (
        "swaps_total",
        "Versions put in the place of another.",
        |m| m.swaps.get(),
    ),
];

pub(super) fn text(plugins: &Plugins) -> String {
    let mut out = String::new();
    for (name, help, read) in COUNTERS {
        family(&mut out, name, help, "counter");
        for (plugin, metrics) in plugins {
            line(&mut out, name, &[("plugin", plugin)], read(metrics));
        }
    }
    family(&mut out, "instances", "Instances that live.", "gauge");
    for (plugin, metrics) in plugins {
        let live = metrics.instances.load(Ordering::Relaxed);
        line(&mut out, "instances", &[("plugin", plugin)], live);
    }
    family(
        &mut out,
        "memory_bytes",
        "Linear memory of its instances.",
        "gauge",
    );
    for (plugin, metrics) in plugins {
        let bytes = metrics.memory.load(Ordering::Relaxed);
        line(&mut out, "memory_bytes", &[("plugin", plugin)], bytes);
    }
    starts(&mut out, plugins);
    let name = "callback_microseconds";
    family(&mut out, name, "Time of its callbacks.", "histogram");
    for (plugin, metrics) in plugins {
        let labels = [("plugin", &**plugin)];
        histogram(
            &mut out,
            name,
            &labels,
            &CALLBACK_BOUNDS,
            &metrics.callback_time.0,
        );
    }
    for (kind, name, word) in [
        (MetricKind::Counter, "counter_total", "counter"),
        (MetricKind::Gauge, "gauge", "gauge"),
        (MetricKind::Histogram, "histogram", "histogram"),
    ] {
        family(
            &mut out,
            name,
            "Kept by the plugin under the label `metric`.",
            word,
        );
        for (plugin, metrics) in plugins {
            metrics.defined.each(|metric| {
                if metric.kind == kind {
                    own(&mut out, name, plugin, metric);
                }
            });
        }
    }
    out
}

fn starts(out: &mut String, plugins: &Plugins) {
    let made = "Processor time in which instances were made, before any code of a plugin ran.";
    summary(out, plugins, "instantiation_seconds", made, |metrics| {
        metrics.instantiation_nanoseconds.get()
    });
    let configured = "Processor time in which instances were made and configured.";
    summary(out, plugins, "start_seconds", configured, |metrics| {
        metrics.start_nanoseconds.get()
    });
}

fn summary(
    out: &mut String,
    plugins: &Plugins,
    name: &str,
    help: &str,
    nanoseconds: impl Fn(&PluginMetrics) -> u64,
) {
    family(out, name, help, "summary");
    for (plugin, metrics) in plugins {
        let labels = [("plugin", &**plugin)];
        let seconds = Duration::from_nanos(nanoseconds(metrics)).as_secs_f64();
        line(out, &format!("{name}_sum"), &labels, seconds);
        line(out, &format!("{name}_count"), &labels, metrics.starts.get());
    }
}

fn own(out: &mut String, name: &str, plugin: &str, metric: &Metric) {
    let labels = [("plugin", plugin), ("metric", &*metric.name)];
    let value = metric.value.load(Ordering::Relaxed);
    match metric.kind {
        MetricKind::Counter => line(out, name, &labels, value),
        // A gauge below zero is kept in two's complement.
        MetricKind::Gauge => line(out, name, &labels, value.cast_signed()),
        MetricKind::Histogram => histogram(out, name, &labels, &BOUNDS, &metric.buckets),
    }
}

fn family(out: &mut String, name: &str, help: &str, kind: &str) {
    // A counter's family is named without the suffix of its samples (OpenMetrics 1.0 §"Counter").
    let name = name.strip_suffix("_total").unwrap_or(name);
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "# HELP ringwall_plugin_{name} {help}\n# TYPE ringwall_plugin_{name} {kind}"
    );
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    let _ = write!(out, "ringwall_plugin_{name}{{");
    for (place, (label, text)) in labels.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let _ = write!(out, "{comma}{label}=\"");
        for character in text.chars() {
            match character {
                '"' | '\\' => out.extend(['\\', character]),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    let _ = writeln!(out, "}} {value}");
}

fn histogram<const N: usize>(
    out: &mut String,
    name: &str,
    labels: &[(&str, &str)],
    bounds: &[u64; N],
    buckets: &Buckets<N>,
) {
    let bucket = format!("{name}_bucket");
    let mut total = 0;
    for (bound, count) in bounds.iter().zip(&buckets.counts) {
        total += count.load(Ordering::Relaxed);
        let bound = bound.to_string();
        let labels = [labels, &[("le", &bound)]].concat();
        line(out, &bucket, &labels, total);
    }
    total += buckets.above.load(Ordering::Relaxed);
    line(out, &bucket, &[labels, &[("le", "+Inf")]].concat(), total);
    line(
        out,
        &format!("{name}_sum"),
        labels,
        buckets.sum.load(Ordering::Relaxed),
    );
    line(out, &format!("{name}_count"), labels, total);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn r90_metrics_are_shown_and_no_name_breaks_a_line() {
        let metrics = Arc::new(PluginMetrics::default());
        metrics.callback(Duration::from_nanos(1500));
        metrics.callback(Duration::from_secs(1));
        metrics.traps.add(3);
        let id = metrics
            .defined
            .define(MetricKind::Gauge, b"a\"b\nc", 9)
            .unwrap();
        metrics.defined.increment(id, -4).unwrap();
        let shown = text(&[(Arc::from("p"), metrics)].into());
        for expected in [
            "ringwall_plugin_traps_total{plugin=\"p\"} 3\n",
            "ringwall_plugin_callback_microseconds_bucket{plugin=\"p\",le=\"1\"} 0\n",
            "ringwall_plugin_callback_microseconds_bucket{plugin=\"p\",le=\"2\"} 1\n",
            "ringwall_plugin_callback_microseconds_count{plugin=\"p\"} 2\n",
            "ringwall_plugin_gauge{plugin=\"p\",metric=\"a\\\"b\\nc\"} -4\n",
        ] {
            assert!(shown.contains(expected), "{expected} in {shown}");
        }
    }
}
