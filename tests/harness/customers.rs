//! Customers who order one thing after the other, whatever happens to the platform meanwhile, and
//! remember what they were told.
//!
//! Owns: what a customer does about a refusal (the same request again, with the same idempotency
//! key), and the proof that what was acknowledged is there afterwards: in the history, confirmed
//! once, paid once.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::mesh;
use crate::person::Person;
use crate::stack::StackInfo;

/// Between two orders of a customer.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a customer looks at a page that does not come.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long the last confirmation may take after everything is back.
const CONFIRMATION: Duration = Duration::from_secs(20);
/// How often a customer repeats a request before they begin a new one: an order that has failed for
/// good answers so under its key forever.
const REPETITIONS: usize = 4;
/// Of such an article a story does not buy the last one.
const PLENTY: u64 = 50;
/// The page size of history and notifications; a story stays below it.
const PAGE: usize = 100;

/// Orders of a page that nobody was told of: those that were under way when the story ended.
const UNDER_WAY: usize = 10;

/// How much one customer orders. What all customers of one user order stays below a page.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub most: usize,
    /// Between two orders.
    pub pause: Duration,
}

impl Pace {
    /// Of the only customer of a user.
    pub const ALONE: Self = Self {
        most: PAGE,
        pause: PAUSE,
    };

    /// Of one of so many of the same user, for half a minute at least: with three there are thirty orders each.
    pub fn shared(among: usize) -> Self {
        Self {
            most: (PAGE - UNDER_WAY) / among.max(1),
            pause: PAUSE * 4,
        }
    }
}

/// What customers of one user were told.
pub struct Ledger {
    user: &'static str,
    /// Orders that were answered as placed.
    pub acknowledged: Vec<String>,
    /// When each of them was.
    pub at: Vec<Instant>,
    /// Requests that were answered otherwise, or not at all.
    pub refused: Vec<Refused>,
}

/// A request that was answered otherwise, or not at all.
#[derive(Debug, Clone)]
pub struct Refused {
    pub asked: Instant,
    pub answered: Instant,
    pub what: String,
}

/// Orders as `user` until `done`.
pub async fn order_until(
    stack: &StackInfo,
    user: &'static str,
    pace: Pace,
    done: &Cell<bool>,
) -> Result<Ledger> {
    let mut person = Person::signed_in(stack, user).await?;
    let skus = person.skus().await?;
    let mut ledger = Ledger::of(user, Vec::new());
    for sku in skus.iter().cycle() {
        if done.get() || ledger.acknowledged.len() >= pace.most {
            break;
        }
        let key = uuid::Uuid::new_v4().to_string();
        for _ in 0..REPETITIONS {
            let asked = Instant::now();
            let answer = tokio::time::timeout(PATIENCE, person.order(sku, &key)).await;
            let what = match answer {
                Ok(Ok((status, order))) if status.is_success() => {
                    ledger.note(&order)?;
                    break;
                }
                Ok(Ok((status, answer))) if status == StatusCode::BAD_REQUEST => {
                    bail!("an order was refused for good: {status} {answer}");
                }
                Ok(Ok((status, answer))) => {
                    // A server that started again may have forgotten who that was.
                    if status == StatusCode::UNAUTHORIZED
                        && let Ok(again) = Person::signed_in(stack, user).await
                    {
                        person = again;
                    }
                    format!("{status} {answer}")
                }
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
            ledger.refused.push(Refused {
                asked,
                answered: Instant::now(),
                what,
            });
            if done.get() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(pace.pause).await;
    }
    Ok(ledger)
}

impl Ledger {
    /// Of orders that were acknowledged otherwise.
    pub fn of(user: &'static str, acknowledged: Vec<String>) -> Self {
        Self {
            user,
            acknowledged,
            at: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Of all customers of one user.
    pub fn joined(user: &'static str, ledgers: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::of(user, Vec::new());
        for ledger in ledgers {
            all.acknowledged.extend(ledger.acknowledged);
            all.at.extend(ledger.at);
            all.refused.extend(ledger.refused);
        }
        all
    }

    fn note(&mut self, order: &Value) -> Result<()> {
        if order["status"] == "placed" {
            let id = order["id"].as_str().context("an order without an id")?;
            self.acknowledged.push(id.to_owned());
            self.at.push(Instant::now());
        }
        Ok(())
    }

    /// Everything acknowledged is in the history as placed, was confirmed exactly once and paid
    /// exactly once; whatever else stands in the history was paid exactly when it is placed.
    pub async fn holds(&self, stack: &StackInfo) -> Result<()> {
        let person = Person::signed_in(stack, self.user).await?;
        let history = newest(&person).await?;
        let mut placed = BTreeSet::new();
        for order in &history {
            let id = order["id"].as_str().context("an order without an id")?;
            if order["status"] == "placed" {
                ensure!(placed.insert(id), "{id} stands in the history twice");
            }
        }
        for id in &self.acknowledged {
            ensure!(
                placed.contains(id.as_str()),
                "the acknowledged order {id} is lost: its history says {:?}",
                history.iter().find(|order| order["id"] == id.as_str())
            );
        }
        self.confirmed_once(&person).await?;
        let payments = mesh::Caller::new(stack, "orders", "payments")?;
        let key = stack.secret("orders", "api-key-payments")?;
        // The newest come first; older ones belong to another story.
        let own = self.acknowledged.len() + self.refused.len() + 1;
        for order in history.iter().take(own) {
            paid_as_it_stands(&payments, &key, order).await?;
        }
        Ok(())
    }

    async fn confirmed_once(&self, person: &Person) -> Result<()> {
        let started = Instant::now();
        loop {
            let path = format!("/api/notifications?limit={PAGE}");
            let list = person.api_json(Method::GET, &path, None).await?;
            let list = list["notifications"].as_array().cloned();
            let list = list.context("no list of notifications")?;
            let count = |id: &str| list.iter().filter(|entry| entry["order_id"] == id).count();
            let twice = self.acknowledged.iter().find(|id| count(id) > 1);
            ensure!(twice.is_none(), "{twice:?} was confirmed more than once");
            let missing = self.acknowledged.iter().filter(|id| count(id) == 0).count();
            if missing == 0 {
                return Ok(());
            }
            ensure!(
                started.elapsed() < CONFIRMATION,
                "{missing} of {} orders are not confirmed after {CONFIRMATION:?}",
                self.acknowledged.len()
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The newest page of the history.
async fn newest(person: &Person) -> Result<Vec<Value>> {
    let path = format!("/api/orders?limit={PAGE}");
    let history = person.api_json(Method::GET, &path, None).await?;
    history["orders"].as_array().cloned().context("no orders")
}

/// Payments has one payment of the right amount for a placed order, and none for another.
async fn paid_as_it_stands(payments: &mesh::Caller, key: &str, order: &Value) -> Result<()> {
    // Nobody was told that it stands; recovery brings it to its end, which may take two minutes.
    if order["status"] == "pending" {
        return Ok(());
    }
    let id = order["id"].as_str().context("an order without an id")?;
    let request = Request::get(format!("/v1/payments/{id}"))
        .header("x-api-key", key)
        .body(Bytes::new())?;
    let answer = payments.call(request).await?;
    if order["status"] != "placed" {
        let status = answer.status;
        ensure!(
            status == StatusCode::NOT_FOUND,
            "an order that is {} was paid: {status}",
            order["status"]
        );
        return Ok(());
    }
    ensure!(answer.status == StatusCode::OK, "{id}: {}", answer.status);
    let payment = answer.json()?;
    ensure!(
        payment["amount_minor"] == order["total_minor"],
        "{id} was paid with {payment}, and costs {}",
        order["total_minor"]
    );
    Ok(())
}

impl Person {
    /// What can be bought for a long time.
    pub async fn skus(&self) -> Result<Vec<String>> {
        let catalogue = self.api_json(Method::GET, "/api/catalogue", None).await?;
        let items = catalogue
            .as_array()
            .or_else(|| catalogue.get("items")?.as_array());
        let items = items.context("the catalogue is no list")?.iter();
        let skus: Vec<String> = items
            .filter(|item| item["available"].as_u64().unwrap_or(0) > PLENTY)
            .filter_map(|item| item["sku"].as_str().map(str::to_owned))
            .collect();
        ensure!(!skus.is_empty(), "nothing is in stock");
        Ok(skus)
    }

    /// One request for one unit, under the given idempotency key.
    pub async fn order(&self, sku: &str, key: &str) -> Result<(StatusCode, Value)> {
        let order = json!({ "lines": [{ "sku": sku, "quantity": 1 }] });
        let answer = self.post_with_key("/api/orders", &order, key).await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }
}
