//! `ringwall plugin push`: a module into the store, and the lines that put it to use.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use ringwall_plugin_cases::{Capabilities, Kind, Suite};
use ringwall_plugin_host::{Error, Module, Verification};
use serde_json::{Map, Value, json};

use super::inspect::engine;
use super::project::{self, ModuleFile, ProjectArgs};
use super::sign::{keys, signature_of};
use super::store::Store;
use crate::commands::{StateArgs, print_json};
use crate::composition::Composition;
use crate::config;
use crate::error::CliError;
use crate::output::{Format, print, say};

#[derive(Args, Clone, Debug)]
pub(super) struct PushArgs {
    /// The module
    #[arg(value_name = "FILE.wasm")]
    module: PathBuf,
    /// Folder of the store [default: `plugins` in the state directory]
    #[arg(long, value_name = "DIRECTORY")]
    to: Option<PathBuf>,
    /// What the plugin is to be called [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// Where its capabilities are declared [default: cases.yaml in the folder, if there is one]
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    project: ProjectArgs,
    /// The composition, for its `plugin_keys` [default: ringwall.yaml here, else the one that is built in]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Demand a signature by this key as well
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(args: &PushArgs) -> Result<ExitCode, CliError> {
    let module = ModuleFile::read(&args.module)?;
    let sha256 = module.sha256();
    let folder = match &args.to {
        Some(to) => std::path::absolute(to).map_err(|error| CliError::io("finding", to, error))?,
        None => args.state.open()?.plugins(),
    };
    let store = Store::at(&folder);
    let signature = signature(&module, &store, &sha256)?;
    let mut files = keys_of_platform(args.file.as_deref())?;
    files.extend(args.public_key.iter().cloned());
    let keys = keys(&files)?;
    let verification = match keys.is_empty() {
        true => Verification::none(),
        false => Verification::none().signed(keys, signature.clone()),
    };
    // Only what the gateway would load.
    Module::load(&engine()?, &module.bytes, &verification).map_err(|error| match error {
        Error::Unsigned | Error::BadSignature { .. } => CliError::Plugin {
            what: format!("{}: {error}", module.path.display()),
            fix: "sign it with a key of `plugin_keys`: ringwall plugin sign FILE --key FILE".into(),
        },
        other => project::refused(&module.path, &other),
    })?;
    let declared = declared(args)?;
    let is_new = store.put(&module, signature.as_deref())?;
    let name = args
        .name
        .clone()
        .unwrap_or_else(|| module.stem().replace('_', "-"));
    let place = store.path(&sha256);
    let entry = entry(&name, &place, &sha256, declared.as_ref());
    match args.output {
        Format::Json => print_json(&json!({
            "module": place.display().to_string(),
            "sha256": sha256,
            "is_new": is_new,
            "is_signed": signature.is_some(),
            "plugin": entry,
        }))?,
        Format::Text => {
            let state = if is_new { "stored" } else { "there already" };
            say(&format!("{state}: {}", place.display()));
            say("for `plugins:` of the gateway; then name it in `filters:` of a route");
            print(&as_yaml(&entry))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The one beside the module, else the one that is kept already.
fn signature(
    module: &ModuleFile,
    store: &Store,
    sha256: &str,
) -> Result<Option<Vec<u8>>, CliError> {
    let beside = signature_of(&module.path);
    if !beside.is_file() {
        return store.signature(sha256);
    }
    let bytes = std::fs::read(&beside).map_err(|error| CliError::io("reading", &beside, error))?;
    Ok(Some(bytes))
}

/// Files of `plugin_keys` in every component of the composition.
fn keys_of_platform(file: Option<&Path>) -> Result<Vec<PathBuf>, CliError> {
    let source = config::composition(file)?;
    let composition = Composition::read(&source)?;
    let base = file.and_then(Path::parent).unwrap_or(Path::new(""));
    let lists = composition.components.iter();
    let lists = lists.filter_map(|component| component.config.get("plugin_keys"));
    let mut files = Vec::new();
    for list in lists {
        let names = list.as_array().map(Vec::as_slice).unwrap_or_default();
        for name in names {
            match name.as_str() {
                Some(name) if !name.contains("${") => files.push(base.join(name)),
                // Not to know a key is not to have none.
                _ => {
                    return Err(CliError::Plugin {
                        what: format!(
                            "{}: the entry {name} of plugin_keys is no file's name here",
                            source.name
                        ),
                        fix: "name the file itself in plugin_keys".into(),
                    });
                }
            }
        }
    }
    Ok(files)
}

/// The suite beside the sources, or the one that is named.
fn declared(args: &PushArgs) -> Result<Option<Suite>, CliError> {
    let there = args.project.path.join("cases.yaml");
    if args.cases.is_none() && !there.is_file() {
        say("there is no cases.yaml: the capabilities are left to you (--cases FILE)");
        return Ok(None);
    }
    let (_, suite) = project::cases(args.cases.as_deref(), &args.project.path)?;
    Ok(Some(suite))
}

/// One of `plugins[]`.
fn entry(name: &str, module: &Path, sha256: &str, suite: Option<&Suite>) -> Map<String, Value> {
    let mut entry = Map::new();
    let mut put = |key: &str, value: Value| entry.insert(key.to_owned(), value);
    put("name", name.into());
    put("module", module.display().to_string().into());
    put("sha256", sha256.into());
    let Some(suite) = suite else {
        return entry;
    };
    let served = suite
        .cases
        .iter()
        .find(|case| matches!(case.kind, Kind::Exchanges(_)));
    if let Some(case) = served.filter(|case| !case.configuration.is_empty()) {
        let text = String::from_utf8_lossy(&case.configuration);
        let json = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
        put("configuration", json);
    }
    put("capabilities", capabilities(&suite.capabilities));
    entry
}

/// Only what is declared.
fn capabilities(declared: &Capabilities) -> Value {
    let mut all = serde_json::to_value(declared).unwrap_or_default();
    if let Some(fields) = all.as_object_mut() {
        fields.retain(|_, value| match value {
            Value::Array(names) => !names.is_empty(),
            Value::Bool(is_allowed) => *is_allowed,
            other => *other != "none",
        });
    }
    all
}

/// YAML for people: values are JSON, which YAML takes as it is.
fn as_yaml(entry: &Map<String, Value>) -> String {
    let mut text = String::new();
    for (index, (key, value)) in entry.iter().enumerate() {
        let start = if index == 0 { "  - " } else { "    " };
        // Writing to a string cannot fail.
        match value.as_object().filter(|_| key == "capabilities") {
            Some(fields) if !fields.is_empty() => {
                let _ = writeln!(text, "{start}{key}:");
                for (key, value) in fields {
                    let _ = writeln!(text, "      {key}: {value}");
                }
            }
            _ => {
                let _ = writeln!(text, "{start}{key}: {value}");
            }
        }
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use ringwall_plugin_host::config::PluginConfig;

    use super::*;

    const SUITE: &str = "
capabilities: {read_headers: [x-a, ':path'], body: write, local_response: true}
configuration: {a: [1, \"b: c\"]}
cases:
  - name: n
    request: {}
    expect: {client: {status: 200}}
";

    #[test]
    fn r93_the_lines_are_what_the_gateway_reads() {
        let suite = Suite::parse(SUITE).unwrap();
        let entry = entry("my-filter", Path::new("/m/ab.wasm"), "ab", Some(&suite));
        let read: Vec<PluginConfig> = serde_saphyr::from_str(&as_yaml(&entry)).unwrap();
        let [plugin] = &read[..] else {
            panic!("one plugin")
        };
        assert_eq!(plugin.name, "my-filter");
        assert_eq!(plugin.sha256.as_deref(), Some("ab"));
        assert_eq!(plugin.configuration, json!({ "a": [1, "b: c"] }));
        assert_eq!(plugin.capabilities.read_headers, ["x-a", ":path"]);
        assert!(plugin.capabilities.local_response);
        assert!(plugin.capabilities.write_headers.is_empty());
        let all = serde_json::to_value(&plugin.capabilities).unwrap();
        assert_eq!(all["body"], "write");
    }

    #[test]
    fn r93_nothing_declared_is_nothing_allowed() {
        let entry = entry("p", Path::new("p.wasm"), "ab", None);
        let read: Vec<PluginConfig> = serde_saphyr::from_str(&as_yaml(&entry)).unwrap();
        assert_eq!(read[0].capabilities, Default::default());
    }
}
