//! Keys and certificates are exchanged under load, and nobody notices.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::edge;
use e2e::mesh;
use e2e::oauth;
use e2e::person::Person;
use e2e::soak::{self, Plan};
use e2e::stack::{Stack, StackInfo, engine};
use http::{Request, StatusCode};
use ringwall_secret::{SealKey, Secret, SecretBytes, sealed};
use ringwall_token::api_key::{self, ApiKeyEntry, KeyId};

/// Between two steps of the operator: long enough for requests under each state.
const STEP: Duration = Duration::from_millis(700);
const ENTRIES: &str = "api-key-entries";
const KEY: &str = "api-key-inventory";

/// A component's sealed secrets, opened as an operator opens them.
struct Vault {
    file: PathBuf,
    seal: SealKey,
    owner: &'static str,
    secrets: BTreeMap<String, SecretBytes>,
}

impl Vault {
    fn open(stack: &StackInfo, owner: &'static str) -> Result<Self> {
        let folder = stack.state_dir.join("secrets");
        let seal = SealKey::from_file(&folder.join(format!("{owner}.seal-key")))?;
        let file = folder.join(format!("{owner}.sealed"));
        let secrets = sealed::read(&file, &seal, owner)?;
        Ok(Self {
            file,
            seal,
            owner,
            secrets,
        })
    }

    fn get(&self, name: &str) -> Result<&SecretBytes> {
        self.secrets.get(name).with_context(|| format!("no {name}"))
    }

    fn put(&mut self, name: &str, value: Vec<u8>) -> Result<()> {
        self.secrets.insert(name.to_owned(), Secret::new(value));
        Ok(sealed::write(
            &self.file,
            &self.seal,
            self.owner,
            &self.secrets,
        )?)
    }
}

/// R20: the key of orders for inventory is exchanged in three steps (accept both, send the new one,
/// forget the old one) while the catalogue is read without a pause.
pub(super) async fn r20_key_rotation_under_load_has_no_error(stack: Arc<StackInfo>) -> Result<()> {
    let old = stack.secret("orders", KEY)?;
    let token = oauth::client_token(&stack, "demo-cli").await?;
    let done = Cell::new(false);
    let (rotated, load) = tokio::join!(
        async {
            let outcome = rotate(&stack).await;
            done.set(true);
            outcome
        },
        catalogue_load(&stack, &token, &done)
    );
    let new = rotated?;
    ensure!(load? > 20, "there was no load");
    for (name, key, expected) in [
        ("the old key", old, StatusCode::UNAUTHORIZED),
        ("the new key", new, StatusCode::OK),
    ] {
        let request = Request::get("/v1/items")
            .header("x-api-key", key)
            .body(Bytes::new())?;
        let answer = mesh::call_as(&stack, "orders", "inventory", request).await?;
        ensure!(answer.status == expected, "{name}: {}", answer.status);
    }
    Ok(())
}

async fn rotate(stack: &StackInfo) -> Result<String> {
    let (mut orders, mut inventory) = (
        Vault::open(stack, "orders")?,
        Vault::open(stack, "inventory")?,
    );
    let mut entries: Vec<ApiKeyEntry> = serde_json::from_slice(inventory.get(ENTRIES)?.expose())?;
    let old = entries.first().context("inventory accepts no key")?;
    let id = KeyId::parse("orders-next")?;
    let key = api_key::generate(&id)?;
    let new = ApiKeyEntry {
        hash: api_key::hash(inventory.get("api-key-pepper")?, &key),
        id,
        ..old.clone()
    };
    tokio::time::sleep(STEP).await;
    entries.push(new.clone());
    inventory.put(ENTRIES, serde_json::to_vec(&entries)?)?;
    tokio::time::sleep(STEP).await;
    orders.put(KEY, key.expose().clone().into_bytes())?;
    tokio::time::sleep(STEP).await;
    inventory.put(ENTRIES, serde_json::to_vec(&[new])?)?;
    tokio::time::sleep(STEP).await;
    Ok(key.expose().clone())
}

/// Reads the catalogue until `done`; the first answer but 200 is an error.
async fn catalogue_load(stack: &StackInfo, token: &str, done: &Cell<bool>) -> Result<usize> {
    let client = edge::client(stack)?;
    let url = stack.api_url().join("/v1/catalogue")?;
    let mut answered = 0;
    while !done.get() {
        let status = client
            .get(url.clone())
            .bearer_auth(token)
            .send()
            .await?
            .status();
        ensure!(
            status == StatusCode::OK,
            "{status} after {answered} answers"
        );
        answered += 1;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Ok(answered)
}

/// Longer than the life of the first certificates, so that whoever still used them would fail.
const LOAD: Duration = Duration::from_secs(75);

/// A server's certificate lives for a minute at least. `cargo xtask soak` is the same for ten minutes.
const SHORT: Plan = Plan {
    life: Duration::from_secs(30),
    edge: Duration::from_secs(60),
    length: LOAD,
    customers: 4,
    pause: Duration::from_millis(250),
};

/// R23 R24 R33: a platform of its own whose certificates live for a minute at most: all of them (of the
/// workloads, PostgreSQL's server and client, the public one) end during the load, and no request fails,
/// no confirmation is lost on an open page, and a connection to the database outlives them.
pub(super) async fn r24_certificates_rotate_under_load_without_an_error(
    _: Arc<StackInfo>,
) -> Result<()> {
    let mut stack = Stack::start_as(Some(&SHORT.composition()?))?;
    let outcome = Box::pin(soak::run(&stack.info, &SHORT)).await;
    let outcome = outcome.and_then(|report| {
        ensure!(report.orders > 200, "{} orders are no load", report.orders);
        ensure!(report.errors == 0, "{report:?}");
        Ok(())
    });
    if outcome.is_err() {
        eprintln!("its state is kept in {}", stack.keep_state().display());
    }
    let stopped = stack.stop();
    outcome.and(stopped)
}

/// R24: in containers, an agent that starts again has every certificate issued anew, and the operator's signal
/// makes the provisioner renew what is the operator's: all serve and dial with the new ones, and no order
/// fails.
pub(super) async fn r24_certificates_rotate_in_containers_without_an_error(
    stack: Arc<StackInfo>,
) -> Result<()> {
    const TIMES: usize = 2;
    let provisioner = stack.containers()?.container("provisioner");
    let own = stack.identity("ringwall").join("svid.pem");
    let alice = Person::signed_in(&stack, "alice").await?;
    let mut seen: BTreeSet<Vec<u8>> = BTreeSet::new();
    seen.insert(mesh::served(&stack, &stack.component("orders")?).await?);
    for round in 1..=TIMES {
        let before = std::fs::read(&own)?;
        engine::docker_async(&["kill", "--signal", "USR1", &provisioner]).await?;
        stack.restart("agent").await?;
        let asked = Instant::now();
        while seen.len() <= round {
            let order = alice.place_order().await.context("during the rotation")?;
            ensure!(order["status"] == "placed", "the order is {order}");
            seen.insert(mesh::served(&stack, &stack.component("orders")?).await?);
            edge::raw_tls(&stack, &stack.app_host()).await?;
            ensure!(
                asked.elapsed() < LOAD,
                "orders serves its old certificate after {LOAD:?}"
            );
        }
        stack.refresh()?;
        ensure!(std::fs::read(&own)? != before, "the operator's is the same");
    }
    let answer = mesh::call_as(
        &stack,
        "gateway",
        "orders",
        Request::get("/").body(Bytes::new())?,
    );
    answer
        .await
        .context("with the new identity of the gateway")?;
    Ok(())
}
