//! What an author of plugins does, and an operator who puts a plugin into a running platform.
//!
//! Owns: the commands of docs/plugins.md, run as they stand there, in a home of its own; and the change of what a running
//! gateway or proxy reads. Must not: judge what came of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::operator::Said;
use crate::stack::{StackInfo, built, checkout};

/// A gateway or a proxy looks at its file each second, and compiles the module, which in a debug build on a busy machine takes
/// more than ten.
const TAKEN_OVER: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Runs words of a shell where the author is, with nothing of this run's own folders: cargo's and rustup's stay, as there is
/// nothing to be learned from fetching everything anew.
const SHELL: &str = r#"
export CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}"
export HOME="$1" PATH="$2:$PATH"
cd "$3"
eval "$4"
"#;

/// The folder of the plugins that were built with this platform.
pub fn folder() -> Result<PathBuf> {
    let ringwall = built("ringwall")?;
    let folder = ringwall.parent().context("it is in no folder")?;
    Ok(folder.join("../wasm"))
}

/// The block of `sh` that comes next after `heading` in the guide.
pub fn of_the_guide(heading: &str) -> Result<String> {
    let guide = std::fs::read_to_string(checkout()?.join("docs/plugins.md"))?;
    let after = guide.split_once(heading);
    let after = after.with_context(|| format!("docs/plugins.md no longer says {heading:?}"))?;
    let block = after.1.split_once("```sh\n").context("no block follows")?;
    let block = block.1.split_once("```").context("the block has no end")?;
    Ok(block.0.to_owned())
}

/// Somebody with an empty folder.
pub struct Author(TempDir);

impl Author {
    pub fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    pub fn home(&self) -> &Path {
        self.0.path()
    }

    /// What a shell says of `words`, in a folder of the home.
    pub async fn says(&self, folder: &str, words: &str) -> Result<Said> {
        let ringwall = built("ringwall")?;
        let mut command = Command::new("sh");
        command.args(["-euc", SHELL, "sh"]).arg(self.home());
        command.arg(ringwall.parent().context("it is in no folder")?);
        command.arg(self.home().join(folder)).arg(words);
        for ours in ["CARGO_TARGET_DIR", "CARGO_MANIFEST_DIR", "XDG_STATE_HOME"] {
            command.env_remove(ours);
        }
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        Ok(output.await?.into())
    }

    /// The same, which must succeed; what it has printed.
    pub async fn does(&self, folder: &str, words: &str) -> Result<String> {
        let said = self.says(folder, words).await?;
        ensure!(said.code == Some(0), "{words}: {said:?}");
        Ok(said.out)
    }

    /// Makes a key called `name` and signs `module` with it.
    pub async fn signs(&self, module: &Path, name: &str) -> Result<PathBuf> {
        let (key, module) = (self.home().join(name), module.display());
        let make = if key.is_file() { "" } else { "--generate " };
        let words = format!(
            "ringwall plugin sign {make}'{module}' --key '{}'",
            key.display()
        );
        self.does("", &words).await?;
        Ok(self.home().join(format!("{name}.pub")))
    }

    /// The folder of the built plugins again, in the home.
    pub fn copied(&self, names: &[&str]) -> Result<PathBuf> {
        let to = self.home().join("modules");
        std::fs::create_dir_all(&to)?;
        for name in names {
            let file = format!("{name}.wasm");
            let from = folder()?.join(&file);
            std::fs::copy(&from, to.join(file))
                .with_context(|| format!("no {}: run `cargo xtask wasm`", from.display()))?;
        }
        Ok(to)
    }
}

/// What a component of the native platform reads, and may be given another of while it runs. What was there first comes back
/// when this is dropped.
pub struct Configuration {
    component: String,
    file: PathBuf,
    first: String,
}

impl Configuration {
    pub fn of(stack: &StackInfo, component: &str) -> Result<Self> {
        let file = stack.state_dir.join(format!("config/{component}.yaml"));
        let first = std::fs::read_to_string(&file)
            .with_context(|| format!("no {}: is it the native stack?", file.display()))?;
        Ok(Self {
            component: component.to_owned(),
            file,
            first,
        })
    }

    /// As it was at first.
    pub fn first(&self) -> Result<Value> {
        Ok(serde_saphyr::from_str(&self.first)?)
    }

    /// Has it read something else, and waits until its log says `word`, which is what it thinks of that.
    pub async fn put(&self, stack: &StackInfo, value: &Value, word: &str) -> Result<()> {
        // YAML takes JSON as it is.
        self.put_text(stack, &value.to_string(), word).await
    }

    /// Has it read again what it read at first, and waits until it does.
    pub async fn restore(&self, stack: &StackInfo, word: &str) -> Result<()> {
        self.put_text(stack, &self.first, word).await
    }

    async fn put_text(&self, stack: &StackInfo, text: &str, word: &str) -> Result<()> {
        let mark = stack.log_mark();
        self.replace(text)?;
        let begun = Instant::now();
        loop {
            let log = stack.log_since(&self.component, &mark)?;
            if log.contains(word) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < TAKEN_OVER,
                "{} does not say {word:?} but {log}",
                self.component
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A reader sees the whole file or the one before.
    fn replace(&self, text: &str) -> Result<()> {
        let next = self.file.with_extension("next");
        std::fs::write(&next, text)?;
        Ok(std::fs::rename(&next, &self.file)?)
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        // Of a platform that is gone there is nothing to be put back.
        let _ = self.replace(&self.first);
    }
}

/// The route of this id in a gateway's configuration.
pub fn route<'a>(gateway: &'a mut Value, id: &str) -> Result<&'a mut Value> {
    let hosts = gateway["hosts"].as_array_mut().into_iter().flatten();
    let mut routes = hosts.flat_map(|host| host["routes"].as_array_mut().into_iter().flatten());
    let found = routes.find(|route| route["id"] == id);
    found.with_context(|| format!("the gateway has no route {id}"))
}
