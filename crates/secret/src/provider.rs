//! Where secrets come from: the environment, a directory of files, or one sealed file.
//!
//! Owns: [`SecretsConfig`], [`SecretProvider`] and the rules that hold for every source (R45).
//! Must not: keep a value longer than its source does. Each call asks the source, so that a rotated
//! secret is seen by the next call.
//! Read next: `sealed.rs` for the format of a sealed file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::private_file::{self, Stamp};
use crate::{SealKey, Secret, SecretBytes, SecretError, SecretString, sealed};

/// Which provider a component uses, as its configuration says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "provider", rename_all = "lowercase", deny_unknown_fields)]
pub enum SecretsConfig {
    /// Environment variables: `api-key` is read from `<prefix>API_KEY`.
    Env {
        /// What stands before the name, such as `RINGWALL_ORDERS_`.
        prefix: String,
    },
    /// One file for each secret, named as the secret, mode 0600; best on tmpfs.
    File {
        /// The directory that holds the files.
        directory: PathBuf,
    },
    /// One file with all secrets under AES-256-GCM.
    Sealed {
        /// The sealed file. Its name without `.sealed` is the owner that it must be sealed for.
        file: PathBuf,
        /// The key: 64 hexadecimal digits, mode 0600.
        key_file: PathBuf,
    },
}

/// An open source of secrets. Cheap to share behind a reference; every call reads the source.
pub enum SecretProvider {
    /// See [`SecretsConfig::Env`].
    Env(EnvSecrets),
    /// See [`SecretsConfig::File`].
    File(FileSecrets),
    /// See [`SecretsConfig::Sealed`].
    Sealed(SealedSecrets),
}

/// Secrets in the environment of the process.
pub struct EnvSecrets {
    prefix: String,
    read: fn(&str) -> Option<OsString>,
}

/// Secrets in a directory.
pub struct FileSecrets {
    directory: PathBuf,
}

/// Secrets in one sealed file.
pub struct SealedSecrets {
    file: PathBuf,
    key_file: PathBuf,
    owner: String,
    opened: Mutex<Option<Opened>>,
}

/// The content of one version of a sealed file. Kept, since unsealing for each call would only cost.
struct Opened {
    version: (Stamp, Stamp),
    secrets: Arc<BTreeMap<String, SecretBytes>>,
}

impl SecretProvider {
    /// Opens the configured source. A sealed file is opened at once, so that a wrong key stops the
    /// start and not the first request.
    ///
    /// # Errors
    /// Whatever keeps the source from being used: a missing directory, a wrong key, permissions.
    pub fn open(config: &SecretsConfig) -> Result<Self, SecretError> {
        match config {
            SecretsConfig::Env { prefix } => Ok(Self::Env(EnvSecrets {
                prefix: prefix.clone(),
                read: read_environment,
            })),
            SecretsConfig::File { directory } => {
                std::fs::read_dir(directory).map_err(|source| SecretError::Read {
                    path: directory.clone(),
                    source,
                })?;
                Ok(Self::File(FileSecrets {
                    directory: directory.clone(),
                }))
            }
            SecretsConfig::Sealed { file, key_file } => {
                let sealed = SealedSecrets::new(file, key_file)?;
                sealed.current()?;
                Ok(Self::Sealed(sealed))
            }
        }
    }

    /// The secret's exact bytes.
    ///
    /// # Errors
    /// [`SecretError`] says which secret, where it was looked for, and the fix.
    pub fn get(&self, name: &str) -> Result<SecretBytes, SecretError> {
        check_name(name)?;
        let value = match self {
            Self::Env(env) => env.get(name)?,
            Self::File(files) => files.get(name)?,
            Self::Sealed(sealed) => sealed.get(name)?,
        };
        if value.expose().is_empty() {
            return Err(SecretError::Empty {
                name: name.to_owned(),
                place: self.place(name),
            });
        }
        Ok(value)
    }

    /// The secret as text, without the one line ending that editors leave at the end of a file.
    ///
    /// # Errors
    /// As [`SecretProvider::get`], and [`SecretError::NotText`] when it is not UTF-8.
    pub fn get_string(&self, name: &str) -> Result<SecretString, SecretError> {
        let bytes = self.get(name)?;
        let text = std::str::from_utf8(bytes.expose()).map_err(|_| SecretError::NotText {
            name: name.to_owned(),
            place: self.place(name),
        })?;
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            return Err(SecretError::Empty {
                name: name.to_owned(),
                place: self.place(name),
            });
        }
        Ok(Secret::new(line.to_owned()))
    }

    /// Whether secrets rest encrypted. A production profile may ask for it.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed(_))
    }

    /// Where `name` is looked for, for error messages.
    fn place(&self, name: &str) -> String {
        match self {
            Self::Env(env) => env.place(name),
            Self::File(files) => files.directory.join(name).display().to_string(),
            Self::Sealed(sealed) => sealed.file.display().to_string(),
        }
    }
}

impl EnvSecrets {
    fn variable(&self, name: &str) -> String {
        format!(
            "{}{}",
            self.prefix,
            name.to_ascii_uppercase().replace('-', "_")
        )
    }

    fn place(&self, name: &str) -> String {
        format!("environment variable {}", self.variable(name))
    }

    fn get(&self, name: &str) -> Result<SecretBytes, SecretError> {
        let value = (self.read)(&self.variable(name)).ok_or_else(|| SecretError::Missing {
            name: name.to_owned(),
            place: format!("the environment (variable {})", self.variable(name)),
            fix: "set the variable, or choose another secret provider".to_owned(),
        })?;
        Ok(Secret::new(value.into_vec()))
    }
}

/// The one place besides configuration that reads the environment (STYLE, rule 10).
#[allow(
    clippy::disallowed_methods,
    reason = "this provider's source is the environment; callers name it in SecretsConfig"
)]
fn read_environment(variable: &str) -> Option<OsString> {
    std::env::var_os(variable)
}

impl FileSecrets {
    fn get(&self, name: &str) -> Result<SecretBytes, SecretError> {
        let path = self.directory.join(name);
        private_file::read(&path).map_err(|error| match error {
            SecretError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                SecretError::Missing {
                    name: name.to_owned(),
                    place: format!("directory {}", self.directory.display()),
                    fix: format!("write its value to {} with mode 0600", path.display()),
                }
            }
            other => other,
        })
    }
}

impl SealedSecrets {
    fn new(file: &Path, key_file: &Path) -> Result<Self, SecretError> {
        let owner = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .ok_or_else(|| SecretError::NotAFile {
                path: file.to_owned(),
                why: "its name names no owner",
            })?;
        Ok(Self {
            file: file.to_owned(),
            key_file: key_file.to_owned(),
            owner: owner.to_owned(),
            opened: Mutex::new(None),
        })
    }

    fn get(&self, name: &str) -> Result<SecretBytes, SecretError> {
        self.current()?
            .get(name)
            .cloned()
            .ok_or_else(|| SecretError::Missing {
                name: name.to_owned(),
                place: format!("sealed file {}", self.file.display()),
                fix: format!("seal it into that file for owner {:?}", self.owner),
            })
    }

    /// The content of the file as it is now, unsealed again only when file or key has changed.
    fn current(&self) -> Result<Arc<BTreeMap<String, SecretBytes>>, SecretError> {
        let version = (Stamp::of(&self.file)?, Stamp::of(&self.key_file)?);
        // A panic cannot leave the option half written, so a poisoned lock is as good as any.
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = opened.as_ref().filter(|opened| opened.version == version) {
            return Ok(Arc::clone(&same.secrets));
        }
        let key = SealKey::from_file(&self.key_file)?;
        let secrets = Arc::new(sealed::read(&self.file, &key, &self.owner)?);
        *opened = Some(Opened {
            version,
            secrets: Arc::clone(&secrets),
        });
        Ok(secrets)
    }
}

/// Names are also file names and variable names: nothing in them may mean anything to either.
pub(crate) fn check_name(name: &str) -> Result<(), SecretError> {
    const MAX_BYTES: usize = 64;
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if (1..=MAX_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(SecretError::Name(name.chars().take(MAX_BYTES).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::os::unix::fs::PermissionsExt;

    thread_local! {
        /// A stand-in for the environment: changing the real one would race with other tests.
        static ENVIRONMENT: RefCell<BTreeMap<String, OsString>> = RefCell::default();
    }

    /// One source under test: how to open it, and how its operator writes secrets.
    struct Source {
        dir: tempfile::TempDir,
        kind: &'static str,
        content: RefCell<BTreeMap<String, SecretBytes>>,
        key: SealKey,
    }

    impl Source {
        fn all() -> [Self; 3] {
            ["env", "file", "sealed"].map(|kind| {
                let source = Self {
                    dir: tempfile::tempdir().unwrap(),
                    kind,
                    content: RefCell::default(),
                    key: SealKey::generate().unwrap(),
                };
                source.write_key();
                source.set("first", b"1");
                source
            })
        }

        fn write_key(&self) {
            let path = self.dir.path().join("orders.seal-key");
            private_file::write(&path, self.key.to_hex().expose().as_bytes()).unwrap();
        }

        fn set(&self, name: &str, value: &[u8]) {
            self.content
                .borrow_mut()
                .insert(name.to_owned(), Secret::new(value.to_vec()));
            match self.kind {
                "env" => ENVIRONMENT.with_borrow_mut(|environment| {
                    let variable = format!("T_{}", name.to_uppercase().replace('-', "_"));
                    environment.insert(variable, OsString::from_vec(value.to_vec()));
                }),
                "file" => private_file::write(&self.dir.path().join(name), value).unwrap(),
                _ => {
                    let path = self.dir.path().join("orders.sealed");
                    sealed::write(&path, &self.key, "orders", &self.content.borrow()).unwrap();
                }
            }
        }

        fn open(&self) -> SecretProvider {
            match self.kind {
                "env" => SecretProvider::Env(EnvSecrets {
                    prefix: "T_".to_owned(),
                    read: |name| ENVIRONMENT.with_borrow(|e| e.get(name).cloned()),
                }),
                "file" => SecretProvider::open(&SecretsConfig::File {
                    directory: self.dir.path().to_owned(),
                })
                .unwrap(),
                _ => SecretProvider::open(&self.sealed_config()).unwrap(),
            }
        }

        fn sealed_config(&self) -> SecretsConfig {
            SecretsConfig::Sealed {
                file: self.dir.path().join("orders.sealed"),
                key_file: self.dir.path().join("orders.seal-key"),
            }
        }
    }

    /// The contract that every provider keeps (R45). A new provider is added to `Source::all`.
    fn suite(check: impl Fn(&Source, &SecretProvider)) {
        for source in Source::all() {
            let provider = source.open();
            check(&source, &provider);
        }
    }

    #[test]
    fn r45_values_come_back_exactly() {
        suite(|source, provider| {
            source.set("api-key", b"rwk_1\n");
            assert!(
                provider.get("api-key").unwrap().ct_eq(b"rwk_1\n"),
                "{}",
                source.kind
            );
            assert_eq!(provider.get_string("api-key").unwrap().expose(), "rwk_1");
            source.set("crlf", b" spaced \r\n");
            assert_eq!(provider.get_string("crlf").unwrap().expose(), " spaced ");
            source.set("binary", &[0xff, 0xfe]);
            assert!(provider.get("binary").unwrap().ct_eq(&[0xff, 0xfe]));
        });
    }

    #[test]
    fn r45_a_rotated_value_is_seen_by_the_next_call() {
        suite(|source, provider| {
            for value in [b"one", b"two", b"six"] {
                source.set("pepper", value);
                assert!(
                    provider.get("pepper").unwrap().ct_eq(value),
                    "{}",
                    source.kind
                );
            }
        });
    }

    #[test]
    fn r45_errors_name_secret_place_and_fix_but_no_value() {
        suite(|source, provider| {
            let missing = provider.get("absent-key").err().unwrap();
            assert!(matches!(missing, SecretError::Missing { .. }), "{missing}");
            assert!(missing.to_string().contains("\"absent-key\""), "{missing}");
            source.set("text", b"hunter2\xff");
            let not_text = provider.get_string("text").err().unwrap();
            assert!(
                matches!(not_text, SecretError::NotText { .. }),
                "{not_text}"
            );
            assert!(!not_text.to_string().contains("hunter2"), "{not_text}");
            source.set("nothing", b"");
            assert!(matches!(
                provider.get("nothing"),
                Err(SecretError::Empty { .. })
            ));
            source.set("nothing", b"\n");
            assert!(matches!(
                provider.get_string("nothing"),
                Err(SecretError::Empty { .. })
            ));
        });
    }

    #[test]
    fn r45_names_cannot_reach_elsewhere() {
        suite(|_, provider| {
            let long = "x".repeat(65);
            for name in ["", "../orders", "a/b", "A", "a_b", "a\0", "ä", ".", &long] {
                assert!(
                    matches!(provider.get(name), Err(SecretError::Name(_))),
                    "{name:?}"
                );
            }
        });
    }

    #[test]
    fn only_the_sealed_provider_is_sealed() {
        suite(|source, provider| assert_eq!(provider.is_sealed(), source.kind == "sealed"));
    }

    #[test]
    fn file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        private_file::write(&path, b"value").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let config = SecretsConfig::File {
            directory: dir.path().to_owned(),
        };
        let error = SecretProvider::open(&config)
            .unwrap()
            .get("api-key")
            .err()
            .unwrap();
        assert!(matches!(error, SecretError::Permissions { .. }), "{error}");
    }

    #[test]
    fn sources_that_cannot_work_stop_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        let config = SecretsConfig::File {
            directory: absent.clone(),
        };
        assert!(SecretProvider::open(&config).is_err());
        let config = SecretsConfig::Sealed {
            file: absent.clone(),
            key_file: absent,
        };
        assert!(SecretProvider::open(&config).is_err());
        let [_, _, source] = Source::all();
        std::fs::rename(
            source.dir.path().join("orders.sealed"),
            source.dir.path().join("payments.sealed"),
        )
        .unwrap();
        let config = SecretsConfig::Sealed {
            file: source.dir.path().join("payments.sealed"),
            key_file: source.dir.path().join("orders.seal-key"),
        };
        let error = SecretProvider::open(&config).err().unwrap();
        assert!(
            matches!(error, SecretError::Unseal { .. }),
            "another owner's file: {error}"
        );
    }

    #[test]
    fn the_real_environment_is_read() {
        let provider = SecretProvider::open(&SecretsConfig::Env {
            prefix: String::new(),
        })
        .unwrap();
        assert!(
            provider.get("path").is_ok(),
            "PATH is set wherever tests run"
        );
        assert!(provider.get("ringwall-no-such-variable").is_err());
    }

    #[test]
    fn configuration_is_strict() {
        let config: SecretsConfig = serde_json::from_str(
            r#"{"provider":"sealed","file":"/s/orders.sealed","key_file":"/s/orders.seal-key"}"#,
        )
        .unwrap();
        assert!(matches!(config, SecretsConfig::Sealed { .. }));
        for bad in [
            r#"{"provider":"vault"}"#,
            r#"{"provider":"env","prefix":"A_","value":"hunter2"}"#,
            r#"{"directory":"/x"}"#,
        ] {
            assert!(serde_json::from_str::<SecretsConfig>(bad).is_err(), "{bad}");
        }
    }
}
