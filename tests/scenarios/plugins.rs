//! Plugins in the request path: attacks on applications end there, ordinary requests pass; and what of a plugin itself is bad
//! ends at the host.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::composition;
use e2e::edge;
use e2e::mesh;
use e2e::oauth;
use e2e::person::Person;
use e2e::plugins::{self, Author, Configuration};
use e2e::stack::{Stack, StackInfo};
use futures_util::future::try_join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// What the firewall's problem documents are of (plugins/filters/waf).
const BLOCKED: &str = "request-blocked";
/// What the gateway says of a configuration.
const TAKEN_OVER: &str = "configuration taken over";
const REFUSED: &str = "configuration refused";
/// The route that gets the hostile plugin, with any path below `/assets`.
const ROUTE: &str = "auth-assets";
/// Paths on which the plugin (plugins/hostile/guest.c) harms.
const HARMS: [&str; 7] = [
    "loop", "trap", "hoard", "recurse", "flood", "swell", "storm",
];
const ATTACK: Duration = Duration::from_secs(5);
const ATTACKERS: usize = 4;
/// The longest that the host leaves a plugin alone, and some more.
const LEFT_ALONE: Duration = Duration::from_secs(15);

/// R90: with a token that every other layer accepts, what looks like an attack does not reach the application.
pub(super) async fn attack_injection_ends_at_the_firewall_plugin(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let client = edge::client(&stack)?;
    let token = oauth::tokens(&stack, "alice").await?.access;
    let get = async |query: &str| {
        let mut url = stack.api_url().join("/v1/catalogue")?;
        url.set_query(Some(query));
        anyhow::Ok(client.get(url).bearer_auth(&token).send().await?)
    };
    let control = get("sort=price").await?.status();
    ensure!(control == StatusCode::OK, "an ordinary question: {control}");
    for query in [
        "sort=1%27%20OR%20%271%27=%271",
        "sort=price%253B%2520DROP%2520TABLE%2520orders--",
        "q=%3Cscript%3Ealert(document.cookie)%3C/script%3E",
        "file=..%2f..%2f..%2fetc%2fpasswd",
        "q=%24%7Bjndi:ldap://192.0.2.1/a%7D",
    ] {
        let answer = get(query).await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(
            status == StatusCode::FORBIDDEN && text.contains(BLOCKED),
            "{query}: {status} {text}"
        );
    }
    Ok(())
}

/// R90: bodies are looked into before a byte of them goes on, however they are sent.
pub(super) async fn attack_injection_in_a_body_ends_at_the_firewall_plugin(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let client = edge::client(&stack)?;
    let token = oauth::tokens(&stack, "alice").await?.access;
    let attack =
        json!({ "lines": [{ "sku": "x' UNION SELECT password FROM users --", "quantity": 1 }] });
    let whole = attack.to_string();
    let parts: Vec<_> = whole
        .as_bytes()
        .chunks(7)
        .map(|part| Ok::<_, std::io::Error>(part.to_vec()))
        .collect();
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    for (how, body) in [
        ("whole", reqwest::Body::from(whole.clone())),
        ("in chunks", chunked),
    ] {
        let url = stack.api_url().join("/v1/orders")?;
        let answer = client
            .request(Method::POST, url)
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .header("idempotency-key", "attack")
            .body(body)
            .send()
            .await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(
            status == StatusCode::FORBIDDEN && text.contains(BLOCKED),
            "{how}: {status} {text}"
        );
    }
    Ok(())
}

/// R91: a plugin that does every harm it can, on one route of the running gateway: its own requests are refused, none passes
/// unfiltered, and neighbours on other routes are served all the while; left alone, it serves again.
pub(super) async fn r91_a_hostile_plugin_fails_closed_and_its_neighbours_are_served(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let token = oauth::client_token(&stack, "demo-cli").await?;
    let gateway = Configuration::of(&stack, "gateway")?;
    let public = Public::new(&stack)?;
    for harm in HARMS {
        let (status, _) = public.asset(harm).await?;
        ensure!(status == StatusCode::NOT_FOUND, "control, {harm}: {status}");
    }
    let module = plugins::folder()?.join("hostile.wasm");
    let reading = with_hostile(&gateway, &hostile(&module, None))?;
    gateway.put(&stack, &reading, TAKEN_OVER).await?;
    let (status, text) = public.asset("harmless").await?;
    ensure!(
        status == StatusCode::NOT_FOUND,
        "let through: {status} {text}"
    );
    let until = Instant::now() + ATTACK;
    let attackers = (0..ATTACKERS).map(|_| public.attack(until));
    let neighbours = ["/v1/catalogue", "/jwks"].map(|path| public.neighbour(path, &token, until));
    let (attacks, served) = tokio::join!(try_join_all(attackers), try_join_all(neighbours));
    let (attacks, served) = (attacks?.iter().sum::<usize>(), served?);
    let slowest = served.iter().map(|(_, slowest)| *slowest).max();
    let slowest = slowest.unwrap_or_default();
    let served: usize = served.iter().map(|(served, _)| served).sum();
    eprintln!(
        "{served} requests of neighbours beside {attacks} attacks; the slowest took {slowest:?}"
    );
    ensure!(
        attacks > 50 && served > 50,
        "{attacks} attacks, {served} served"
    );
    ensure!(
        slowest < Duration::from_secs(2),
        "a neighbour took {slowest:?}"
    );
    let begun = Instant::now();
    while public.asset("harmless").await?.0 != StatusCode::NOT_FOUND {
        ensure!(begun.elapsed() < LEFT_ALONE, "it does not serve again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    gateway.restore(&stack, TAKEN_OVER).await
}

/// R92: a configuration whose module is not the pinned one, or not signed by a key of the operator, is not taken over, not
/// even in part; the former one serves on. With the right digest and signature it is.
pub(super) async fn r92_a_module_of_another_digest_or_signature_is_refused_and_the_former_serves(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let gateway = Configuration::of(&stack, "gateway")?;
    let public = Public::new(&stack)?;
    let author = Author::new()?;
    let modules = author.copied(&["waf", "hostile"])?;
    let (waf, module) = (modules.join("waf.wasm"), modules.join("hostile.wasm"));
    let inspected = format!("ringwall plugin inspect '{}' -o json", module.display());
    let inspected: Value = serde_json::from_str(&author.does("", &inspected).await?)?;
    let digest = inspected["sha256"].as_str().context("no digest")?;
    let former = with_hostile(&gateway, &hostile(&module, Some(digest)))?;
    gateway.put(&stack, &former, TAKEN_OVER).await?;
    // What is to be refused says too that nobody gets the keys.
    let without_keys = |mut gateway: Value| -> Result<Value> {
        plugins::route(&mut gateway, "jwks")?["match"]["path"] = json!("/elsewhere");
        Ok(gateway)
    };
    let with_keys = |mut reading: Value, key: &Path| {
        reading["plugin_keys"] = json!([key]);
        let plugins = reading["plugins"].as_array_mut().into_iter().flatten();
        for plugin in plugins.filter(|plugin| plugin["name"] == "waf") {
            plugin["module"] = json!(waf);
        }
        reading
    };
    let other = hostile(&module, Some(&"0".repeat(64)));
    let another_digest = without_keys(with_hostile(&gateway, &other)?)?;
    let key = author.signs(&waf, "author.key").await?;
    let signed = without_keys(with_keys(former.clone(), &key))?;
    former_serves(&stack, &public, &gateway, &another_digest, "another digest").await?;
    former_serves(&stack, &public, &gateway, &signed, "no signature").await?;
    author.signs(&module, "stranger.key").await?;
    former_serves(&stack, &public, &gateway, &signed, "a stranger's signature").await?;
    author.signs(&module, "author.key").await?;
    gateway.put(&stack, &signed, TAKEN_OVER).await?;
    let status = public.status("/jwks").await?;
    ensure!(
        status == StatusCode::NOT_FOUND,
        "signed and pinned: {status}"
    );
    gateway.restore(&stack, TAKEN_OVER).await
}

/// The gateway refuses `bad`, says so, and serves by the former configuration: with its routes, and with its plugin.
async fn former_serves(
    stack: &StackInfo,
    public: &Public,
    gateway: &Configuration,
    bad: &Value,
    what: &str,
) -> Result<()> {
    let refused = gateway.put(stack, bad, REFUSED).await;
    refused.with_context(|| format!("{what} is taken over"))?;
    let status = public.status("/jwks").await?;
    ensure!(status == StatusCode::OK, "{what}: {status}");
    let (status, text) = public.asset("trap").await?;
    ensure!(
        status == StatusCode::SERVICE_UNAVAILABLE,
        "{what}: the plugin no longer runs: {status} {text}"
    );
    Ok(())
}

/// The hostile plugin as an operator declares it, with all that it could use.
fn hostile(module: &Path, sha256: Option<&str>) -> Value {
    let mut plugin = json!({
        "name": "hostile",
        "module": module,
        "capabilities": { "read_headers": ["*"], "write_headers": ["*"], "clusters": ["authz-server"] },
    });
    if let Some(sha256) = sha256 {
        plugin["sha256"] = json!(sha256);
    }
    plugin
}

/// What the gateway reads, with this plugin on its route.
fn with_hostile(gateway: &Configuration, plugin: &Value) -> Result<Value> {
    let mut reading = gateway.first()?;
    let plugins = reading["plugins"].as_array_mut();
    plugins
        .context("the gateway has no plugins")?
        .push(plugin.clone());
    plugins::route(&mut reading, ROUTE)?["filters"] = json!(["hostile"]);
    Ok(reading)
}

/// Who asks without an account.
struct Public {
    client: reqwest::Client,
    auth: url::Url,
    api: url::Url,
}

impl Public {
    fn new(stack: &StackInfo) -> Result<Self> {
        Ok(Self {
            client: edge::client(stack)?,
            auth: stack.auth_url(),
            api: stack.api_url(),
        })
    }

    async fn status(&self, path: &str) -> Result<StatusCode> {
        let answer = self.client.get(self.auth.join(path)?).send().await?;
        Ok(answer.status())
    }

    /// Asks for a file that is not there, on the route of the plugin.
    async fn asset(&self, name: &str) -> Result<(StatusCode, String)> {
        let url = self.auth.join(&format!("/assets/{name}"))?;
        let answer = self.client.get(url).send().await?;
        Ok((answer.status(), answer.text().await?))
    }

    /// Has the plugin do one harm after the other; none may pass.
    async fn attack(&self, until: Instant) -> Result<usize> {
        let mut attacks = 0;
        for harm in HARMS.iter().cycle() {
            let (status, text) = self.asset(harm).await?;
            ensure!(
                status == StatusCode::SERVICE_UNAVAILABLE,
                "{harm}: {status} {text}"
            );
            attacks += 1;
            if Instant::now() > until {
                break;
            }
        }
        Ok(attacks)
    }

    /// Asks on another route until then; how often, and how long the slowest answer took.
    async fn neighbour(
        &self,
        path: &str,
        token: &str,
        until: Instant,
    ) -> Result<(usize, Duration)> {
        let base = if path.starts_with("/v1") {
            &self.api
        } else {
            &self.auth
        };
        let url = base.join(path)?;
        let (mut served, mut slowest) = (0, Duration::ZERO);
        while Instant::now() < until {
            let begun = Instant::now();
            let answer = self
                .client
                .get(url.clone())
                .bearer_auth(token)
                .send()
                .await?;
            ensure!(
                answer.status() == StatusCode::OK,
                "{path}: {}",
                answer.status()
            );
            slowest = slowest.max(begun.elapsed());
            served += 1;
            // Below the limit of the catalogue's route.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        Ok((served, slowest))
    }
}

/// R90: in a service proxy, by `sidecar` of the composition: on the way in to inventory, what comes past the gateway is
/// looked into too; on the way out of orders, each call of an order passes.
pub(super) async fn r90_a_plugin_stands_in_the_proxies_of_a_caller_and_of_its_callee(
    _: Arc<StackInfo>,
) -> Result<()> {
    let waf = "{ name: waf, module: \"${plugins}/waf.wasm\", capabilities: { read_headers: [\"*\"], body: read, local_response: true } }";
    let callee = format!("captured: 7803, plugins: [{waf}], filters: {{ inbound: [waf] }} }}");
    let caller = format!(
        "captured: 7805, plugins: [{waf}], filters: {{ outbound: {{ inventory: [waf] }} }},"
    );
    let composition =
        composition::changed(&[("captured: 7803 }", &callee), ("captured: 7805,", &caller)])?;
    let mut stack = Stack::start_as(Some(&composition))?;
    let outcome = Box::pin(in_the_proxies(&stack.info)).await;
    if outcome.is_err() {
        eprintln!("its state is kept in {}", stack.keep_state().display());
    }
    let stopped = stack.stop();
    outcome.and(stopped)
}

async fn in_the_proxies(stack: &StackInfo) -> Result<()> {
    let key = stack.secret("orders", "api-key-inventory")?;
    let orders = mesh::Caller::new(stack, "orders", "inventory")?;
    for (query, expected) in [
        ("sort=price", StatusCode::OK),
        ("sort=1%27%20OR%20%271%27=%271", StatusCode::FORBIDDEN),
    ] {
        let request = http::Request::get(format!("/v1/items?{query}"))
            .header("x-api-key", &key)
            .body(bytes::Bytes::new())?;
        let answer = orders.call(request).await?;
        ensure!(
            answer.status == expected,
            "{query}: {} {:?}",
            answer.status,
            answer.body
        );
    }
    let before = streams(stack, "orders-proxy").await?;
    let alice = Person::signed_in(stack, "alice").await?;
    let order = alice.place_order().await?;
    ensure!(order["status"] == "placed", "the order is {order}");
    let after = streams(stack, "orders-proxy").await?;
    ensure!(
        after > before,
        "{before} streams, and after an order {after}"
    );
    Ok(())
}

/// How many requests the plugins of a proxy have seen.
async fn streams(stack: &StackInfo, proxy: &str) -> Result<f64> {
    const NAME: &str = "ringwall_plugin_streams_total{";
    let request = http::Request::get("/metrics").body(bytes::Bytes::new())?;
    let answer = mesh::admin_call(stack, "prometheus", proxy, request).await?;
    ensure!(
        answer.status == StatusCode::OK,
        "metrics: {}",
        answer.status
    );
    let text = String::from_utf8_lossy(&answer.body);
    let lines = text.lines().filter(|line| line.starts_with(NAME));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum())
}
