//! The gateway's public listener: dispatch, header hygiene, smuggling, limits.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::edge;
use e2e::oauth;
use e2e::person::Person;
use e2e::stack::StackInfo;
use reqwest::{Method, StatusCode};

const FORGED_CONTEXT: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJib2IifQ.";
const USER_CONTEXT_SPELLINGS: [&str; 4] = [
    "x-ringwall-user-context",
    "X-Ringwall-User-Context",
    "x_ringwall_user_context",
    "x-ringwall_user-context",
];

pub(super) async fn r26_unknown_sni_is_closed(stack: Arc<StackInfo>) -> Result<()> {
    let address = stack.public_address();
    let known = edge::credulous_tls(&stack, address, Some(&stack.app_host())).await;
    known.context("the control: a host of ours")?;
    for host in [Some("unknown.localhost"), None] {
        let outcome = edge::credulous_tls(&stack, address, host).await;
        ensure!(outcome.is_err(), "the server name {host:?} was served");
    }
    Ok(())
}

pub(super) async fn r26_host_must_match_the_server_name(stack: Arc<StackInfo>) -> Result<()> {
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", stack.auth_host());
    let answer = edge::raw_exchange(&stack, &stack.app_host(), request.as_bytes()).await?;
    ensure!(
        answer.starts_with("HTTP/1.1 421"),
        "another host than the SNI: {answer}"
    );
    Ok(())
}

pub(super) async fn r43_plaintext_is_refused_on_the_public_port(
    stack: Arc<StackInfo>,
) -> Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = edge::raw_tcp(stack.public_address()).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: app.localhost\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    // A reset is a refusal too.
    let _ = stream.read_to_end(&mut answer).await;
    ensure!(!answer.starts_with(b"HTTP/"), "plaintext was answered");
    Ok(())
}

pub(super) async fn r56_undeclared_routes_and_methods_are_refused(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let client = edge::client(&stack)?;
    let cases = [
        (Method::GET, stack.api_url().join("/v1/nothing")?),
        (Method::GET, stack.api_url().join("/")?),
        (Method::DELETE, stack.api_url().join("/v1/catalogue")?),
        (Method::PUT, stack.api_url().join("/v1/orders")?),
        (Method::GET, stack.api_url().join("/metrics")?),
        (
            Method::GET,
            stack.api_url().join("/v1/topics/order.placed/events")?,
        ),
        (Method::GET, stack.auth_url().join("/metrics")?),
        (Method::POST, stack.app_url().join("/v1/traces")?),
    ];
    for (method, url) in cases {
        let response = client.request(method.clone(), url.clone()).send().await?;
        let status = response.status();
        ensure!(
            status == StatusCode::NOT_FOUND || status == StatusCode::METHOD_NOT_ALLOWED,
            "{method} {url} answered {status}"
        );
    }
    Ok(())
}

pub(super) async fn r56_every_declared_api_route_refuses_the_anonymous(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let client = edge::client(&stack)?;
    for (method, path) in [
        (Method::GET, "/v1/catalogue"),
        (Method::GET, "/v1/orders"),
        (Method::POST, "/v1/orders"),
        (Method::GET, "/v1/notifications"),
        (Method::GET, "/v1/notifications/stream"),
    ] {
        let response = client
            .request(method, stack.api_url().join(path)?)
            .send()
            .await?;
        ensure!(
            response.status() == StatusCode::UNAUTHORIZED,
            "{path}: {}",
            response.status()
        );
        let challenge = response
            .headers()
            .get("www-authenticate")
            .context("no challenge")?;
        ensure!(
            challenge.as_bytes().starts_with(b"Bearer"),
            "{path}: {challenge:?}"
        );
    }
    Ok(())
}

/// R49/R56: mallory has an account and no role: the policy refuses her order at the gateway.
pub(super) async fn r56_a_user_without_the_role_may_not_order(stack: Arc<StackInfo>) -> Result<()> {
    let mallory = Person::signed_in(&stack, "mallory").await?;
    let order = serde_json::json!({ "lines": [{ "sku": "any", "quantity": 1 }] });
    let response = mallory
        .api(Method::POST, "/api/orders", Some(&order))
        .await?;
    ensure!(
        response.status() == StatusCode::FORBIDDEN,
        "mallory got {}",
        response.status()
    );
    Ok(())
}

/// R14: nobody is a user because of a header, in any spelling.
pub(super) async fn r14_forged_identity_headers_never_arrive(stack: Arc<StackInfo>) -> Result<()> {
    let client = edge::client(&stack)?;
    for name in USER_CONTEXT_SPELLINGS {
        let response = client
            .get(stack.api_url().join("/v1/orders")?)
            .header(name, FORGED_CONTEXT)
            .send()
            .await?;
        let status = response.status();
        ensure!(
            status == StatusCode::UNAUTHORIZED || status == StatusCode::BAD_REQUEST,
            "{name} answered {status}"
        );
    }
    Ok(())
}

/// R14: nor is a user another user because of one: with alice's token the history is hers, whatever
/// else she sends.
pub(super) async fn r14_a_forged_context_does_not_change_whose_history_it_is(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let bob = Person::signed_in(&stack, "bob")
        .await?
        .place_order()
        .await?;
    let bobs_order = bob["id"].as_str().context("no id")?.to_owned();
    let alice = Person::signed_in(&stack, "alice")
        .await?
        .place_order()
        .await?;
    let alices_order = alice["id"].as_str().context("no id")?.to_owned();
    let tokens = oauth::tokens(&stack, "alice").await?;
    let bobs_token = oauth::tokens(&stack, "bob").await?.access;
    let client = edge::client(&stack)?;
    for name in USER_CONTEXT_SPELLINGS {
        // Unsigned, and signed by the right server for another purpose.
        for forged in [FORGED_CONTEXT, &bobs_token] {
            let response = client
                .get(stack.api_url().join("/v1/orders")?)
                .bearer_auth(&tokens.access)
                .header(name, forged)
                .send()
                .await?;
            let status = response.status();
            let history = response.text().await?;
            ensure!(status == StatusCode::OK, "{name}: {status} {history}");
            ensure!(
                history.contains(&alices_order),
                "{name}: not hers: {history}"
            );
            ensure!(!history.contains(&bobs_order), "{name}: bob's: {history}");
        }
    }
    Ok(())
}

/// Heads that two readers would end at different places, or that nobody should read at all.
fn smuggling(host: &str) -> [(&'static str, String); 12] {
    [
        (
            "CL and TE",
            format!(
                "POST /v1/orders HTTP/1.1\r\nhost: {host}\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "TE obfuscated",
            format!(
                "POST /v1/orders HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "TE twice",
            format!(
                "POST /v1/orders HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "TE with a space before the colon",
            format!(
                "POST /v1/orders HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "two lengths",
            format!(
                "POST /v1/orders HTTP/1.1\r\nhost: {host}\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd"
            ),
        ),
        (
            "a signed length",
            format!("POST /v1/orders HTTP/1.1\r\nhost: {host}\r\ncontent-length: +4\r\n\r\nabcd"),
        ),
        (
            "two hosts",
            format!("GET /v1/orders HTTP/1.1\r\nhost: {host}\r\nhost: evil.example\r\n\r\n"),
        ),
        (
            "bare line feeds",
            format!("GET /v1/orders HTTP/1.1\nhost: {host}\n\n"),
        ),
        (
            "a folded header",
            format!("GET /v1/orders HTTP/1.1\r\nhost: {host}\r\nx-a: b\r\n c\r\n\r\n"),
        ),
        (
            "h2c upgrade",
            format!(
                "GET /v1/orders HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
            ),
        ),
        (
            "encoded dot segments",
            format!("GET /v1/orders/%2e%2e/%2e%2e/metrics HTTP/1.1\r\nhost: {host}\r\n\r\n"),
        ),
        (
            "a NUL in the path",
            format!("GET /v1/orders\0 HTTP/1.1\r\nhost: {host}\r\n\r\n"),
        ),
    ]
}

pub(super) async fn attack_smuggling_is_refused_and_the_connection_closed(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let host = stack.api_host();
    // What stands behind each malformed head would be a second request, if anybody read it.
    let second = format!("GET /smuggled HTTP/1.1\r\nhost: {host}\r\n\r\n");
    for (name, head) in smuggling(&host) {
        let request = format!("{head}{second}");
        let answer = edge::raw_exchange(&stack, &host, request.as_bytes()).await?;
        let status = answer.split(' ').nth(1).unwrap_or("closed");
        ensure!(
            matches!(status, "400" | "401" | "404" | "411" | "501" | "closed"),
            "{name}: {answer}"
        );
        let answers = answer.matches("HTTP/1.1 ").count();
        // Well-formed requests may be answered in turn; malformed ones end the connection.
        let well_formed = matches!(name, "h2c upgrade" | "encoded dot segments");
        ensure!(
            answers <= 1 || well_formed,
            "{name}: the connection went on: {answer}"
        );
        ensure!(
            !answer.contains("101 Switching"),
            "{name}: switched protocols"
        );
    }
    Ok(())
}

pub(super) async fn r01_the_limit_answers_429_with_retry_after(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let bob = Person::signed_in(&stack, "bob").await?;
    for _ in 0..2_000 {
        let response = bob.api(Method::GET, "/api/orders?limit=1", None).await?;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            ensure!(
                response.headers().contains_key("retry-after"),
                "429 without Retry-After"
            );
            return Ok(());
        }
    }
    bail!("2,000 requests met no limit")
}
