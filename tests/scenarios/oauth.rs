//! Grants and tokens of the authorization server, as clients and thieves of tokens meet them.
//! Sessions and revocation are in `sessions.rs`.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use e2e::oauth::{self, Pkce, Tokens};
use e2e::stack::StackInfo;
use e2e::{edge, mesh};
use reqwest::StatusCode;
use serde_json::{Value, json};

pub(super) async fn r06_client_credentials_by_basic_and_post(stack: Arc<StackInfo>) -> Result<()> {
    let token = oauth::client_token(&stack, "demo-cli").await?;
    ensure!(
        oauth::claims(&token)?["aud"] == stack.api_audience(),
        "another audience"
    );
    let secret = stack.client_secret("demo-cli")?;
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", "demo-cli"),
        ("client_secret", secret.as_str()),
    ];
    let answer = oauth::token(&stack, None, &fields).await?;
    ensure!(
        answer.status() == StatusCode::OK,
        "client_secret_post: {}",
        answer.status()
    );
    let answer = oauth::token(&stack, Some(("demo-cli", "wrong")), &fields[..1]).await?;
    ensure!(
        answer.status() == StatusCode::UNAUTHORIZED,
        "a wrong secret: {}",
        answer.status()
    );
    Ok(())
}

pub(super) async fn r06_wrong_audience_denied(stack: Arc<StackInfo>) -> Result<()> {
    let secret = stack.client_secret("demo-cli")?;
    let fields = [
        ("grant_type", "client_credentials"),
        ("resource", "payments"),
    ];
    let answer = oauth::token(&stack, Some(("demo-cli", &secret)), &fields).await?;
    let status = answer.status();
    let body: Value = answer.json().await?;
    ensure!(
        status == StatusCode::BAD_REQUEST && body["error"] == "invalid_target",
        "{body}"
    );
    Ok(())
}

/// R6: a workload's SVID authenticates it as a client on the mesh, and never through the gateway.
pub(super) async fn r06_mtls_client_authentication_stops_at_the_ingress(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let token = oauth::client_token(&stack, "demo-cli").await?;
    let form = format!("client_id=tokenizer&token={token}");
    let answer = mesh::call_as(
        &stack,
        "tokenizer",
        "authz-server",
        post_form("/introspect", &form)?,
    )
    .await?;
    ensure!(
        answer.status == StatusCode::OK,
        "the tokenizer may introspect: {answer:?}"
    );
    ensure!(answer.json()?["active"] == true, "the token is active");
    for client in ["tokenizer", "gateway", "orders", "spa-proxy"] {
        let fields = [("client_id", client), ("token", token.as_str())];
        let answer = oauth::post(&stack, "/introspect", None, &fields).await?;
        let status = answer.status();
        ensure!(
            !status.is_success(),
            "{client} through the public gateway: {status}"
        );
    }
    Ok(())
}

pub(super) async fn r07_a_code_works_once_and_its_replay_revokes_the_family(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let pkce = Pkce::new();
    let code = oauth::code(&stack, "alice", &pkce).await?;
    let first = oauth::redeem(&stack, &code, &pkce.verifier).await?;
    ensure!(
        first.status() == StatusCode::OK,
        "the first redemption: {}",
        first.status()
    );
    let tokens = Tokens::read(&first.json().await?)?;
    let replay = oauth::redeem(&stack, &code, &pkce.verifier).await?;
    ensure!(error_of(replay).await? == "invalid_grant", "the replay");
    let refresh = oauth::refresh(&stack, &tokens.refresh).await?;
    ensure!(
        error_of(refresh).await? == "invalid_grant",
        "the family lives on"
    );
    Ok(())
}

pub(super) async fn r07_parallel_redemption_of_a_code_has_one_winner(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let pkce = Pkce::new();
    let code = oauth::code(&stack, "bob", &pkce).await?;
    let attempts = (0..30).map(|_| oauth::redeem(&stack, &code, &pkce.verifier));
    let mut winners = 0;
    for outcome in futures_util::future::join_all(attempts).await {
        if outcome?.status() == StatusCode::OK {
            winners += 1;
        }
    }
    ensure!(winners == 1, "{winners} of 30 redemptions won");
    Ok(())
}

pub(super) async fn r07_pkce_cannot_be_left_out_or_downgraded(stack: Arc<StackInfo>) -> Result<()> {
    let pkce = Pkce::new();
    let code = oauth::code(&stack, "alice", &pkce).await?;
    let wrong = oauth::redeem(&stack, &code, &Pkce::new().verifier).await?;
    ensure!(
        error_of(wrong).await? == "invalid_grant",
        "another verifier"
    );
    let client = edge::client(&stack)?;
    for (parameter, value) in [("code_challenge", ""), ("code_challenge_method", "plain")] {
        let url = replaced(oauth::authorization_url(&stack, &pkce)?, parameter, value);
        let answer = client.get(url).send().await?;
        let location = answer
            .headers()
            .get("location")
            .and_then(|value| value.to_str().ok());
        ensure!(
            location.is_some_and(|to| to.contains("error=invalid_request")),
            "{parameter}={value:?}: {} {location:?}",
            answer.status()
        );
    }
    Ok(())
}

/// R18: an unregistered redirect gets an error page and no redirect.
pub(super) async fn r18_the_redirect_must_match_exactly(stack: Arc<StackInfo>) -> Result<()> {
    let client = edge::client(&stack)?;
    for redirect in [
        "https://evil.example/callback",
        "http://127.0.0.1:49152/callback/",
        "http://127.0.0.1:49152/callback?x=1",
        "http://127.0.0.1:49152/callback#x",
        "http://127.0.0.1:49152/CALLBACK",
        "http://127.0.0.1:49152/%63allback",
        "http://127.0.0.1@evil.example/callback",
        "http://user@127.0.0.1:49152/callback",
        "https://127.0.0.1:49152/callback",
        "http://127.0.0.1.evil.example/callback",
        "http://localhost:49152/callback",
    ] {
        let url = oauth::authorization_url(&stack, &Pkce::new())?;
        let answer = client
            .get(replaced(url, "redirect_uri", redirect))
            .send()
            .await?;
        ensure!(
            answer.status() == StatusCode::BAD_REQUEST,
            "{redirect}: {}",
            answer.status()
        );
        ensure!(
            !answer.headers().contains_key("location"),
            "{redirect} was redirected to"
        );
    }
    Ok(())
}

pub(super) async fn r09_refresh_rotates_and_reuse_revokes_the_family(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let first = oauth::tokens(&stack, "alice").await?;
    let second = Tokens::read(&oauth::refresh(&stack, &first.refresh).await?.json().await?)?;
    let third = Tokens::read(
        &oauth::refresh(&stack, &second.refresh)
            .await?
            .json()
            .await?,
    )?;
    ensure!(
        third.refresh != second.refresh && second.refresh != first.refresh,
        "no rotation"
    );
    // The first token's successor has been used itself: this is reuse, not a lost response.
    let reuse = oauth::refresh(&stack, &first.refresh).await?;
    ensure!(error_of(reuse).await? == "invalid_grant", "the reuse");
    let newest = oauth::refresh(&stack, &third.refresh).await?;
    ensure!(
        error_of(newest).await? == "invalid_grant",
        "the family lives on"
    );
    Ok(())
}

pub(super) async fn r09_parallel_refreshes_get_the_same_successor(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let tokens = oauth::tokens(&stack, "bob").await?;
    let attempts = (0..20).map(|_| oauth::refresh(&stack, &tokens.refresh));
    let mut successors = std::collections::BTreeSet::new();
    for outcome in futures_util::future::join_all(attempts).await {
        let answer = outcome?;
        ensure!(
            answer.status() == StatusCode::OK,
            "a retry within 10 s: {}",
            answer.status()
        );
        successors.insert(Tokens::read(&answer.json().await?)?.refresh);
    }
    ensure!(successors.len() == 1, "{} successors", successors.len());
    Ok(())
}

/// R12: what is not an access token of this issuer for this audience is no access token.
pub(super) async fn r12_forged_and_foreign_tokens_are_denied(stack: Arc<StackInfo>) -> Result<()> {
    let good = oauth::client_token(&stack, "demo-cli").await?;
    ensure!(
        oauth::api_status(&stack, "/v1/catalogue", &good).await? == StatusCode::OK,
        "control"
    );
    let tokens = oauth::tokens(&stack, "alice").await?;
    let [header, payload, signature] = parts(&good)?;
    let with_header = |header: Value| {
        format!(
            "{}.{payload}.{signature}",
            URL_SAFE_NO_PAD.encode(header.to_string())
        )
    };
    let kid = decoded(&header)?["kid"].clone();
    let mut claims = decoded(&payload)?;
    claims["scope"] = json!("orders:read orders:write");
    let altered = URL_SAFE_NO_PAD.encode(claims.to_string());
    let none = URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "typ": "at+jwt" }).to_string());
    let cases = [
        ("alg none", format!("{none}.{payload}.")),
        ("altered claims", format!("{header}.{altered}.{signature}")),
        (
            "HMAC with the public key",
            hmac_confused(&stack, &payload, &kid).await?,
        ),
        (
            "an embedded key",
            with_header(json!({"alg":"ES256","typ":"at+jwt","jwk":{"kty":"EC"}})),
        ),
        (
            "a key address",
            with_header(
                json!({"alg":"ES256","typ":"at+jwt","kid":kid,"jku":"https://evil.example/jwks"}),
            ),
        ),
        (
            "a kid with a path",
            with_header(json!({"alg":"ES256","typ":"at+jwt","kid":"../../etc/passwd"})),
        ),
        ("an ID token", tokens.id.clone()),
        ("a refresh token", tokens.refresh.clone()),
        (
            "an unknown reference token",
            format!("rwr_{}", "A".repeat(43)),
        ),
        ("no token", "x".to_owned()),
    ];
    for (name, token) in cases {
        let status = oauth::api_status(&stack, "/v1/catalogue", &token).await?;
        ensure!(status == StatusCode::UNAUTHORIZED, "{name}: {status}");
    }
    Ok(())
}

async fn error_of(answer: reqwest::Response) -> Result<String> {
    let status = answer.status();
    let body: Value = answer.json().await?;
    ensure!(status == StatusCode::BAD_REQUEST, "{status}: {body}");
    Ok(body["error"].as_str().unwrap_or_default().to_owned())
}

fn post_form(path: &str, form: &str) -> Result<http::Request<Bytes>> {
    http::Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::copy_from_slice(form.as_bytes()))
        .context("not a request")
}

fn parts(token: &str) -> Result<[String; 3]> {
    let parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts.try_into().map_err(|_| anyhow::anyhow!("not a JWT"))
}

fn decoded(part: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

/// A token "signed" with the text of the public key as an HMAC key.
async fn hmac_confused(stack: &StackInfo, payload: &str, kid: &Value) -> Result<String> {
    let jwks = edge::client(stack)?
        .get(stack.auth_url().join("/jwks")?)
        .send()
        .await?;
    let jwks = jwks.text().await?;
    let header = json!({ "alg": "HS256", "typ": "at+jwt", "kid": kid });
    let signed = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header.to_string()));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, jwks.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag)))
}

/// The URL with one query parameter replaced; an empty value leaves it out.
fn replaced(url: url::Url, name: &str, value: &str) -> url::Url {
    let pairs: Vec<(String, String)> = url
        .query_pairs()
        .map(|(key, old)| {
            let new = if key == name {
                value.to_owned()
            } else {
                old.into_owned()
            };
            (key.into_owned(), new)
        })
        .filter(|(key, value)| key != name || !value.is_empty())
        .collect();
    let mut url = url;
    url.query_pairs_mut().clear().extend_pairs(pairs);
    url
}
