//! Plugins as an operator writes them down: in the gateway's and the service proxy's configuration, and for `ringwall plugin`.
//!
//! Owns: the serde structs, their JSON Schema, and the step from them to a verified module with its specification. Must not:
//! know routes; whoever embeds the host names plugins there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::module::{Module, PublicKey, Verification};
use crate::plugin::Plugin;
use crate::runtime::Runtime;
use crate::spec::{BodyAccess, Capabilities, HeadersPause, Limits, Names, OnFailure, PluginSpec};

/// One plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// How routes, metrics and logs call it; unique.
    pub name: String,
    /// The `.wasm` file.
    pub module: PathBuf,
    /// The module's digest, in hexadecimal digits: another file is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// File of an ed25519 signature over the module (64 bytes), needed where keys are declared. Default: the module's name
    /// with `.sig` appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<PathBuf>,
    /// What `proxy_on_configure` reads; a text as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub configuration: Value,
    /// Chooses among several roots of one module. Default: the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_id: Option<String>,
    /// Plugins with one `vm_id` share data and queues. Default: the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    /// What `proxy_on_vm_start` reads; a text as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub vm_configuration: Value,
    /// Environment variables of the guest; shown where the capability `environment` says so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    #[serde(default)]
    pub capabilities: CapabilitiesConfig,
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Of streams whose plugin has trapped, timed out or cannot be configured.
    #[serde(default)]
    pub on_failure: OnFailureConfig,
    /// What a `PAUSE` from the headers callbacks holds.
    #[serde(default)]
    pub headers_pause: HeadersPauseConfig,
    /// Another version for a part of new streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryConfig>,
}

/// A version on trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryConfig {
    /// The `.wasm` file.
    pub module: PathBuf,
    /// The module's digest, in hexadecimal digits: another file is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// File of an ed25519 signature over the module (64 bytes), needed where keys are declared. Default: the module's name
    /// with `.sig` appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<PathBuf>,
    /// What `proxy_on_configure` reads; a text as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub configuration: Value,
    /// Percent of new streams, 0 to 100.
    pub weight: u8,
}

/// What a plugin may touch; nothing that is not named. Lists hold exact names, prefixes such as `x-*`, or `*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CapabilitiesConfig {
    /// Header and trailer names, `:path` and the like included.
    pub read_headers: Vec<String>,
    pub write_headers: Vec<String>,
    pub body: AccessConfig,
    /// Bytes of TCP streams.
    pub stream_data: AccessConfig,
    /// Whether it may answer a request itself, or end a stream.
    pub local_response: bool,
    /// Clusters that it may call.
    pub clusters: Vec<String>,
    /// Keys of shared data.
    pub shared_data: Vec<String>,
    pub queues: Vec<String>,
    /// Dotted paths: `request.*`, `connection.mtls`.
    pub read_properties: Vec<String>,
    pub write_properties: Vec<String>,
    pub foreign_functions: Vec<String>,
    pub environment: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessConfig {
    #[default]
    None,
    Read,
    Write,
}

/// Limits other than the defaults (README.md of the host names these).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Processor time of one callback [10ms].
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub callback_time: Option<Duration>,
    /// Linear memory of an instance, in bytes [32 MiB].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<usize>,
    /// Calls into the host in one callback [10,000].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostcalls: Option<u32>,
    /// Body bytes that a paused stream may hold, in each direction [1 MiB].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffered_body: Option<usize>,
    /// Calls of one stream under way [4].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_stream: Option<usize>,
    /// The longest that a call may take [5s].
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub call_time: Option<Duration>,
    /// More are counted and dropped [100].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_lines_per_second: Option<u32>,
    /// Keys and values of shared data of a `vm_id`, in bytes [1 MiB].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_data: Option<usize>,
    /// How long a stream may be paused before it is refused [15s].
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub pause: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailureConfig {
    /// Refused with 503.
    #[default]
    Closed,
    /// Passed on as if the plugin were not there, and counted.
    Open,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadersPauseConfig {
    /// With a call under way the whole stream, else the headers.
    #[default]
    Auto,
    /// Headers and body: Envoy's default.
    Stream,
    /// Headers alone: Envoy's `allow_on_headers_stop_iteration`.
    Headers,
}

/// What runs, and what it is told: of the plugin, or of its canary.
#[derive(Clone, Copy)]
pub struct Code<'a> {
    module: &'a Path,
    sha256: Option<&'a str>,
    signature: Option<&'a Path>,
    configuration: &'a Value,
}

/// A plugin that can run, with its canary.
pub struct Prepared {
    version: (Module, PluginSpec),
    canary: Option<(Module, PluginSpec, u8)>,
}

impl PluginConfig {
    /// Reads and verifies the modules, and tries whether they can be configured. Nothing that serves is touched.
    pub fn prepare(&self, runtime: &Runtime, keys: &[PublicKey]) -> Result<Prepared, Error> {
        let version = self.version(self.code(), runtime, keys)?;
        let canary = match &self.canary {
            Some(canary) if canary.weight > 100 => return Err(Error::Weight(canary.weight)),
            Some(canary) => {
                let (module, spec) = self.version(canary.code(), runtime, keys)?;
                Some((module, spec, canary.weight))
            }
            None => None,
        };
        Ok(Prepared { version, canary })
    }

    fn version(
        &self,
        code: Code<'_>,
        runtime: &Runtime,
        keys: &[PublicKey],
    ) -> Result<(Module, PluginSpec), Error> {
        let bytes = read(code.module)?;
        let module = Module::load(runtime, &bytes, &code.verification(keys)?)?;
        let spec = self.spec(code);
        Plugin::check(&module, spec.clone())?;
        Ok((module, spec))
    }

    /// Its own code, apart from a canary's.
    #[must_use]
    pub fn code(&self) -> Code<'_> {
        Code {
            module: &self.module,
            sha256: self.sha256.as_deref(),
            signature: self.signature.as_deref(),
            configuration: &self.configuration,
        }
    }

    /// Everything but the module.
    #[must_use]
    pub fn spec(&self, code: Code<'_>) -> PluginSpec {
        let mut spec = PluginSpec::new(self.name.as_str());
        if let Some(root) = &self.root_id {
            spec.root_id = root.as_str().into();
        }
        if let Some(vm) = &self.vm_id {
            spec.vm_id = vm.as_str().into();
        }
        spec.vm_configuration = text(&self.vm_configuration);
        spec.configuration = text(code.configuration);
        let environment = self.environment.iter();
        spec.environment = environment.map(|(k, v)| (k.clone(), v.clone())).collect();
        spec.limits = self.limits.over(Limits::default());
        spec.capabilities = self.capabilities.declared();
        spec.on_failure = match self.on_failure {
            OnFailureConfig::Closed => OnFailure::Closed,
            OnFailureConfig::Open => OnFailure::Open,
        };
        spec.headers_pause = match self.headers_pause {
            HeadersPauseConfig::Auto => HeadersPause::Auto,
            HeadersPauseConfig::Stream => HeadersPause::Stream,
            HeadersPauseConfig::Headers => HeadersPause::Headers,
        };
        spec
    }
}

impl Prepared {
    /// SHA-256 of its modules, in hexadecimal digits.
    #[must_use]
    pub fn digests(&self) -> Vec<String> {
        let canary = self.canary.as_ref().map(|(module, ..)| module);
        let modules = std::iter::once(&self.version.0).chain(canary);
        modules
            .map(|module| module.inspect().digest.clone())
            .collect()
    }

    /// Serves from now on: as a new plugin, or in the place of `before`, whose streams under way keep their version.
    pub fn serve(self, before: Option<&Arc<Plugin>>) -> Result<Arc<Plugin>, Error> {
        let (module, spec) = self.version;
        let plugin = match before {
            Some(before) => {
                before.replace(&module, spec)?;
                Arc::clone(before)
            }
            None => Plugin::new(&module, spec)?,
        };
        if let Some((module, spec, weight)) = self.canary {
            plugin.canary(&module, spec, weight)?;
        }
        Ok(plugin)
    }
}

impl CanaryConfig {
    fn code(&self) -> Code<'_> {
        Code {
            module: &self.module,
            sha256: self.sha256.as_deref(),
            signature: self.signature.as_deref(),
            configuration: &self.configuration,
        }
    }
}

impl Code<'_> {
    fn verification(self, keys: &[PublicKey]) -> Result<Verification, Error> {
        let mut verification = Verification::none();
        if let Some(pin) = self.sha256 {
            let mut digest = [0; 32];
            hex::decode_to_slice(pin, &mut digest).map_err(|_| Error::Pin(pin.to_owned()))?;
            verification = verification.pinned(digest);
        }
        if keys.is_empty() {
            return Ok(verification);
        }
        let file = self.signature.map_or_else(
            || {
                let mut name = self.module.to_owned().into_os_string();
                name.push(".sig");
                name.into()
            },
            Path::to_owned,
        );
        let signature = match file.exists() {
            true => Some(read(&file)?),
            false => None,
        };
        Ok(verification.signed(keys.to_vec(), signature))
    }
}

impl CapabilitiesConfig {
    fn declared(&self) -> Capabilities {
        Capabilities {
            read_headers: Names::new(&self.read_headers),
            write_headers: Names::new(&self.write_headers),
            body: self.body.into(),
            stream_data: self.stream_data.into(),
            local_response: self.local_response,
            clusters: Names::new(&self.clusters),
            shared_data: Names::new(&self.shared_data),
            queues: Names::new(&self.queues),
            read_properties: Names::new(&self.read_properties),
            write_properties: Names::new(&self.write_properties),
            foreign_functions: Names::new(&self.foreign_functions),
            environment: self.environment,
        }
    }
}

impl From<AccessConfig> for BodyAccess {
    fn from(access: AccessConfig) -> Self {
        match access {
            AccessConfig::None => Self::None,
            AccessConfig::Read => Self::Read,
            AccessConfig::Write => Self::Write,
        }
    }
}

impl LimitsConfig {
    fn over(&self, limits: Limits) -> Limits {
        Limits {
            callback_time: self.callback_time.unwrap_or(limits.callback_time),
            memory: self.memory.unwrap_or(limits.memory),
            hostcalls: self.hostcalls.unwrap_or(limits.hostcalls),
            buffered_body: self.buffered_body.unwrap_or(limits.buffered_body),
            calls_per_stream: self.calls_per_stream.unwrap_or(limits.calls_per_stream),
            call_time: self.call_time.unwrap_or(limits.call_time),
            log_lines_per_second: self
                .log_lines_per_second
                .unwrap_or(limits.log_lines_per_second),
            shared_data: self.shared_data.unwrap_or(limits.shared_data),
            pause: self.pause.unwrap_or(limits.pause),
            ..limits
        }
    }
}

/// What is wrong with the names of plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFault {
    /// Not letters, digits, `-`, `_` and `.`.
    Characters,
    Twice,
}

/// The first plugin whose name cannot be used. Names are labels of metrics and words of logs.
#[must_use]
pub fn fault_of_names(plugins: &[PluginConfig]) -> Option<(&str, NameFault)> {
    let mut seen = BTreeSet::new();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    plugins.iter().find_map(|plugin| {
        let name = plugin.name.as_str();
        if name.is_empty() || !name.bytes().all(plain) {
            return Some((name, NameFault::Characters));
        }
        (!seen.insert(name)).then_some((name, NameFault::Twice))
    })
}

/// Plugins whose modules are neither pinned nor have to be signed: whoever can write the files runs code in the data path.
pub fn unverified<'a>(
    plugins: &'a [PluginConfig],
    keys: &[PathBuf],
) -> impl Iterator<Item = &'a str> {
    let signed = !keys.is_empty();
    let unverified = plugins.iter().filter(move |plugin| {
        let canary = plugin.canary.as_ref();
        let pinned = plugin.sha256.is_some() && canary.is_none_or(|canary| canary.sha256.is_some());
        !signed && !pinned
    });
    unverified.map(|plugin| plugin.name.as_str())
}

/// Public keys from their files: 32 bytes each, raw or in hexadecimal digits.
pub fn public_keys<P: AsRef<Path>>(files: &[P]) -> Result<Vec<PublicKey>, Error> {
    let keys = files.iter().map(|file| {
        let bytes = read(file.as_ref())?;
        let digits = std::str::from_utf8(&bytes).ok().map(str::trim);
        match digits.and_then(|digits| hex::decode(digits).ok()) {
            Some(decoded) => PublicKey::new(&decoded),
            None => PublicKey::new(&bytes),
        }
    });
    keys.collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// A text as it is, nothing as nothing, and anything else as JSON.
fn text(value: &Value) -> Bytes {
    match value {
        Value::Null => Bytes::new(),
        Value::String(text) => Bytes::copy_from_slice(text.as_bytes()),
        other => Bytes::from(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Result<PluginConfig, serde_json::Error> {
        serde_json::from_str(&format!(r#"{{"name":"p","module":"p.wasm"{more}}}"#))
    }

    #[test]
    fn r91_what_is_not_written_is_not_allowed() {
        let config = config("").unwrap();
        let spec = config.spec(config.code());
        assert!(spec.capabilities.read_headers.is_empty());
        assert!(!spec.capabilities.local_response);
        assert_eq!(spec.on_failure, OnFailure::Closed);
        assert_eq!(spec.limits.callback_time, Duration::from_millis(10));
        assert_eq!(spec.configuration, "");
    }

    #[test]
    fn a_configuration_is_a_text_or_json() {
        let json = config(r#","configuration":{"a":[1,true]}"#).unwrap();
        assert_eq!(json.spec(json.code()).configuration, r#"{"a":[1,true]}"#);
        let plain = config(r#","configuration":"a: 1""#).unwrap();
        assert_eq!(plain.spec(plain.code()).configuration, "a: 1");
    }

    #[test]
    fn limits_and_capabilities_are_taken_over() {
        let config = config(
            r#","limits":{"callback_time":"3ms","memory":65536},"capabilities":{"read_headers":["x-*"],"body":"write"},"on_failure":"open""#,
        )
        .unwrap();
        let spec = config.spec(config.code());
        assert_eq!(spec.limits.callback_time, Duration::from_millis(3));
        assert_eq!(spec.limits.memory, 65_536);
        assert!(spec.capabilities.read_headers.allows("x-a"));
        assert_eq!(spec.capabilities.body, BodyAccess::Write);
        assert_eq!(spec.on_failure, OnFailure::Open);
    }

    #[test]
    fn unknown_keys_are_refused() {
        for wrong in [
            r#","cpabilities":{}"#,
            r#","capabilities":{"headers":["*"]}"#,
            r#","limits":{"memroy":1}"#,
            r#","on_failure":"ajar""#,
        ] {
            assert!(config(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_missing_module_and_a_wrong_pin_are_named() {
        let runtime = Runtime::new(crate::RuntimeOptions::default()).unwrap();
        let missing = config("").unwrap().prepare(&runtime, &[]).err().unwrap();
        assert!(missing.to_string().contains("p.wasm"), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        let module = folder.path().join("p.wasm");
        fs::write(&module, b"no module").unwrap();
        let mut wrong = config(r#","sha256":"abc""#).unwrap();
        wrong.module = module;
        let wrong = wrong.prepare(&runtime, &[]).err().unwrap();
        assert!(wrong.to_string().contains("abc"), "{wrong}");
    }
}
