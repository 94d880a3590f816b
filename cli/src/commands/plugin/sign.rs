//! `ringwall plugin sign`: ed25519 over a module's bytes, as the gateway asks for it with `plugin_keys`.
//!
//! Owns: the forms of both keys: PKCS#8 in PEM for the private one, as `openssl genpkey -algorithm ed25519` makes it too, and 64
//! hexadecimal digits for the public one. Must not: overwrite a key, or read one that others can read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use ringwall_plugin_host::config::public_keys;
use ringwall_plugin_host::{Error, Verification};
use ringwall_secret::private_file;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;

use super::project::ModuleFile;
use crate::error::CliError;
use crate::files;
use crate::output::{print, say};

/// The longest file of a key, in bytes.
const MAX_KEY: u64 = 16 * 1024;
/// Bytes that make a line of PEM.
const PEM_LINE: usize = 48;
/// What every module begins with.
const MAGIC: &[u8] = b"\0asm\x01\0\0\0";

#[derive(Args, Clone, Debug)]
pub(super) struct SignArgs {
    /// The module
    #[arg(value_name = "FILE.wasm", required_unless_present = "generate")]
    file: Option<PathBuf>,
    /// The private key: PKCS#8 in PEM, readable by its owner alone
    #[arg(long, value_name = "FILE", required_unless_present = "verify")]
    key: Option<PathBuf>,
    /// Make the private key, and the public one beside it with `.pub` appended
    #[arg(long, requires = "key", conflicts_with = "verify")]
    generate: bool,
    /// Verify the signature instead of making one
    #[arg(long, requires = "public_key", conflicts_with = "key")]
    verify: bool,
    /// A public key, for --verify: 64 hexadecimal digits, or 32 bytes
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,
}

pub(super) fn run(args: &SignArgs) -> Result<ExitCode, CliError> {
    if let (true, Some(key)) = (args.generate, &args.key) {
        generate(key)?;
    }
    let Some(file) = &args.file else {
        return Ok(ExitCode::SUCCESS);
    };
    match &args.key {
        Some(key) if !args.verify => sign(file, key)?,
        _ => return verify(file, &args.public_key),
    }
    Ok(ExitCode::SUCCESS)
}

/// `FILE.sig`.
pub(super) fn signature_of(module: &Path) -> PathBuf {
    beside(module, ".sig")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

fn sign(file: &Path, key: &Path) -> Result<(), CliError> {
    let module = ModuleFile::read(file)?;
    if !module.bytes.starts_with(MAGIC) {
        return Err(CliError::Plugin {
            what: format!("{} is no WebAssembly module", file.display()),
            fix: "name the .wasm file: a signature over anything else is of no use".into(),
        });
    }
    let pair = read_key(key)?;
    let signature = pair.sign(&module.bytes);
    let to = signature_of(file);
    files::write(&to, signature.as_ref(), 0o644, None)?;
    say(&format!(
        "signed {} by {}",
        module.sha256(),
        hex::encode(pair.public_key())
    ));
    print(&to.display().to_string())
}

fn read_key(path: &Path) -> Result<Ed25519KeyPair, CliError> {
    let wrong = |why: String| CliError::Plugin {
        what: format!("{}: {why}", path.display()),
        fix: "make a pair of keys: ringwall plugin sign --generate --key FILE".into(),
    };
    let pem = private_file::read_at_most(path, MAX_KEY)?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose())
        .map_err(|error| wrong(format!("no private key in PEM: {error}")))?;
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
        .map_err(|error| wrong(format!("no ed25519 key: {error}")))
}

/// Both files or none; nothing that is there is touched.
fn generate(key: &Path) -> Result<(), CliError> {
    let public = beside(key, ".pub");
    for path in [key, &public] {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
    }
    let failed = |error| CliError::internal("making a key", error);
    let pair = Ed25519KeyPair::generate().map_err(failed)?;
    let der = pair.to_pkcs8v1().map_err(failed)?;
    write_new(key, pem(der.as_ref()).as_bytes(), 0o600)?;
    let digits = format!("{}\n", hex::encode(pair.public_key()));
    write_new(&public, digits.as_bytes(), 0o644).inspect_err(|_| {
        // It was made just now, and nobody has the public one.
        let _ = fs::remove_file(key);
    })?;
    say(&format!(
        "made {} (keep it) and {} (for `plugin_keys`)",
        key.display(),
        public.display()
    ));
    Ok(())
}

fn pem(der: &[u8]) -> String {
    let lines: Vec<String> = der
        .chunks(PEM_LINE)
        .map(|line| STANDARD.encode(line))
        .collect();
    format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        lines.join("\n")
    )
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), CliError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => CliError::io("writing", path, error),
    })
}

fn exists(path: &Path) -> CliError {
    CliError::Exists {
        path: path.to_owned(),
        fix: "keys are never overwritten: name another file, or move this one away",
    }
}

fn verify(file: &Path, keys: &[PathBuf]) -> Result<ExitCode, CliError> {
    let module = ModuleFile::read(file)?;
    let from = signature_of(file);
    let signature = fs::read(&from).map_err(|error| CliError::io("reading", &from, error))?;
    let keys = self::keys(keys)?;
    match Verification::none()
        .signed(keys, Some(signature))
        .verify(&module.bytes)
    {
        Ok(()) => {
            print(&format!(
                "{} is signed by one of these keys",
                file.display()
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            say(&format!("error: {}: {error}", file.display()));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Public keys from their files.
pub(super) fn keys(files: &[PathBuf]) -> Result<Vec<ringwall_plugin_host::PublicKey>, CliError> {
    public_keys(files).map_err(|error| match error {
        Error::Read { path, source } => CliError::io("reading", &path, source),
        other => CliError::Plugin {
            what: other.to_string(),
            fix: "a public key is 64 hexadecimal digits or 32 bytes, as `ringwall plugin sign --generate` writes it".into(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn module(folder: &Path) -> PathBuf {
        let file = folder.join("a.wasm");
        fs::write(&file, MAGIC).unwrap();
        file
    }

    #[test]
    fn r93_a_signature_is_64_bytes_and_verifies_for_its_module_and_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (module(folder.path()), folder.path().join("k"));
        let other = folder.path().join("other");
        generate(&key).unwrap();
        generate(&other).unwrap();
        sign(&file, &key).unwrap();
        assert_eq!(fs::read(signature_of(&file)).unwrap().len(), 64);
        let public = |key: &Path| vec![beside(key, ".pub")];
        assert_eq!(verify(&file, &public(&key)).unwrap(), ExitCode::SUCCESS);
        assert_eq!(verify(&file, &public(&other)).unwrap(), ExitCode::FAILURE);
        fs::write(&file, [MAGIC, b"x"].concat()).unwrap();
        assert_eq!(verify(&file, &public(&key)).unwrap(), ExitCode::FAILURE);
    }

    #[test]
    fn r93_a_key_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("k");
        generate(&key).unwrap();
        let before = fs::read(&key).unwrap();
        let mode = fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(generate(&key).unwrap_err().code(), 73);
        assert_eq!(fs::read(&key).unwrap(), before);
        // A public key alone is in the way as well, and no private one is left behind.
        let half = folder.path().join("half");
        fs::write(beside(&half, ".pub"), "x").unwrap();
        assert_eq!(generate(&half).unwrap_err().code(), 73);
        assert!(!half.exists());
    }

    #[test]
    fn a_key_that_others_can_read_and_a_file_that_is_no_module_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (module(folder.path()), folder.path().join("k"));
        generate(&key).unwrap();
        let text = folder.path().join("cases.yaml");
        fs::write(&text, "cases: []").unwrap();
        assert_eq!(sign(&text, &key).unwrap_err().code(), 78);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(sign(&file, &key).unwrap_err().code(), 74);
        assert!(!signature_of(&file).exists());
    }
}
