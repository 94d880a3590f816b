//! OAuth 2.0 from a client's side: the code flow of a native client, and the token endpoint.

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use url::Url;

use crate::edge;
use crate::person::Person;
use crate::stack::StackInfo;

/// Where the native demo client listens: nobody does, the redirect is read, not followed.
pub const NATIVE_REDIRECT: &str = "http://127.0.0.1:49152/callback";
pub const NATIVE_CLIENT: &str = "demo-native";

/// A PKCE verifier and its S256 challenge (RFC 7636).
#[derive(Debug, Clone)]
pub struct Pkce {
    pub verifier: String,
    pub challenge: String,
}

impl Pkce {
    pub fn new() -> Self {
        let verifier = format!(
            "{}{}",
            uuid::Uuid::new_v4().simple(),
            uuid::Uuid::new_v4().simple()
        );
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
        Self {
            challenge: URL_SAFE_NO_PAD.encode(digest),
            verifier,
        }
    }
}

impl Default for Pkce {
    fn default() -> Self {
        Self::new()
    }
}

/// The tokens of a code flow.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    pub id: String,
}

/// The authorization request of the native client.
pub fn authorization_url(stack: &StackInfo, pkce: &Pkce) -> Result<Url> {
    let mut url = stack.auth_url().join("/authorize")?;
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", NATIVE_CLIENT)
        .append_pair("redirect_uri", NATIVE_REDIRECT)
        .append_pair(
            "scope",
            "openid profile offline_access orders:read orders:write notifications:read",
        )
        .append_pair("resource", &stack.api_audience())
        .append_pair("state", "state-of-the-test")
        .append_pair("nonce", "nonce-of-the-test")
        .append_pair("code_challenge", &pkce.challenge)
        .append_pair("code_challenge_method", "S256");
    Ok(url)
}

/// Signs `user` in for the native client and returns the code.
pub async fn code(stack: &StackInfo, user: &str, pkce: &Pkce) -> Result<String> {
    let mut person = Person::new(stack)?;
    let url = authorization_url(stack, pkce)?;
    let (url, response) = person.browse(Method::GET, url, None).await?;
    let password = stack.password(user)?;
    let (url, response) = person.authenticate(url, response, user, &password).await?;
    let Some(location) = response.headers().get("location") else {
        let status = response.status();
        bail!(
            "the flow ended at {url} with {status}: {}",
            response.text().await?
        );
    };
    let location = Url::parse(location.to_str()?)?;
    let issuer = query(&location, "iss").context("the response names no issuer (RFC 9207)")?;
    if issuer != stack.issuer_text() {
        bail!("the response names the issuer {issuer}");
    }
    query(&location, "code").with_context(|| format!("no code in {location}"))
}

/// The whole code flow of the native client.
pub async fn tokens(stack: &StackInfo, user: &str) -> Result<Tokens> {
    let pkce = Pkce::new();
    let code = code(stack, user, &pkce).await?;
    let answer = redeem(stack, &code, &pkce.verifier).await?;
    let status = answer.status();
    let body: Value = answer.json().await?;
    if status != StatusCode::OK {
        bail!("the code was not redeemed: {status} {body}");
    }
    Tokens::read(&body)
}

impl Tokens {
    pub fn read(body: &Value) -> Result<Self> {
        let field = |name: &str| {
            body[name]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("no {name} in the answer"))
        };
        Ok(Self {
            access: field("access_token")?,
            refresh: field("refresh_token")?,
            id: body["id_token"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

pub async fn redeem(stack: &StackInfo, code: &str, verifier: &str) -> Result<Response> {
    token(
        stack,
        None,
        &[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", NATIVE_REDIRECT),
            ("client_id", NATIVE_CLIENT),
            ("code_verifier", verifier),
        ],
    )
    .await
}

pub async fn refresh(stack: &StackInfo, refresh_token: &str) -> Result<Response> {
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token),
        ("client_id", NATIVE_CLIENT),
    ];
    token(stack, None, &fields).await
}

/// One request to the public token endpoint.
pub async fn token(
    stack: &StackInfo,
    basic: Option<(&str, &str)>,
    fields: &[(&str, &str)],
) -> Result<Response> {
    post(stack, "/token", basic, fields).await
}

/// One form to a public endpoint of the authorization server.
pub async fn post(
    stack: &StackInfo,
    path: &str,
    basic: Option<(&str, &str)>,
    fields: &[(&str, &str)],
) -> Result<Response> {
    let mut request = edge::client(stack)?.post(stack.auth_url().join(path)?);
    if let Some((client, secret)) = basic {
        request = request.basic_auth(client, Some(secret));
    }
    request
        .form(fields)
        .send()
        .await
        .with_context(|| format!("cannot post to {path}"))
}

/// An access token of a confidential demo client by client_credentials.
pub async fn client_token(stack: &StackInfo, client: &str) -> Result<String> {
    let secret = stack.client_secret(client)?;
    let audience = stack.api_audience();
    let fields = [
        ("grant_type", "client_credentials"),
        ("scope", "orders:read"),
        ("resource", &audience),
    ];
    let answer = token(stack, Some((client, &secret)), &fields).await?;
    let status = answer.status();
    let body: Value = answer.json().await?;
    body.get("access_token")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("{client} got no token: {status} {body}"))
}

/// What a GET of an API path answers to a bearer token.
pub async fn api_status(stack: &StackInfo, path: &str, bearer: &str) -> Result<StatusCode> {
    let url = stack.api_url().join(path)?;
    Ok(edge::client(stack)?
        .get(url)
        .bearer_auth(bearer)
        .send()
        .await?
        .status())
}

/// The claims of a JWT, unverified.
pub fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("not a JWT")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?)
}

pub fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
