//! "Within a second", on a machine that does other things as well.
//!
//! Owns: how often a machine may have been busy, and a change of the policy that is measured and taken back. Must not: hide
//! what is slow each time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use http::StatusCode;
use serde_json::Value;

use crate::operator;
use crate::stack::StackInfo;

/// What is required of policies and edges (R31).
const BOUND: Duration = Duration::from_secs(1);
/// A busy machine may take longer, but not for ever.
const AT_MOST: Duration = Duration::from_secs(10);
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until it is so, and says how long that took. A question that was begun in time counts, however long its answer takes:
/// what is cut in the middle may wait for nothing.
pub async fn took(mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let asked = begun.elapsed();
        if is_so().await? {
            return Ok(asked);
        }
        ensure!(asked < AT_MOST, "not even after {AT_MOST:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Changes the policy and rolls it back. From the control plane's answer until `is_allowed` says so, either takes less than
/// [`BOUND`]; of [`TRIES`], one must show it.
pub async fn policies_are_in_force(
    stack: &StackInfo,
    change: impl Fn(&mut Value) -> Result<()>,
    mut is_allowed: impl AsyncFnMut() -> Result<Option<bool>>,
) -> Result<()> {
    ensure!(is_allowed().await? == Some(true), "not even before");
    let mut seen = Vec::new();
    while seen.len() < TRIES {
        let (closed, opened) = there_and_back(stack, &change, &mut is_allowed).await?;
        if closed < BOUND && opened < BOUND {
            eprintln!("refused after {closed:?}, allowed after {opened:?}");
            return Ok(());
        }
        seen.push((closed, opened));
    }
    bail!("refused, and allowed, never within {BOUND:?}: {seen:?}")
}

async fn there_and_back(
    stack: &StackInfo,
    change: impl Fn(&mut Value) -> Result<()>,
    mut is_allowed: impl AsyncFnMut() -> Result<Option<bool>>,
) -> Result<(Duration, Duration)> {
    let (version, mut bundle) = operator::policy(stack).await?;
    change(&mut bundle)?;
    let answer = operator::apply(stack, version, &bundle).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    let closed = took(async || Ok(is_allowed().await? == Some(false))).await;
    let (newest, _) = operator::policy(stack).await?;
    let back = operator::roll_back(stack, newest, version).await?;
    ensure!(back.status == StatusCode::OK, "rollback: {back:?}");
    let opened = took(async || Ok(is_allowed().await? == Some(true))).await;
    ensure!(newest == version + 1, "version {newest} after {version}");
    Ok((closed.context("refused")?, opened.context("allowed")?))
}
