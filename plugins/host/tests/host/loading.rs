//! Modules: what is refused before it runs, signatures, the cache, inspection.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use ringwall_plugin_host::{
    AbiVersion, Error, Module, Plugin, PublicKey, Runtime, RuntimeOptions, Verification,
};

use crate::support::*;

fn refused(text: &str) -> Error {
    let bytes = wat::parse_str(text).unwrap();
    Module::load(&runtime(), &bytes, &Verification::none()).unwrap_err()
}

const MARKER: &str = r#"(func (export "proxy_abi_version_0_2_1"))"#;
const MEMORY: &str = r#"(memory (export "memory") 1)"#;

#[test]
fn r90_a_module_that_cannot_run_is_refused_with_what_is_missing() {
    for (text, expected) in [
        (format!("(module {MEMORY})"), "it is no proxy-wasm plugin"),
        (
            format!(r#"(module {MEMORY} (func (export "proxy_abi_version_0_3_0")))"#),
            "the module is for ABI 0.3.0",
        ),
        (format!("(module {MARKER})"), "no memory named `memory`"),
        (
            format!(r#"(module (import "env" "proxy_unknown" (func)) {MEMORY} {MARKER})"#),
            "imports `env.proxy_unknown`",
        ),
        (
            format!(
                r#"(module (import "wasi_snapshot_preview1" "fd_fly" (func)) {MEMORY} {MARKER})"#
            ),
            "imports `wasi_snapshot_preview1.fd_fly`",
        ),
        (
            format!(r#"(module (import "env" "proxy_log" (func (param i64))) {MEMORY} {MARKER})"#),
            "import does not fit",
        ),
        (
            format!(r#"(module {MEMORY} {MARKER} (func (export "proxy_on_tick") (param i64)))"#),
            "export `proxy_on_tick` has the type (i64)",
        ),
        (
            format!(
                r#"(module {MEMORY} {MARKER} (func (export "proxy_on_request_headers") (param i32 i32) (result i32) (i32.const 0)))"#
            ),
            "export `proxy_on_request_headers` has the type (i32, i32) -> i32",
        ),
        (
            format!("(module (memory (export \"memory\") i64 1) {MARKER})"),
            "does not compile",
        ),
    ] {
        let error = refused(&text).to_string();
        assert!(error.contains(expected), "{error}\nfor {text}");
    }
    let garbage = Module::load(&runtime(), b"\0asm", &Verification::none());
    assert!(matches!(garbage, Err(Error::Compile(_))));
}

#[tokio::test]
async fn r91_a_guest_that_does_not_start_is_refused() {
    let runtime = runtime();
    for (body, expected) in [
        (
            r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 0))"#,
            "refused its VM configuration",
        ),
        (
            r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 0))"#,
            "refused its configuration",
        ),
        (
            r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (unreachable))"#,
            "failed in `proxy_on_configure` (trap)",
        ),
        (
            r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (loop (br 0)) (i32.const 0))"#,
            "failed in `proxy_on_configure` (timeout)",
        ),
        (
            r#"(func (export "_initialize") (unreachable))"#,
            "failed in `_initialize`",
        ),
        (
            r#"(func (export "_start") (unreachable))"#,
            "failed in `_initialize`",
        ),
        (
            r#"(func $start (unreachable)) (start $start)"#,
            "does not start",
        ),
    ] {
        let mut short = spec();
        short.limits.start_time = std::time::Duration::from_millis(20);
        let error = Plugin::new(&load(&runtime, &guest(body)), short)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(Plugin::check(&load(&runtime, &guest("")), spec()).is_ok());
    let mut small = spec();
    small.limits.memory = 65536;
    let error = Plugin::new(&load(&runtime, &guest("")), small)
        .unwrap_err()
        .to_string();
    assert!(error.contains("does not start"), "{error}");
}

#[test]
fn r91_a_pinned_digest_is_the_module_s() {
    let runtime = runtime();
    let bytes = guest("");
    let right: [u8; 32] = digest::digest(&digest::SHA256, &bytes)
        .as_ref()
        .try_into()
        .unwrap();
    let load = |pin| Module::load(&runtime, &bytes, &Verification::none().pinned(pin));
    assert_eq!(load(right).unwrap().inspect().digest, hex::encode(right));
    let mut wrong = right;
    wrong[0] ^= 1;
    let error = load(wrong).unwrap_err();
    assert!(error.to_string().contains(&hex::encode(wrong)), "{error}");
}

#[test]
fn r91_a_signature_is_by_a_trusted_key_and_over_these_bytes() {
    let runtime = runtime();
    let bytes = guest("");
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let other = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
    let key = |pair: &Ed25519KeyPair| PublicKey::new(pair.public_key().as_ref()).unwrap();
    let sign = |pair: &Ed25519KeyPair, bytes: &[u8]| Some(pair.sign(bytes).as_ref().to_vec());
    let load = |keys, signature| {
        Module::load(
            &runtime,
            &bytes,
            &Verification::none().signed(keys, signature),
        )
        .map(|_| ())
    };
    assert!(load(vec![key(&other), key(&pair)], sign(&pair, &bytes)).is_ok());
    let refused = load(vec![key(&other)], sign(&pair, &bytes));
    assert!(matches!(refused, Err(Error::BadSignature { keys: 1 })));
    let refused = load(vec![key(&pair)], sign(&pair, b"something else"));
    assert!(matches!(refused, Err(Error::BadSignature { .. })));
    assert!(matches!(load(vec![key(&pair)], None), Err(Error::Unsigned)));
    assert!(matches!(
        load(vec![], sign(&pair, &bytes)),
        Err(Error::BadSignature { keys: 0 })
    ));
    assert!(matches!(PublicKey::new(&[1; 31]), Err(Error::BadKey(31))));
}

fn cached(path: &Path) -> Result<Runtime, Error> {
    Runtime::new(RuntimeOptions {
        cache: Some(path.to_owned()),
        ..RuntimeOptions::default()
    })
}

fn files(path: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[tokio::test]
async fn r90_a_compiled_module_is_kept_and_a_bad_file_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let bytes = guest(&on_request("(call $say (i32.const 7))"));
    load(&cached(&path).unwrap(), &bytes);
    let kept = files(&path);
    assert_eq!(kept.len(), 1);
    let file = kept[0].clone();
    let whole = std::fs::read(&file).unwrap();
    let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);

    // What is in the file is used: a load does not write it anew.
    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    load(&cached(&path).unwrap(), &bytes);
    assert_eq!(
        std::fs::metadata(&file).unwrap().modified().unwrap(),
        before
    );

    for bad in [
        &whole[..whole.len() - 1],
        b"",
        b"something else",
        &[&whole[..60], &[0xff], &whole[61..]].concat(),
    ] {
        std::fs::write(&file, bad).unwrap();
        let runtime = cached(&path).unwrap();
        load(&runtime, &bytes);
        assert_eq!(std::fs::read(&file).unwrap(), whole, "made anew");
    }
    // Somebody else could have written it.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    load(&cached(&path).unwrap(), &bytes);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn r91_a_cache_that_others_may_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = cached(&open).err().unwrap().to_string();
    assert!(error.contains("mode 777"), "{error}");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    assert!(cached(&link).is_err());
}

#[test]
fn r93_a_module_can_be_looked_into() {
    let module = load(&runtime(), &guest(&on_request("")));
    let seen = module.inspect();
    assert_eq!(seen.abi, Some(AbiVersion::V0_2_1));
    assert_eq!(seen.abi_markers, ["0.2.1"]);
    assert!(
        seen.imports
            .contains(&("env".into(), "proxy_done".into(), "() -> i32".into()))
    );
    assert!(
        seen.exports
            .contains(&("memory".into(), "memory of 2 pages".into()))
    );
    assert!(seen.needs.http_calls && seen.needs.write_headers && !seen.needs.request_body);
    assert_eq!(seen.digest.len(), 64);
}
