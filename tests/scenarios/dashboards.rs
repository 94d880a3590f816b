//! The overlay `observability`: what its dashboards ask is what the components export.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::person::Person;
use e2e::stack::{self, StackInfo, engine};
use reqwest::Method;
use serde_json::Value;

/// How long until rates have enough scrapes, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(5);

/// R37: a real Prometheus scrapes every component over mTLS, every expression of every dashboard
/// returns a number after some traffic, and every rule can be evaluated.
pub(super) async fn r37_every_dashboard_panel_returns_data(stack: Arc<StackInfo>) -> Result<()> {
    let prometheus = Prometheus::of(&stack)?;
    let expressions = expressions()?;
    ensure!(expressions.len() > 40, "only {} panels", expressions.len());
    let deadline = Instant::now() + PATIENCE;
    loop {
        traffic(&stack).await?;
        let mut silent = Vec::new();
        for (panel, expression) in &expressions {
            if !has_number(&prometheus.query(expression).await?) {
                silent.push(format!("{panel}: {expression}"));
            }
        }
        if silent.is_empty() {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "no data within {PATIENCE:?}:\n{}",
            silent.join("\n")
        );
        tokio::time::sleep(PAUSE).await;
    }
    let up = prometheus.query("count(up{job=\"ringwall\"} == 1)").await?;
    let components = stack.components()?.len() - 1; // PostgreSQL exports nothing
    ensure!(
        number(&up) == Some(components as f64),
        "not all of {components} components are scraped: {up}"
    );
    prometheus.rules_are_healthy().await
}

/// Sign-in, orders that are placed and refused, and a call without a token.
async fn traffic(stack: &StackInfo) -> Result<()> {
    let alice = Person::signed_in(stack, "alice").await?;
    alice.place_order().await?;
    alice.api(Method::GET, "/api/notifications", None).await?;
    let too_many = serde_json::json!({ "lines": [{ "sku": "no-such-thing", "quantity": 1 }] });
    let refused = alice
        .api(Method::POST, "/api/orders", Some(&too_many))
        .await?;
    ensure!(
        !refused.status().is_success(),
        "an unknown article was sold"
    );
    let anonymous = e2e::edge::client(stack)?;
    anonymous
        .get(stack.api_url().join("/v1/orders")?)
        .send()
        .await?;
    Ok(())
}

/// The page of the overlay's Prometheus, as published on this machine.
struct Prometheus {
    origin: String,
    client: reqwest::Client,
}

impl Prometheus {
    fn of(stack: &StackInfo) -> Result<Self> {
        let site = stack.containers()?;
        let file = site.file.to_string_lossy();
        let words = [
            "compose",
            "-p",
            &site.project,
            "-f",
            &file,
            "port",
            "prometheus",
            "9090",
        ];
        let address = engine::docker(&words)?;
        Ok(Self {
            origin: format!("http://{}", address.trim()),
            client: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    async fn query(&self, expression: &str) -> Result<Value> {
        let request = self.client.get(format!("{}/api/v1/query", self.origin));
        let answer = request.query(&[("query", expression)]).send().await?;
        let answer: Value = answer.json().await.context("Prometheus gave no JSON")?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        Ok(answer)
    }

    async fn rules_are_healthy(&self) -> Result<()> {
        let answer = self.client.get(format!("{}/api/v1/rules", self.origin));
        let answer: Value = answer.send().await?.json().await?;
        let groups = answer["data"]["groups"].as_array();
        let rules = groups
            .into_iter()
            .flatten()
            .filter_map(|group| group["rules"].as_array());
        let mut count = 0;
        for rule in rules.flatten() {
            ensure!(rule["health"] == "ok", "a rule cannot be evaluated: {rule}");
            count += 1;
        }
        ensure!(count > 0, "Prometheus has no rules: {answer}");
        Ok(())
    }
}

/// Every expression of every dashboard, with its panel.
fn expressions() -> Result<Vec<(String, String)>> {
    let folder = stack::checkout()?.join("deploy/compose/observability/grafana/dashboards");
    let mut found = Vec::new();
    for file in std::fs::read_dir(&folder).context("the dashboards are missing")? {
        let text = std::fs::read_to_string(file?.path())?;
        let dashboard: Value = serde_json::from_str(&text)?;
        for panel in dashboard["panels"].as_array().into_iter().flatten() {
            let targets = panel["targets"].as_array().into_iter().flatten();
            found.extend(targets.filter_map(|target| {
                let name = format!("{} / {}", dashboard["title"], panel["title"]);
                Some((name, target["expr"].as_str()?.to_owned()))
            }));
        }
    }
    Ok(found)
}

/// A quantile without requests is `NaN`, which is no data.
fn has_number(answer: &Value) -> bool {
    number(answer).is_some()
}

fn number(answer: &Value) -> Option<f64> {
    let series = answer["data"]["result"].as_array()?.iter();
    let values = series.filter_map(|one| one["value"][1].as_str()?.parse::<f64>().ok());
    values.into_iter().find(|value| value.is_finite())
}
