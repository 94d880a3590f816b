//! From an empty folder to a filter of the running platform, by the guide's own commands, and its next versions under load.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::composition;
use e2e::edge;
use e2e::plugins::{self, Author, Configuration};
use e2e::stack::{Stack, StackInfo};
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::oneshot;

/// What the gateway says of a configuration that it has taken over.
const TAKEN_OVER: &str = "configuration taken over";
const DISCOVERY: &str = "/.well-known/oauth-authorization-server";
const TENANT: &str = "x-tenant";
/// What the first and the second version say: to a tenant, and to nobody.
const SAID: [(&str, &str); 2] = [
    ("acme", "name a tenant\n"),
    ("acme-2", "name your tenant\n"),
];
/// Changes of the module under load, and clients that ask meanwhile.
const SWAPS: usize = 6;
const CLIENTS: usize = 6;
/// New requests get a version this soon after it was taken over.
const SOON: Duration = Duration::from_secs(5);
/// Long enough for the head of a request to be filtered.
const FILTERED: Duration = Duration::from_millis(300);

/// R93 R90 R92: `new`, `test`, `build`, `sign`, `push` and the lines that `push` prints, as docs/plugins.md has them, make a
/// filter of the running gateway. Then its module is changed under load, again and again: no request fails, and each has
/// been filtered by one version from its beginning to its end.
pub(super) async fn r92_a_plugin_by_the_guide_is_served_and_swapped_without_a_lost_request(
    _: Arc<StackInfo>,
) -> Result<()> {
    let author = Author::new()?;
    let first = published(&author).await?;
    let modules = author.copied(&["waf"])?;
    author
        .signs(&modules.join("waf.wasm"), "author.key")
        .await?;
    let modules = modules.display().to_string();
    let composition = composition_with(&author, &first)?;
    let mut stack = Stack::start_with(Some(&composition), &["--plugins-dir", &modules])?;
    let outcome = Box::pin(served_and_swapped(&stack.info, &author, &first)).await;
    if outcome.is_err() {
        eprintln!("its state is kept in {}", stack.keep_state().display());
    }
    let stopped = stack.stop();
    outcome.and(stopped)
}

/// The commands of the guide; what the last of them has printed.
async fn published(author: &Author) -> Result<String> {
    let begin = plugins::of_the_guide("**A plugin that works,**")?;
    let into = plugins::of_the_guide("**Into the gateway:**")?;
    author.does("", &begin).await?;
    let said = author.does("tenants", &into).await?;
    let lines = said.find("  - name: \"tenants\"");
    let lines = lines.with_context(|| format!("`push` prints no lines: {said}"))?;
    Ok(said[lines..].to_owned())
}

/// The shipped composition with the guide's additions.
fn composition_with(author: &Author, pushed: &str) -> Result<String> {
    let indented: Vec<String> = pushed.lines().map(|line| format!("      {line}")).collect();
    let declared = format!(
        "      plugin_keys: [{}]\n      plugins:\n{}\n        - name: waf",
        author.home().join("author.key.pub").display(),
        indented.join("\n"),
    );
    let on = |route: &str| format!("- id: {route}\n              filters: [tenants]\n");
    composition::changed(&[
        ("      plugins:\n        - name: waf", &declared),
        ("- id: oauth-discovery\n", &on("oauth-discovery")),
        ("- id: par\n", &on("par")),
    ])
}

async fn served_and_swapped(stack: &StackInfo, author: &Author, first: &str) -> Result<()> {
    let clients = (0..CLIENTS).map(|_| Client::new(stack));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    let [asker, ..] = &clients[..] else {
        anyhow::bail!("no clients");
    };
    ensure!(asker.ask().await? == 0, "the first version is not served");
    let filter = author.home().join("tenants/src/filter.rs");
    let source = std::fs::read_to_string(&filter)?;
    let next = source.replace("name a tenant", "name your tenant").replace(
        "self.tenant = tenant;",
        "self.tenant = tenant.map(|tenant| [tenant, b\"-2\".to_vec()].concat());",
    );
    std::fs::write(&filter, next)?;
    let into = plugins::of_the_guide("**Into the gateway:**")?;
    // The key is made once.
    let into = into.replace("ringwall plugin sign --generate", "true");
    let second = author.does("tenants", &into).await?;
    let versions = [placed(first)?, placed(&second)?];
    ensure!(versions[0] != versions[1], "it is the same module");
    let done = Cell::new(false);
    let swaps = async {
        let outcome = swapped(stack, asker, &versions).await;
        done.set(true);
        outcome
    };
    let asking = try_join_all(clients.iter().map(|client| client.ask_until(&done)));
    let (swaps, asked) = tokio::join!(swaps, asking);
    swaps?;
    let answers: usize = asked?.iter().sum();
    eprintln!("{answers} requests beside {SWAPS} changes of the module");
    ensure!(answers > 50 * SWAPS, "{answers} requests are no load");
    Ok(())
}

/// Module and digest, from the lines that `push` has printed.
fn placed(pushed: &str) -> Result<(Value, Value)> {
    let field = |name: &str| -> Result<Value> {
        let mut lines = pushed.lines().filter_map(|line| {
            let value = line.trim().strip_prefix(name)?;
            serde_json::from_str(value.trim()).ok()
        });
        lines.next().with_context(|| format!("no {name} {pushed}"))
    };
    Ok((field("module:")?, field("sha256:")?))
}

/// Gives the gateway the other version, again and again, while a request is under way that has begun with the one before.
async fn swapped(stack: &StackInfo, asker: &Client, versions: &[(Value, Value); 2]) -> Result<()> {
    let gateway = Configuration::of(stack, "gateway")?;
    let mut reading = gateway.first()?;
    for swap in 1..=SWAPS {
        let (old, new) = ((swap - 1) % 2, swap % 2);
        let (go_on, wait) = oneshot::channel();
        let slow = asker.begin(wait);
        let change = async {
            tokio::time::sleep(FILTERED).await;
            let plugin = reading["plugins"].as_array_mut().into_iter().flatten();
            let mut plugin = plugin.filter(|plugin| plugin["name"] == "tenants");
            let plugin = plugin.next().context("the gateway has no such plugin")?;
            let (module, sha256) = &versions[new];
            plugin["module"] = module.clone();
            plugin["sha256"] = sha256.clone();
            gateway.put(stack, &reading, TAKEN_OVER).await?;
            let begun = Instant::now();
            while asker.ask().await? != new {
                ensure!(begun.elapsed() < SOON, "version {old} is still served");
            }
            let _ = go_on.send(());
            anyhow::Ok(())
        };
        let (answered, changed) = tokio::join!(slow, change);
        changed.with_context(|| format!("change {swap}"))?;
        let answered = answered?;
        ensure!(
            answered == old,
            "change {swap}: a request that version {old} has begun was ended by {answered}"
        );
    }
    Ok(())
}

struct Client {
    http: reqwest::Client,
    discovery: url::Url,
    par: url::Url,
}

impl Client {
    fn new(stack: &StackInfo) -> Result<Self> {
        Ok(Self {
            http: edge::client(stack)?,
            discovery: stack.auth_url().join(DISCOVERY)?,
            par: stack.auth_url().join("/par")?,
        })
    }

    /// Asks as a tenant; which version has answered.
    async fn ask(&self) -> Result<usize> {
        let request = self.http.get(self.discovery.clone()).header(TENANT, "acme");
        let answer = request.send().await?;
        ensure!(answer.status() == StatusCode::OK, "{answer:?}");
        let version = version(&answer)?;
        let body: Value = answer.json().await.context("an answer that is not whole")?;
        ensure!(body["issuer"].is_string(), "{body}");
        Ok(version)
    }

    /// Asks as nobody; which version has refused it.
    async fn knock(&self) -> Result<usize> {
        let answer = self.http.get(self.discovery.clone()).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        let version = SAID.iter().position(|(_, refusal)| *refusal == text);
        let version = version.filter(|_| status == StatusCode::BAD_REQUEST);
        version.with_context(|| format!("nobody got {status} {text}"))
    }

    /// Asks all the time. What one version has once answered, the one before answers once more at most: the change back.
    async fn ask_until(&self, done: &Cell<bool>) -> Result<usize> {
        let (mut answers, mut changes, mut last) = (0, 0, 0);
        while !done.get() {
            let version = match answers % 4 {
                3 => self.knock().await?,
                _ => self.ask().await?,
            };
            changes += usize::from(version != last);
            last = version;
            answers += 1;
        }
        ensure!(
            changes <= SWAPS,
            "the version changed {changes} times, and the module {SWAPS} times"
        );
        Ok(answers)
    }

    /// Begins a request whose body comes when it may go on; which version has answered.
    async fn begin(&self, wait: oneshot::Receiver<()>) -> Result<usize> {
        let begun = Ok(Bytes::from_static(b"client_id=nobody"));
        let rest = async move {
            // Whoever holds the other end lets go of it where the change has failed.
            let _ = wait.await;
            Ok::<_, std::io::Error>(Bytes::from_static(b"&state=x"))
        };
        let parts = stream::once(async { begun }).chain(stream::once(rest));
        let request = self.http.post(self.par.clone()).header(TENANT, "acme");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(reqwest::Body::wrap_stream(parts)).send();
        version(&answer.await?)
    }
}

/// Each answer names the tenant once, as the version that has filtered its request does.
fn version(answer: &Response) -> Result<usize> {
    let mut names = answer.headers().get_all(TENANT).iter();
    let (name, more) = (names.next(), names.next());
    let version = SAID
        .iter()
        .position(|(said, _)| name.is_some_and(|name| name == said));
    let version = version.filter(|_| more.is_none());
    version.with_context(|| format!("half filtered: {answer:?}"))
}
