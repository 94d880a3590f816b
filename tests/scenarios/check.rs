//! `ringwall check` against a platform that runs: well, and with a part of its mesh broken.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::mesh::{self, Presented};
use e2e::operator::{self, Said};
use e2e::stack::{Kind, StackInfo, checkout};
use ringwall_identity::SpiffeId;
use serde_json::Value;
use time::OffsetDateTime;

/// What is looked at of every platform that runs.
const OF_THE_MESH: [&str; 6] = [
    "certificates",
    "control-plane",
    "data-plane",
    "identity",
    "interception",
    "proxies",
];
/// Natively the composition too.
const OF_THE_COMPOSITION: [&str; 3] = ["configuration", "machine", "policy"];

/// Everything is good: 0, each category has something to say, and nothing has a hint.
pub(super) async fn r61_the_command_check_is_content_with_a_healthy_platform(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let report = checked(&stack, 0).await?;
    ensure!(report["ok"] == true, "{report}");
    let mut expected: BTreeSet<&str> = OF_THE_MESH.into();
    match stack.kind() {
        Kind::Native => expected.extend(OF_THE_COMPOSITION),
        Kind::Containers => expected.extend(["machine"]),
    }
    let findings = findings(&report)?;
    let seen: BTreeSet<&str> = findings
        .iter()
        .filter_map(|finding| finding["category"].as_str())
        .collect();
    ensure!(seen == expected, "{seen:?}, and not {expected:?}");
    for finding in findings {
        ensure!(finding["ok"] == true, "{finding}");
        ensure!(finding["hint"].is_null(), "{finding}");
        ensure!(finding["detail"].is_string(), "{finding}");
    }
    for (category, subject) in [
        ("certificates", "ringwall"),
        ("certificates", "orders"),
        ("certificates", "gateway"),
        ("proxies", "inventory-proxy"),
        ("identity", "agent"),
        ("data-plane", "payments"),
    ] {
        of(findings, category, subject)?;
    }
    let text = operator::check(&stack, &["--mesh"]).await?.with_code(0)?;
    ensure!(
        text.out.contains("control-plane\n") && !text.out.contains("REFUSED"),
        "{text:?}"
    );
    Ok(())
}

/// A part of the mesh does not move: 1, its category says so and leads to a place of the documentation that is there, and
/// what does not depend on it is good.
pub(super) async fn r61_the_command_check_names_what_is_broken(
    stack: Arc<StackInfo>,
) -> Result<()> {
    for (component, category, subject) in [
        ("inventory-proxy", "proxies", "inventory-proxy"),
        ("agent", "identity", "agent"),
        ("control-plane", "control-plane", "answer"),
    ] {
        let frozen = stack.freeze(component).await?;
        let report = checked(&stack, 1).await;
        frozen.thaw().await?;
        stack.recovered(component).await?;
        let report = report.with_context(|| format!("{component} does not move"))?;
        ensure!(report["ok"] == false, "{report}");
        let findings = findings(&report)?;
        let finding = of(findings, category, subject)?;
        ensure!(finding["ok"] == false, "{component}: {finding}");
        leads_somewhere(finding)?;
        let others = of(findings, "data-plane", "payments")?;
        ensure!(others["ok"] == true, "{component}: {others}");
    }
    stack.recovered("inventory").await?;
    Ok(())
}

/// R33: the operator's certificate has ended, or is not there: nobody can be asked, and that is what is said.
pub(super) async fn r33_the_command_check_tells_of_a_certificate_that_ended_or_is_missing(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let folder = stack.identity("ringwall");
    let kept = Kept::of(&folder)?;
    let long_ago = OffsetDateTime::now_utc() - Duration::from_secs(7200);
    let id = SpiffeId::workload(&mesh::trust_domain()?, "ringwall")?;
    let ended = Presented::made(&mesh::stolen_authority(&stack)?, &id, long_ago)?;
    std::fs::write(folder.join(SVID), ended.chain_pem())?;
    let of_ended = operator::check(&stack, &["--mesh", "-o", "json"]).await;
    std::fs::remove_file(folder.join(SVID))?;
    let of_missing = operator::check(&stack, &["--mesh", "-o", "json"]).await;
    kept.put_back()?;
    for (said, words) in [(of_ended, "it ended at"), (of_missing, "No such file")] {
        let report = said?.with_code(1)?.json()?;
        let finding = of(findings(&report)?, "certificates", "ringwall")?;
        ensure!(finding["ok"] == false, "{finding}");
        let detail = finding["detail"].as_str().unwrap_or_default();
        ensure!(
            detail.contains(words) && detail.contains("fix: "),
            "`{words}` is not in {detail}"
        );
        leads_somewhere(finding)?;
    }
    operator::check(&stack, &["--mesh"]).await?.with_code(0)?;
    Ok(())
}

const SVID: &str = "svid.pem";

/// A file that is put back whatever happens.
struct Kept {
    file: PathBuf,
    text: String,
}

impl Kept {
    fn of(folder: &Path) -> Result<Self> {
        let file = folder.join(SVID);
        let text = std::fs::read_to_string(&file)?;
        Ok(Self { file, text })
    }

    fn put_back(&self) -> Result<()> {
        Ok(std::fs::write(&self.file, &self.text)?)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.put_back();
    }
}

async fn checked(stack: &StackInfo, code: i32) -> Result<Value> {
    let said: Said = operator::check(stack, &["-o", "json"]).await?;
    said.with_code(code)?.json()
}

fn findings(report: &Value) -> Result<&[Value]> {
    let findings = report["findings"].as_array();
    findings.map(Vec::as_slice).context("no findings")
}

fn of<'a>(findings: &'a [Value], category: &str, subject: &str) -> Result<&'a Value> {
    let found = findings
        .iter()
        .find(|finding| finding["category"] == category && finding["subject"] == subject);
    found.with_context(|| format!("nothing about {category} {subject}: {findings:?}"))
}

/// The hint names a heading of a file in this checkout.
fn leads_somewhere(finding: &Value) -> Result<()> {
    let hint = finding["hint"].as_str().context("no hint")?;
    let (file, anchor) = hint.split_once('#').context("no anchor")?;
    let text = std::fs::read_to_string(checkout()?.join(file))
        .with_context(|| format!("{hint} leads nowhere"))?;
    let anchors = text.lines().filter(|line| line.starts_with('#'));
    let mut anchors = anchors.map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        heading.replace(": ", "-").replace(' ', "-")
    });
    ensure!(anchors.any(|known| known == anchor), "{hint} leads nowhere");
    Ok(())
}
