//! Any bytes as a module: refused with a reason, or put to use. Never a panic, never code that the host has not compiled.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use ringwall_plugin_host::{Module, Plugin, PluginSpec, Runtime, RuntimeOptions, Verification};

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| match Runtime::new(RuntimeOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => panic!("{error}"),
    })
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(module) = Module::load(runtime(), bytes, &Verification::none()) {
        let _ = Plugin::new(&module, PluginSpec::new("any"));
    }
});
