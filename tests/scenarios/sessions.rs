//! Sign-in, sessions and their end: at the server, at the application, and for tokens already out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::edge;
use e2e::oauth::{self, NATIVE_CLIENT, Pkce};
use e2e::person::{Form, Person};
use e2e::stack::StackInfo;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// How long a revoked token or session may still be honoured anywhere (R11).
const REVOCATION: Duration = Duration::from_secs(1);
/// Failures that an account may have within the window.
const GUESSES: usize = 10;

pub(super) async fn r11_a_revoked_reference_token_is_denied_within_a_second(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let token = oauth::client_token(&stack, "demo-partner").await?;
    ensure!(token.starts_with("rwr_"), "not a reference token");
    let before = oauth::api_status(&stack, "/v1/catalogue", &token).await?;
    ensure!(before == StatusCode::OK, "before revocation: {before}");
    let secret = stack.client_secret("demo-partner")?;
    let fields = [("token", token.as_str())];
    let revoked = oauth::post(&stack, "/revoke", Some(("demo-partner", &secret)), &fields).await?;
    ensure!(
        revoked.status() == StatusCode::OK,
        "revocation: {}",
        revoked.status()
    );
    let at = Instant::now();
    loop {
        if oauth::api_status(&stack, "/v1/catalogue", &token).await? == StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        ensure!(
            at.elapsed() < REVOCATION,
            "still honoured after {REVOCATION:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// R11: revoking the refresh token ends the family: its access token is inactive at once.
pub(super) async fn r11_revoking_a_refresh_token_ends_its_access_tokens(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let tokens = oauth::tokens(&stack, "alice").await?;
    ensure!(is_active(&stack, &tokens.access).await?, "the control");
    let fields = [
        ("token", tokens.refresh.as_str()),
        ("client_id", NATIVE_CLIENT),
    ];
    let revoked = oauth::post(&stack, "/revoke", None, &fields).await?;
    ensure!(revoked.status() == StatusCode::OK, "{}", revoked.status());
    inactive_within_a_second(&stack, &tokens.access).await?;
    let refreshed = oauth::refresh(&stack, &tokens.refresh).await?.status();
    ensure!(refreshed == StatusCode::BAD_REQUEST, "refresh: {refreshed}");
    Ok(())
}

/// R12: a JWT outlives its session in form only: after sign-out it introspects as inactive.
pub(super) async fn r12_after_sign_out_a_jwt_is_inactive(stack: Arc<StackInfo>) -> Result<()> {
    let tokens = oauth::tokens(&stack, "alice").await?;
    ensure!(is_active(&stack, &tokens.access).await?, "the control");
    let mut url = stack.auth_url().join("/logout")?;
    url.query_pairs_mut()
        .append_pair("id_token_hint", &tokens.id);
    let answer = edge::client(&stack)?.get(url).send().await?;
    ensure!(
        answer.status().is_success(),
        "sign-out: {}",
        answer.status()
    );
    inactive_within_a_second(&stack, &tokens.access).await?;
    let refreshed = oauth::refresh(&stack, &tokens.refresh).await?.status();
    ensure!(refreshed == StatusCode::BAD_REQUEST, "refresh: {refreshed}");
    Ok(())
}

/// R19: who signs out at the server is signed out at the application within a second, although the
/// application was not told by the browser.
pub(super) async fn r19_a_session_ended_at_the_server_is_dead_within_a_second(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let mut alice = Person::signed_in(&stack, "alice").await?;
    let before = alice.api(Method::GET, "/api/orders", None).await?.status();
    ensure!(before == StatusCode::OK, "the control: {before}");
    let (url, page) = alice
        .browse(Method::GET, stack.auth_url().join("/logout")?, None)
        .await?;
    let form = Form::first(&page.text().await?).context("nobody asks before signing out")?;
    let mut fields = form.fields;
    fields.retain(|(name, _)| name != "decision");
    fields.push(("decision".to_owned(), "leave".to_owned()));
    let (_, left) = alice
        .browse(Method::POST, url.join(&form.action)?, Some(fields))
        .await?;
    ensure!(left.status().is_success(), "sign-out: {}", left.status());
    let at = Instant::now();
    loop {
        let status = alice.api(Method::GET, "/api/orders", None).await?.status();
        if status == StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        ensure!(at.elapsed() < REVOCATION, "still served: {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn r44_discovery_names_what_the_server_does(stack: Arc<StackInfo>) -> Result<()> {
    let client = edge::client(&stack)?;
    let url = stack.auth_url().join("/.well-known/openid-configuration")?;
    let document: Value = client.get(url).send().await?.json().await?;
    ensure!(
        document["issuer"] == stack.issuer_text(),
        "issuer: {}",
        document["issuer"]
    );
    ensure!(
        document["code_challenge_methods_supported"] == json!(["S256"]),
        "PKCE"
    );
    ensure!(
        document["authorization_response_iss_parameter_supported"] == true,
        "iss"
    );
    for name in [
        "authorization_endpoint",
        "token_endpoint",
        "userinfo_endpoint",
        "jwks_uri",
        "end_session_endpoint",
        "introspection_endpoint",
        "revocation_endpoint",
        "pushed_authorization_request_endpoint",
    ] {
        let endpoint = document[name]
            .as_str()
            .with_context(|| format!("no {name}"))?;
        ensure!(
            endpoint.starts_with(&stack.issuer_text()),
            "{name} is {endpoint}"
        );
        // Whatever it says to a plain GET, it is there.
        let status = client.get(endpoint).send().await?.status();
        ensure!(status != StatusCode::NOT_FOUND, "nobody is at {endpoint}");
    }
    let jwks: Value = client
        .get(document["jwks_uri"].as_str().unwrap_or_default())
        .send()
        .await?
        .json()
        .await?;
    let private = jwks.to_string();
    ensure!(
        !private.contains("\"d\""),
        "the key set holds a private key"
    );
    Ok(())
}

pub(super) async fn r44_userinfo_and_id_token_agree(stack: Arc<StackInfo>) -> Result<()> {
    let tokens = oauth::tokens(&stack, "alice").await?;
    let id = oauth::claims(&tokens.id)?;
    ensure!(
        id["aud"] == NATIVE_CLIENT && id["nonce"] == "nonce-of-the-test",
        "{id}"
    );
    let client = edge::client(&stack)?;
    let url = stack.auth_url().join("/userinfo")?;
    let answer = client
        .get(url.clone())
        .bearer_auth(&tokens.access)
        .send()
        .await?;
    ensure!(
        answer.status() == StatusCode::OK,
        "userinfo: {}",
        answer.status()
    );
    let userinfo: Value = answer.json().await?;
    ensure!(
        userinfo["sub"] == id["sub"],
        "two subjects: {userinfo} and {id}"
    );
    let anonymous = client.get(url).send().await?;
    ensure!(
        anonymous.status() == StatusCode::UNAUTHORIZED,
        "anonymous userinfo"
    );
    Ok(())
}

pub(super) async fn r44_sign_out_ends_the_session_at_both_ends(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let mut alice = Person::signed_in(&stack, "alice").await?;
    let answer = alice.api(Method::POST, "/auth/logout", None).await?;
    if let Some(next) = answer.headers().get("location") {
        let next = stack.app_url().join(next.to_str()?)?;
        alice.browse(Method::GET, next, None).await?;
    } else {
        let body: Value = answer.json().await?;
        let next = body
            .as_object()
            .and_then(|fields| fields.values().find_map(Value::as_str));
        let next = stack
            .app_url()
            .join(next.context("no place to go to after sign-out")?)?;
        alice.browse(Method::GET, next, None).await?;
    }
    let status = alice.api(Method::GET, "/api/orders", None).await?.status();
    ensure!(
        status == StatusCode::UNAUTHORIZED,
        "the application's session lives on: {status}"
    );
    let (url, page) = alice
        .browse(Method::GET, stack.app_url().join("/auth/login")?, None)
        .await?;
    ensure!(
        url.host_str() == stack.auth_url().host_str(),
        "signed in without a password at {url}"
    );
    ensure!(
        page.text().await?.contains("password"),
        "the server asks for no password"
    );
    Ok(())
}

/// ATTACKS: the same body, status and work for a wrong password and an unknown name.
pub(super) async fn attack_enumeration_of_users_finds_nothing(stack: Arc<StackInfo>) -> Result<()> {
    let names = ["mallory", "nobody-of-that-name"];
    let mut fastest = [Duration::MAX; 2];
    for _ in 0..4 {
        let mut answers = Vec::new();
        for (user, fastest) in names.into_iter().zip(&mut fastest) {
            let guess = guess(&stack, &mut Person::new(&stack)?, user, "wrong-password").await?;
            *fastest = guess.took.min(*fastest);
            // Pages differ in their tokens, which have a fixed length: the length tells the rest.
            answers.push((guess.status, guess.page.replace(user, "USER").len()));
        }
        ensure!(answers.first() == answers.last(), "{answers:?}");
    }
    let [known, unknown] = fastest;
    // Of several, the fastest is what the work itself takes, however busy the machine is.
    ensure!(
        unknown * 2 > known && known * 2 > unknown,
        "an unknown name takes {unknown:?}, a known one {known:?}"
    );
    Ok(())
}

/// ATTACKS: after ten wrong guesses not even the right password is looked at, from any address.
pub(super) async fn attack_password_guessing_is_locked_out(stack: Arc<StackInfo>) -> Result<()> {
    let mut thief = Person::new(&stack)?;
    for attempt in 0..GUESSES {
        let guess = guess(&stack, &mut thief, "admin", "wrong-password").await?;
        ensure!(
            guess.status == StatusCode::FORBIDDEN,
            "guess {attempt}: {}",
            guess.status
        );
    }
    let right = stack.password("admin")?;
    for mut person in [thief, Person::new(&stack)?] {
        let guess = guess(&stack, &mut person, "admin", &right).await?;
        ensure!(
            guess.status == StatusCode::TOO_MANY_REQUESTS,
            "the eleventh guess: {}",
            guess.status
        );
        ensure!(guess.retry_after, "429 without Retry-After");
    }
    Ok(())
}

/// What came of one attempt to sign in.
struct Guess {
    status: StatusCode,
    retry_after: bool,
    page: String,
    took: Duration,
}

async fn guess(
    stack: &StackInfo,
    person: &mut Person,
    user: &str,
    password: &str,
) -> Result<Guess> {
    let url = oauth::authorization_url(stack, &Pkce::new())?;
    let (url, page) = person.browse(Method::GET, url, None).await?;
    let form = Form::first(&page.text().await?).context("no login form")?;
    let fields = form.filled(user, password);
    let action = url.join(&form.action)?;
    let started = Instant::now();
    let (_, answer) = person.browse(Method::POST, action, Some(fields)).await?;
    Ok(Guess {
        status: answer.status(),
        retry_after: answer.headers().contains_key("retry-after"),
        page: answer.text().await?,
        took: started.elapsed(),
    })
}

/// What the authorization server says of a token, asked as the gateway asks.
async fn is_active(stack: &StackInfo, token: &str) -> Result<bool> {
    let secret = stack.secret("gateway", "oauth-client-secret")?;
    let fields = [("token", token)];
    let answer = oauth::post(stack, "/introspect", Some(("gateway", &secret)), &fields).await?;
    let status = answer.status();
    let body: Value = answer.json().await?;
    body["active"]
        .as_bool()
        .with_context(|| format!("introspection: {status} {body}"))
}

async fn inactive_within_a_second(stack: &StackInfo, token: &str) -> Result<()> {
    let at = Instant::now();
    while is_active(stack, token).await? {
        ensure!(at.elapsed() < REVOCATION, "active after {REVOCATION:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
