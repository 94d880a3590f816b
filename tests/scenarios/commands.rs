//! The operator's commands as a person runs them: exit codes, words, and what comes of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::mesh::{self, Answer};
use e2e::operator::{self, Said};
use e2e::promptly;
use e2e::stack::StackInfo;
use http::{Request, StatusCode};
use serde_json::Value;

const PAUSE: Duration = Duration::from_millis(20);
/// What nobody may ask of inventory, and what a policy of ours allows for a while.
const DRILL: &str = "/v1/drill";
const DRILL_POLICY: &str = r#"policies:
  drill: |
    @id("a-drill-is-allowed")
    permit (principal == Workload::"orders", action == Action::"GET", resource == Service::"inventory")
    when { context.path == "/v1/drill" };
"#;

/// R31: a bundle that is not good is refused by `policy check` (1), `diff` and `apply` (78), each with the place in the
/// file and the reason; one that was made from another version by `apply` (75). The version stays.
pub(super) async fn r31_the_command_refuses_a_bad_policy_with_place_and_reason(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let good = get(&stack).await?;
    let version = version(&stack).await?;
    let typing = good.replacen("context.path == \"/v1/items\"", "context.pth == \"/\"", 1);
    let line = typing.lines().position(|line| line.contains("context.pth"));
    // The fault is the policy's, which begins where its annotation stands.
    let line = line.context("get shows no policy of inventory")?;
    let begins = typing.lines().take(line + 1);
    let begins = begins.enumerate().filter(|(_, text)| text.contains("@id("));
    let begins = begins.last().context("it has no name")?.0 + 1;
    let place = |line: usize| format!("standard input:{line}");
    let near: Vec<String> = (begins..=line + 1).map(place).collect();
    let closed = good.replacen(
        "policies:\n",
        "policies:\n  closed: |\n    @id(\"closed\")\n    forbid (principal, action, resource == Service::\"inventory\");\n",
        1,
    );
    let unknown = good.replacen("policies:\n", "polices:\n", 1);
    let bad = [
        ("no such attribute", &typing, near, "pth"),
        ("a case", &closed, vec![place(1)], "expects allow"),
        ("a key", &unknown, vec![place(1)], "polices"),
    ];
    for (what, text, places, word) in bad {
        ensure!(text != &good, "{what}: nothing was changed");
        for (command, codes) in [("check", [1, 78]), ("diff", [78, 78]), ("apply", [78, 78])] {
            // A bundle whose cases fail is good enough to be compared.
            if (what, command) == ("a case", "diff") {
                continue;
            }
            let said = operator::said_with(&stack, &["policy", command, "-"], text).await?;
            ensure!(
                said.code.is_some_and(|code| codes.contains(&code)),
                "{what}, {command}: {said:?}"
            );
            let words = format!("{}{}", said.out, said.err);
            let placed = places.iter().any(|place| words.contains(place.as_str()));
            ensure!(
                (placed || what != "no such attribute") && words.contains(word),
                "{what}, {command}: neither {places:?} nor `{word}`: {words}"
            );
            ensure!(
                words.contains("standard input"),
                "{what}, {command}: no place: {words}"
            );
        }
    }
    let before = (version.saturating_sub(1)).to_string();
    let arguments = ["policy", "apply", "-", "--from", &before];
    let said = operator::said_with(&stack, &arguments, &with_drill(&good)?).await?;
    let said = said.with_code(75)?;
    ensure!(
        said.err.contains(&format!("version {version}")),
        "who is told that: {said:?}"
    );
    ensure!(
        self::version(&stack).await? == version && get(&stack).await? == good,
        "a refused policy was applied"
    );
    Ok(())
}

/// R31 R51: what `policy get` prints can be changed, compared, applied and rolled back; each is in force within a second,
/// `explain` says why for and against, and the history who and what for.
pub(super) async fn r31_the_command_applies_explains_and_rolls_back(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let orders = mesh::Caller::new(&stack, "orders", "inventory")?;
    let before = version(&stack).await?;
    let good = get(&stack).await?;
    let same = operator::said_with(&stack, &["policy", "apply", "-"], &good).await?;
    let same = same.with_code(0)?;
    ensure!(
        same.out.contains("has this content already"),
        "what `get` prints is another policy: {same:?}"
    );
    ensure!(
        drill(&orders).await?.status == StatusCode::FORBIDDEN,
        "control"
    );
    explained(&stack, 1, &["denied", "no policy permits it"]).await?;
    let changed = with_drill(&good)?;
    let check = operator::said_with(&stack, &["policy", "check", "-"], &changed).await?;
    let check = check.with_code(0)?;
    let diff = ["policy", "diff", "-", "--exit-code"];
    let diff = operator::said_with(&stack, &diff, &changed).await?;
    let diff = diff.with_code(1)?;
    for said in [&check, &diff] {
        ensure!(said.out.contains("+ policy a-drill-is-allowed"), "{said:?}");
    }
    let apply = "policy apply - --note why-not --author carol";
    let apply: Vec<&str> = apply.split(' ').collect();
    let applied = operator::said_with(&stack, &apply, &changed).await?;
    let outcome = in_force(&stack, &orders, &applied, before).await;
    let back = ["policy", "rollback", &before.to_string(), "--note", "done"];
    let back = operator::said(&stack, &back).await?;
    outcome?;
    let back = back.with_code(0)?;
    let word = format!("with the content of version {before}");
    ensure!(back.out.contains(&word), "{back:?}");
    until(&orders, false).await?;
    explained(&stack, 1, &["denied"]).await?;
    let history = operator::said(&stack, &["policy", "history", "-o", "json"]).await?;
    let history = history.with_code(0)?.json()?;
    let (newest, second) = (&history[0], &history[1]);
    ensure!(
        newest["rollback_of"] == before && newest["note"] == "done",
        "{newest}"
    );
    ensure!(
        second["author"] == "carol" && second["note"] == "why-not",
        "{second}"
    );
    ensure!(
        second["identity"] == "ringwall" && second["version"] == before + 1,
        "{second}"
    );
    let text = operator::said(&stack, &["policy", "history"]).await?;
    let text = text.with_code(0)?.out;
    ensure!(
        text.contains("carol (as ringwall)") && text.contains(&format!("version {before} again")),
        "{text}"
    );
    Ok(())
}

/// The drill is answered by inventory itself, and the commands say so.
async fn in_force(
    stack: &StackInfo,
    orders: &mesh::Caller,
    applied: &Said,
    before: u64,
) -> Result<()> {
    ensure!(applied.code == Some(0), "{applied:?}");
    let took = until(orders, true).await?;
    eprintln!("in force {took:?} after the command");
    let word = format!("version {} is active", before + 1);
    ensure!(applied.out.contains(&word), "{applied:?}");
    explained(stack, 0, &["allowed", "a-drill-is-allowed", "permits"]).await?;
    let proxies = operator::said(stack, &["policy", "proxies"]).await?;
    ensure!(proxies.with_code(0)?.out.contains("inventory"), "proxies");
    // By a version of the past it is as it was.
    let past = before.to_string();
    let ask = format!("GET {DRILL}");
    let past = [
        "policy",
        "explain",
        "orders",
        "inventory",
        &ask,
        "--version",
        &past,
    ];
    operator::said(stack, &past).await?.with_code(1)?;
    Ok(())
}

/// R49: what `policy explain` says of the drill.
async fn explained(stack: &StackInfo, code: i32, words: &[&str]) -> Result<()> {
    let ask = format!("GET {DRILL}");
    let explain = ["policy", "explain", "orders", "inventory", &ask];
    let said = operator::said(stack, &explain).await?.with_code(code)?;
    for word in words {
        ensure!(said.out.contains(word), "`{word}` is not in {said:?}");
    }
    ensure!(said.out.contains("edge orders → inventory"), "{said:?}");
    let undeclared = ["policy", "explain", "payments", "inventory", &ask];
    let said = operator::said(stack, &undeclared).await?.with_code(1)?;
    ensure!(
        said.out.contains("no edge lets payments connect"),
        "{said:?}"
    );
    Ok(())
}

/// R50: a request that was refused just now is shown by `observe`, when the filters ask for it and not when they ask for
/// something else.
pub(super) async fn r50_the_command_observe_shows_what_was_denied(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let path = format!("/v1/observed/{}", uuid::Uuid::new_v4().simple());
    let request = Request::put(format!("{path}?token=canary")).body(Bytes::new())?;
    let answer = mesh::call_as(&stack, "orders", "inventory", request).await?;
    ensure!(answer.status == StatusCode::FORBIDDEN, "{}", answer.status);
    let observe = |filters: &str| {
        let stack = Arc::clone(&stack);
        let line = format!("observe -o json --path {path} {filters}");
        async move {
            let words: Vec<&str> = line.split_whitespace().collect();
            let said = operator::said(&stack, &words).await?.with_code(0)?;
            ensure!(!said.out.contains("canary"), "a query is shown: {said:?}");
            said.json_lines()
        }
    };
    let both = observe("--verdict denied --caller orders --callee inventory").await?;
    let [flow] = both.as_slice() else {
        anyhow::bail!("one flow was refused, and {} are shown", both.len());
    };
    let expected = [
        ("proxy", "inventory-proxy"),
        ("direction", "inbound"),
        ("caller", "orders"),
        ("callee", "inventory"),
        ("method", "PUT"),
        ("path", &path),
        ("verdict", "denied"),
    ];
    for (field, value) in expected {
        ensure!(flow[field] == value, "{field} is not {value}: {flow}");
    }
    ensure!(flow["status"] == 403, "{flow}");
    ensure!(flow["reason"].is_string(), "without a reason: {flow}");
    for (filters, count) in [
        ("--status 4xx --service inventory", 1),
        ("--status 5xx", 0),
        ("--verdict error", 0),
        ("--caller payments", 0),
        ("--callee orders", 0),
    ] {
        let seen = observe(filters).await?;
        ensure!(seen.len() == count, "{filters}: {seen:?}");
    }
    let text = ["observe", "--path", &path];
    let text = operator::said(&stack, &text).await?.with_code(0)?.out;
    ensure!(text.contains(&format!("PUT {path}")), "{text}");
    Ok(())
}

/// R69: `tap` shows the heads of requests and responses, and of their credentials no more than the length, whatever
/// field they stand in.
pub(super) async fn r69_the_command_tap_shows_heads_without_secrets(
    stack: Arc<StackInfo>,
) -> Result<()> {
    const CANARY: &str = "canary-5b1c9a72";
    let key = stack.secret("orders", "api-key-inventory")?;
    let tap = "tap inventory --max 1 --for 30s --caller orders --path /v1/items -o json";
    let tap: Vec<&str> = tap.split(' ').collect();
    let tapping = operator::begun(&stack, &tap, "tapping inventory").await?;
    let orders = mesh::Caller::new(&stack, "orders", "inventory")?;
    // It says so before the proxy has answered it: one of these is the first that it sees.
    while !tapping.is_finished() {
        let request = Request::get(format!("/v1/items?access_token={CANARY}"))
            .header("x-api-key", &key)
            .header("authorization", format!("Bearer {CANARY}"))
            .header("x_session", CANARY)
            .header("x-plain", "in the clear")
            .body(Bytes::new())?;
        orders.call(request).await?;
        tokio::time::sleep(PAUSE).await;
    }
    let said = tapping.await??.with_code(0)?;
    let all = format!("{}{}", said.out, said.err);
    ensure!(!all.contains(CANARY), "a secret is shown: {all}");
    ensure!(!all.contains(&key), "the API key is shown: {all}");
    let heads = said.json_lines()?;
    let of = |message: &str| heads.iter().find(|head| head["message"] == message);
    let request = of("request").context("no request was shown")?;
    ensure!(request["method"] == "GET", "{request}");
    let headers = &request["headers"];
    ensure!(headers["x-plain"] == "in the clear", "{request}");
    let hidden = format!("[redacted {} bytes]", key.len());
    ensure!(headers["x-api-key"] == hidden, "not {hidden}: {request}");
    for field in ["authorization", "x_session"] {
        // A field with an underscore may be refused before it gets here.
        let value = &headers[field];
        let text = value.as_str().unwrap_or("[redacted");
        ensure!(text.starts_with("[redacted"), "{field}: {request}");
    }
    let target = request["target"].as_str().unwrap_or_default();
    ensure!(target.starts_with("/v1/items"), "{request}");
    let response = of("response").context("no response was shown")?;
    ensure!(response["status"].is_number(), "{response}");
    Ok(())
}

async fn get(stack: &StackInfo) -> Result<String> {
    let said = operator::said(stack, &["policy", "get"]).await?;
    Ok(said.with_code(0)?.out)
}

async fn version(stack: &StackInfo) -> Result<u64> {
    let said = operator::said(stack, &["policy", "get", "-o", "json"]).await?;
    let found: Value = said.with_code(0)?.json()?;
    found["version"].as_u64().context("no version")
}

fn with_drill(text: &str) -> Result<String> {
    ensure!(text.contains("policies:\n"), "no policies: {text}");
    Ok(text.replacen("policies:\n", DRILL_POLICY, 1))
}

async fn drill(orders: &mesh::Caller) -> Result<Answer> {
    let request = Request::get(DRILL).body(Bytes::new())?;
    orders.call(request).await
}

/// How long it takes until the proxy lets the drill through to inventory, or does not any more. Whether that is a second:
/// `mesh_policy.rs`.
async fn until(orders: &mesh::Caller, through: bool) -> Result<Duration> {
    promptly::took(async || Ok((drill(orders).await?.status != StatusCode::FORBIDDEN) == through))
        .await
        .with_context(|| format!("a drill goes through: not {through}"))
}
