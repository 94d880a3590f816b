//! A module's imports and exports, and whether they are those of a plugin.
//!
//! Owns: which marker is which ABI, and what a module's imports say about the capabilities that it needs.

use wasmtime::{ExternType, ValType};

use crate::abi::AbiVersion;
use crate::error::Error;
use crate::hostcalls;
use crate::instance::guest;

const MARKER: &str = "proxy_abi_version_";

/// What `ringwall plugin inspect` shows.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The newest ABI that both the module and this host know.
    pub abi: Option<AbiVersion>,
    /// All versions that its markers name, such as `0.2.1`.
    pub abi_markers: Vec<String>,
    /// SHA-256, in hexadecimal digits.
    pub digest: String,
    /// In bytes.
    pub size: usize,
    /// Module, name and type of each.
    pub imports: Vec<(String, String, String)>,
    /// Name and type of each.
    pub exports: Vec<(String, String)>,
    /// Of the memory that it exports as `memory`: bytes at its start, and at most where it says so.
    pub memory: Option<(u64, Option<u64>)>,
    /// What its imports and exports make likely that it needs.
    pub needs: Needs,
}

/// What has made a module, as it says itself in its custom section `producers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// `language`, `sdk` or `processed-by`.
    pub field: String,
    pub name: String,
    pub version: String,
}

/// Kinds of capabilities. A module built with an SDK imports what it never calls: these are upper bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    pub read_headers: bool,
    pub write_headers: bool,
    pub request_body: bool,
    pub response_body: bool,
    pub stream_data: bool,
    pub local_response: bool,
    pub http_calls: bool,
    pub grpc_calls: bool,
    pub shared_data: bool,
    pub queues: bool,
    pub timer: bool,
    pub metrics: bool,
    pub properties: bool,
    pub foreign_functions: bool,
}

pub(super) fn inspect(module: &wasmtime::Module, digest: String, size: usize) -> Inspection {
    let imports: Vec<(String, String, String)> = module
        .imports()
        .map(|import| {
            let kind = describe(&import.ty());
            (import.module().to_owned(), import.name().to_owned(), kind)
        })
        .collect();
    let exports: Vec<(String, String)> = module
        .exports()
        .map(|export| (export.name().to_owned(), describe(&export.ty())))
        .collect();
    let abi_markers: Vec<String> = exports
        .iter()
        .filter_map(|(name, _)| name.strip_prefix(MARKER))
        .map(|version| version.replace('_', "."))
        .collect();
    let known = [AbiVersion::V0_2_1, AbiVersion::V0_2_0, AbiVersion::V0_1_0];
    let abi = known
        .into_iter()
        .find(|version| abi_markers.iter().any(|marker| marker == version.as_str()));
    let needs = needs(&imports, &exports);
    let memory = match module.get_export("memory") {
        Some(ExternType::Memory(memory)) => {
            let bytes = |pages: u64| pages.saturating_mul(memory.page_size());
            Some((bytes(memory.minimum()), memory.maximum().map(bytes)))
        }
        _ => None,
    };
    Inspection {
        abi,
        abi_markers,
        digest,
        size,
        imports,
        exports,
        memory,
        needs,
    }
}

/// Nobody checks what a module says of itself: a section that cannot be read says nothing.
pub(super) fn producers(bytes: &[u8]) -> Vec<Producer> {
    let mut found = Vec::new();
    let payloads = wasmparser::Parser::new(0).parse_all(bytes);
    for payload in payloads.map_while(Result::ok) {
        let wasmparser::Payload::CustomSection(section) = payload else {
            continue;
        };
        let wasmparser::KnownCustom::Producers(fields) = section.as_known() else {
            continue;
        };
        for field in fields.into_iter().map_while(Result::ok) {
            let values = field.values.into_iter().map_while(Result::ok);
            found.extend(values.map(|value| Producer {
                field: field.name.to_owned(),
                name: value.name.to_owned(),
                version: value.version.to_owned(),
            }));
        }
    }
    found
}

fn needs(imports: &[(String, String, String)], exports: &[(String, String)]) -> Needs {
    let uses = |name: &str| imports.iter().any(|(_, import, _)| import == name);
    let has = |name: &str| exports.iter().any(|(export, _)| export == name);
    Needs {
        read_headers: uses("proxy_get_header_map_pairs") || uses("proxy_get_header_map_value"),
        write_headers: uses("proxy_set_header_map_pairs")
            || uses("proxy_add_header_map_value")
            || uses("proxy_replace_header_map_value")
            || uses("proxy_remove_header_map_value"),
        request_body: has("proxy_on_request_body"),
        response_body: has("proxy_on_response_body"),
        stream_data: has("proxy_on_downstream_data") || has("proxy_on_upstream_data"),
        local_response: uses("proxy_send_local_response"),
        http_calls: uses("proxy_http_call"),
        grpc_calls: uses("proxy_grpc_call") || uses("proxy_grpc_stream"),
        shared_data: uses("proxy_set_shared_data") || uses("proxy_get_shared_data"),
        queues: uses("proxy_register_shared_queue") || uses("proxy_resolve_shared_queue"),
        timer: uses("proxy_set_tick_period_milliseconds"),
        metrics: uses("proxy_define_metric"),
        properties: uses("proxy_get_property") || uses("proxy_set_property"),
        foreign_functions: uses("proxy_call_foreign_function"),
    }
}

/// What would keep the module from running.
pub(super) fn check(module: &wasmtime::Module, inspection: &Inspection) -> Result<(), Error> {
    if inspection.abi.is_none() {
        return Err(match inspection.abi_markers.first() {
            Some(version) => Error::UnsupportedAbi(version.clone()),
            None => Error::NoAbiMarker,
        });
    }
    if !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
        return Err(Error::NoMemory);
    }
    for (from, name, _) in &inspection.imports {
        if !hostcalls::is_known(from, name) {
            return Err(Error::UnknownImport {
                module: from.clone(),
                name: name.clone(),
            });
        }
    }
    for (name, params, results) in guest::signatures(inspection.abi == Some(AbiVersion::V0_1_0)) {
        let Some(found) = module.get_export(name) else {
            continue;
        };
        if !fits(&found, params, results) {
            return Err(Error::ExportType {
                name: (*name).to_owned(),
                found: describe(&found),
            });
        }
    }
    Ok(())
}

/// Whether it is a function of so many 32-bit parameters and results.
fn fits(found: &ExternType, params: usize, results: usize) -> bool {
    let ExternType::Func(function) = found else {
        return false;
    };
    function.params().len() == params
        && function.results().len() == results
        && function
            .params()
            .chain(function.results())
            .all(|kind| matches!(kind, ValType::I32))
}

fn describe(kind: &ExternType) -> String {
    match kind {
        ExternType::Func(function) => {
            let join = |kinds: &mut dyn Iterator<Item = ValType>| {
                kinds
                    .map(|kind| kind.to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let results = join(&mut function.results());
            let params = join(&mut function.params());
            if results.is_empty() {
                format!("({params})")
            } else {
                format!("({params}) -> {results}")
            }
        }
        ExternType::Global(global) => format!("global {}", global.content()),
        ExternType::Table(_) => "table".to_owned(),
        ExternType::Memory(memory) => format!("memory of {} pages", memory.minimum()),
        ExternType::Tag(_) => "tag".to_owned(),
    }
}
