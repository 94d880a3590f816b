//! `ringwall plugin inspect`: what is in a module, whether the host runs it, and what it asks for.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ringwall_plugin_host::{
    Error, Inspection, Module, Producer, Runtime, RuntimeOptions, Verification,
};
use serde_json::{Value, json};

use super::project::ModuleFile;
use super::shown::bytes;
use crate::commands::print_json;
use crate::error::CliError;
use crate::output::{Format, print};

#[derive(Args, Clone, Debug)]
pub(super) struct InspectArgs {
    /// The module
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(args: &InspectArgs) -> Result<ExitCode, CliError> {
    let file = ModuleFile::read(&args.file)?;
    let runtime = engine()?;
    let inspection = Module::inspect_bytes(&runtime, &file.bytes);
    let inspection = inspection.map_err(|error| CliError::Plugin {
        what: format!("{} is no WebAssembly module that can be read: {error}", file.path.display()),
        fix: "name a file that `ringwall plugin build` or another compiler has made for wasm32 (a component is none)".into(),
    })?;
    let producers = Module::producers(&file.bytes);
    // Whether it would be taken is the loader's word alone.
    let obstacle = Module::load(&runtime, &file.bytes, &Verification::none()).err();
    let declare = declare(&inspection);
    match args.output {
        Format::Json => print_json(&as_json(
            &file,
            &inspection,
            &producers,
            obstacle.as_ref(),
            &declare,
        ))?,
        Format::Text => print(&as_text(
            &file,
            &inspection,
            &producers,
            obstacle.as_ref(),
            &declare,
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn engine() -> Result<Runtime, CliError> {
    Runtime::new(RuntimeOptions::default())
        .map_err(|error| CliError::internal("starting the engine", error))
}

/// A capability as it would be declared, and the imports or exports that ask for it.
struct Declared {
    key: &'static str,
    value: &'static str,
    because: String,
}

/// Which functions ask for which capability, in which form. Names are known to the author alone.
#[rustfmt::skip]
const ASKED_BY: &[(&str, &str, &[&str])] = &[
    ("read_headers", "[NAMES]", &["proxy_get_header_map_value", "proxy_get_header_map_pairs"]),
    ("write_headers", "[NAMES]", &["proxy_add_header_map_value", "proxy_replace_header_map_value", "proxy_remove_header_map_value", "proxy_set_header_map_pairs"]),
    ("body", "read", &["proxy_on_request_body", "proxy_on_response_body"]),
    ("stream_data", "read", &["proxy_on_downstream_data", "proxy_on_upstream_data"]),
    ("local_response", "true", &["proxy_send_local_response"]),
    ("clusters", "[NAMES]", &["proxy_http_call", "proxy_grpc_call", "proxy_grpc_stream"]),
    ("shared_data", "[KEYS]", &["proxy_get_shared_data", "proxy_set_shared_data"]),
    ("queues", "[NAMES]", &["proxy_register_shared_queue", "proxy_resolve_shared_queue"]),
    ("read_properties", "[PATHS]", &["proxy_get_property"]),
    ("write_properties", "[PATHS]", &["proxy_set_property"]),
    ("foreign_functions", "[NAMES]", &["proxy_call_foreign_function"]),
];
/// What makes `read` of bytes a `write`.
const CHANGES: &str = "proxy_set_buffer_bytes";

/// Capabilities that the imports and exports make likely.
fn declare(inspection: &Inspection) -> Vec<Declared> {
    let has = |name: &str| {
        let mut imports = inspection.imports.iter();
        let mut exports = inspection.exports.iter();
        imports.any(|(_, import, _)| import == name) || exports.any(|(export, _)| export == name)
    };
    let rows = ASKED_BY.iter().filter_map(|&(key, value, names)| {
        let mut found: Vec<&str> = names.iter().copied().filter(|name| has(name)).collect();
        let is_asked = !found.is_empty();
        let mut value = value;
        if value == "read" && has(CHANGES) {
            value = "write";
            found.push(CHANGES);
        }
        is_asked.then(|| Declared {
            key,
            value,
            because: found.join(", "),
        })
    });
    rows.collect()
}

fn as_json(
    file: &ModuleFile,
    inspection: &Inspection,
    producers: &[Producer],
    obstacle: Option<&Error>,
    declare: &[Declared],
) -> Value {
    let imports = inspection.imports.iter();
    let imports: Vec<Value> = imports
        .map(|(module, name, kind)| json!({ "module": module, "name": name, "type": kind }))
        .collect();
    let exports = inspection.exports.iter();
    let exports: Vec<Value> = exports
        .map(|(name, kind)| json!({ "name": name, "type": kind }))
        .collect();
    let producers: Vec<Value> = producers
        .iter()
        .map(|producer| json!({ "field": producer.field, "name": producer.name, "version": producer.version }))
        .collect();
    let declare: Vec<Value> = declare
        .iter()
        .map(|row| json!({ "capability": row.key, "form": row.value, "because": row.because }))
        .collect();
    json!({
        "module": file.path.display().to_string(),
        "size": inspection.size,
        "sha256": inspection.digest,
        "abi": inspection.abi.map(|abi| abi.as_str()),
        "abi_markers": inspection.abi_markers,
        "runs": obstacle.is_none(),
        "obstacle": obstacle.map(ToString::to_string),
        "producers": producers,
        "memory": inspection.memory.map(|(least, most)| json!({ "bytes": least, "maximum_bytes": most })),
        "imports": imports,
        "exports": exports,
        "capabilities_at_most": declare,
    })
}

fn as_text(
    file: &ModuleFile,
    inspection: &Inspection,
    producers: &[Producer],
    obstacle: Option<&Error>,
    declare: &[Declared],
) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<9} {value}");
    };
    row("module", &file.path.display().to_string());
    row(
        "size",
        &format!("{} ({})", bytes(inspection.size as u64), inspection.size),
    );
    row("sha256", &inspection.digest);
    row("abi", &abi(inspection));
    match obstacle {
        None => row("runs", "yes"),
        Some(error) => row("runs", &format!("no: {error}")),
    }
    if producers.is_empty() {
        row("made by", "it does not say");
    }
    for producer in producers {
        let said = format!("{} {}", producer.name, producer.version);
        row(
            "made by",
            &format!("{} ({})", said.trim(), producer.field)
                .escape_debug()
                .to_string(),
        );
    }
    let memory = inspection.memory.map(|(least, most)| {
        let most = most.map_or_else(
            || "no limit of its own".to_owned(),
            |most| format!("{} at most", bytes(most)),
        );
        format!("{} at its start, {most}", bytes(least))
    });
    row("memory", memory.as_deref().unwrap_or("none"));
    for (module, name, kind) in &inspection.imports {
        row(
            "imports",
            &format!("{module}.{name} {kind}").escape_debug().to_string(),
        );
    }
    for (name, kind) in &inspection.exports {
        row(
            "exports",
            &format!("{name} {kind}").escape_debug().to_string(),
        );
    }
    text.push_str("\nTo declare at most, as its imports say; an SDK imports what is never called, and\n`ringwall plugin test` shows what is:\ncapabilities:\n");
    for Declared {
        key,
        value,
        because,
    } in declare
    {
        let _ = writeln!(text, "  {:<28} # {because}", format!("{key}: {value}"));
    }
    if declare.is_empty() {
        text.push_str("  {}\n");
    }
    text.truncate(text.trim_end().len());
    text
}

fn abi(inspection: &Inspection) -> String {
    let markers = inspection.abi_markers.join(", ").escape_debug().to_string();
    match inspection.abi {
        Some(abi) if markers == abi.as_str() => markers,
        Some(abi) => format!("{} (its markers: {markers})", abi.as_str()),
        None if markers.is_empty() => "none: it is no proxy-wasm plugin".to_owned(),
        None => format!("unknown: {markers}"),
    }
}
