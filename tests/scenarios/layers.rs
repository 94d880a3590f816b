//! R60: no secret of this stack, and no key at all, in any layer of any image that it runs.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use e2e::stack::{StackInfo, engine};

/// A key with its first line, and an API key with its random part: programs that read these hold the
/// words alone. Each stands beside a text in which it is found. Official images bring example keys
/// of their own.
const PATTERNS: [(&[&str], &str); 2] = [
    (
        &[
            "-z",
            "-P",
            "-e",
            "-----BEGIN ([A-Z]+ )*PRIVATE KEY-----\\r?\\n[A-Za-z0-9+/=]{40}",
        ],
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n",
    ),
    (
        &["-E", "-e", "rwk_[a-z0-9-]+_[A-Za-z0-9_-]{32,}"],
        "rwk_orders-inventory_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ),
];

/// Every image that runs, layer by layer.
pub(super) async fn r60_no_image_holds_a_secret(stack: Arc<StackInfo>) -> Result<()> {
    let site = stack.containers()?;
    let mut images = BTreeSet::new();
    for service in &site.services {
        let inspected = engine::inspect(&site.container(service))?;
        let image = inspected["Config"]["Image"].as_str().context("no image")?;
        images.insert(image.to_owned());
    }
    let canaries = tempfile::NamedTempFile::new()?;
    std::fs::write(canaries.path(), self::canaries(&stack)?.join("\n"))?;
    let canaries = canaries.path().to_str().context("no UTF-8")?;
    control(canaries)?;
    for image in &images {
        let history =
            engine::docker(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", image])?;
        holds_no_secret(&history, &self::canaries(&stack)?)
            .with_context(|| format!("history of {image}"))?;
        let found = search(image, &["-F", "-f", canaries])?;
        ensure!(!found, "a layer of {image} holds a secret of this stack");
        if image.contains("ringwall") {
            for (pattern, _) in PATTERNS {
                ensure!(
                    !search(image, pattern)?,
                    "a layer of {image} holds {pattern:?}"
                );
            }
        }
    }
    Ok(())
}

/// The generated secrets of this very stack.
pub(super) fn canaries(stack: &StackInfo) -> Result<Vec<String>> {
    let mut canaries = stack.all_credentials();
    for (component, name) in [
        ("orders", "api-key-inventory"),
        ("orders", "api-key-payments"),
        ("orders", "postgres-password"),
        ("gateway", "oauth-client-secret"),
    ] {
        canaries.push(stack.secret(component, name)?);
    }
    // A key with line breaks is looked for by its pattern.
    canaries.retain(|canary| !canary.contains('\n') && canary.len() > 8);
    ensure!(canaries.len() > 8, "too few canaries");
    Ok(canaries)
}

/// The same for a short text.
pub(super) fn holds_no_secret(text: &str, canaries: &[String]) -> Result<()> {
    ensure!(!text.contains("PRIVATE KEY"), "a private key");
    ensure!(!text.contains("rwk_"), "an API key");
    let found = canaries.iter().any(|canary| text.contains(canary.as_str()));
    ensure!(!found, "a secret of this stack");
    Ok(())
}

/// Whether a line of the saved image matches.
fn search(image: &str, pattern: &[&str]) -> Result<bool> {
    let mut saving = Command::new("docker")
        .args(["save", image])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run docker")?;
    let layers = saving.stdout.take().context("no output")?;
    // Not --quiet: it would end before the image does, and that looks like a failed save.
    let searched = Command::new("grep")
        .args(["--text", "--count"])
        .args(pattern)
        .env("LC_ALL", "C")
        .stdin(layers)
        .output()
        .context("cannot run grep")?;
    ensure!(saving.wait()?.success(), "cannot save {image}");
    match searched.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => anyhow::bail!("grep: {}", String::from_utf8_lossy(&searched.stderr)),
    }
}

/// The searches find what is there.
fn control(canaries: &str) -> Result<()> {
    let text = std::fs::read_to_string(canaries)?;
    let own: (&[&str], &str) = (&["-F", "-f", canaries], &text);
    for (pattern, sample) in PATTERNS.into_iter().chain([own]) {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), format!("\0binary{sample}"))?;
        let searched = Command::new("grep")
            .args(["--text", "--count"])
            .args(pattern)
            .arg(file.path())
            .env("LC_ALL", "C")
            .output()?;
        ensure!(
            searched.status.success(),
            "{pattern:?} finds nothing at all"
        );
    }
    Ok(())
}
