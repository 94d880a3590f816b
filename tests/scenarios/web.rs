//! What a person and an attacker see of the application, in a real browser and without one.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use e2e::browser::Browser;
use e2e::edge;
use e2e::person::Person;
use e2e::stack::{StackInfo, checkout};
use fantoccini::Locator;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// R17 R18: the steps of the code flow, each asserted.
pub(super) async fn r17_sign_in_takes_the_steps_of_the_code_flow(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    let steps: Vec<String> = alice
        .steps
        .iter()
        .map(|step| {
            let host = step.url.host_str().unwrap_or_default();
            let host = host.split('.').next().unwrap_or_default();
            format!(
                "{} {host} {} {}",
                step.method,
                step.url.path(),
                step.status.as_u16()
            )
        })
        .collect();
    let expected = [
        "GET app /auth/login 303",
        "GET auth /authorize 303",
        "GET auth /authorize 303",
        "GET auth /login 200",
        "POST auth /login 303",
        "GET auth /authorize 303",
        "GET app /auth/callback 303",
        "GET app / 200",
    ];
    ensure!(steps == expected, "{steps:#?}");
    let authorize = &alice.steps.get(1).context("no authorization request")?.url;
    let names: Vec<String> = authorize
        .query_pairs()
        .map(|(name, _)| name.into_owned())
        .collect();
    ensure!(
        names == ["client_id", "request_uri"],
        "the request was not pushed: {names:?}"
    );
    let callback = &alice.steps.get(6).context("no callback")?.url;
    for name in ["code", "state", "iss"] {
        ensure!(
            e2e::oauth::query(callback, name).is_some(),
            "the callback has no {name}"
        );
    }
    Ok(())
}

/// The main job in a real browser: sign in, order, see it confirmed, see the hops, sign out. R19
/// besides: no token in storage, in script's reach, in the page or in what the browser received.
pub(super) async fn r19_the_browser_orders_and_never_sees_a_token(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let browser = Browser::open(&stack).await?;
    let outcome = order_in(&browser, &stack).await;
    if outcome.is_err() {
        let shot = browser.screenshot("failed-order").await;
        eprintln!("screenshot of the failure: {shot:?}");
    }
    let closed = browser.close().await;
    outcome.and(closed)
}

async fn order_in(browser: &Browser, stack: &StackInfo) -> Result<()> {
    browser.page.goto(stack.app_url().as_str()).await?;
    browser.press("Sign in").await?;
    browser
        .fill(Locator::Css("input[name=username]"), "alice")
        .await?;
    browser
        .fill(
            Locator::Css("input[name=password]"),
            &stack.password("alice")?,
        )
        .await?;
    accessible(browser, "login").await?;
    browser.click(Locator::Css("form button")).await?;
    browser
        .click(Locator::XPath(
            "//button[starts-with(@aria-label, 'Add to basket')]",
        ))
        .await?;
    accessible(browser, "catalogue").await?;
    browser.press("Place order").await?;
    browser.sees("Confirmed").await?;
    accessible(browser, "confirmed order").await?;
    browser.screenshot("order-confirmed").await?;
    no_token_within_reach(browser).await?;
    browser
        .click(Locator::Css("[data-testid=show-trace]"))
        .await?;
    for service in [
        "gateway",
        "orders",
        "inventory",
        "tokenizer",
        "payments",
        "notifications",
    ] {
        browser
            .wait(Locator::Css(&format!(
                "[data-testid=hop][data-service={service}]"
            )))
            .await?;
    }
    accessible(browser, "what just happened").await?;
    browser.screenshot("what-just-happened").await?;
    browser.press("Sign out").await?;
    browser
        .wait(Locator::XPath(
            "//*[self::button or self::a][normalize-space(.)='Sign in']",
        ))
        .await?;
    Ok(())
}

/// R19: storage, cookies that script can read, the page itself, and what the application's server
/// answers to its script hold no token.
async fn no_token_within_reach(browser: &Browser) -> Result<()> {
    let script = "const done = arguments[arguments.length - 1]; \
                  const ask = async path => { const a = await fetch(path); \
                  return [a.status, [...a.headers], await a.text()]; }; \
                  Promise.all(['/api/session', '/api/catalogue', '/api/orders', \
                  '/api/notifications'].map(ask)).then(answers => done(JSON.stringify([answers, \
                  Object.entries(localStorage), Object.entries(sessionStorage), \
                  document.cookie, document.documentElement.outerHTML])));";
    let seen = browser.page.execute_async(script, vec![]).await?;
    let seen = seen.as_str().context("the script returned no text")?;
    ensure!(seen.contains("signed_in"), "the script saw no session");
    for mark in [
        "eyJ",
        "rwr_",
        "rws_",
        "rwk_",
        "refresh_token",
        "access_token",
    ] {
        ensure!(
            !seen.contains(mark),
            "{mark} stands within the page's reach"
        );
    }
    Ok(())
}

/// axe finds nothing serious.
async fn accessible(browser: &Browser, page: &str) -> Result<()> {
    let axe = checkout()?.join("spa-proxy/web/node_modules/axe-core/axe.min.js");
    let source = std::fs::read_to_string(axe).context("no axe-core: run `cargo xtask setup`")?;
    browser.page.execute(&source, vec![]).await?;
    let script = "const done = arguments[arguments.length - 1]; \
                  axe.run().then(result => done(JSON.stringify(result.violations.map(v => \
                  [v.impact, v.id, v.nodes.map(n => n.html).slice(0, 3)]))));";
    let found = browser.page.execute_async(script, vec![]).await?;
    let found: Vec<Value> = serde_json::from_str(found.as_str().context("axe returned no text")?)?;
    let serious: Vec<&Value> = found
        .iter()
        .filter(|violation| violation[0] == "serious" || violation[0] == "critical")
        .collect();
    ensure!(serious.is_empty(), "axe on {page}: {serious:?}");
    Ok(())
}

pub(super) async fn r43_every_page_carries_the_security_headers(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let client = edge::client(&stack)?;
    let login = e2e::oauth::authorization_url(&stack, &e2e::oauth::Pkce::new())?;
    let mut person = Person::new(&stack)?;
    let (login, _) = person.browse(Method::GET, login, None).await?;
    for url in [stack.app_url(), login] {
        let answer = client.get(url.clone()).send().await?;
        let header = |name: &str| {
            let value = answer
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        ensure!(
            header("strict-transport-security").contains("max-age="),
            "{url}: no HSTS"
        );
        let policy = header("content-security-policy");
        ensure!(policy.contains("frame-ancestors 'none'"), "{url}: {policy}");
        ensure!(!policy.contains("unsafe-"), "{url}: {policy}");
        ensure!(
            header("x-content-type-options") == "nosniff",
            "{url}: no nosniff"
        );
    }
    Ok(())
}

pub(super) async fn attack_csrf_is_refused(stack: Arc<StackInfo>) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    let url = stack.app_url().join("/api/orders")?;
    let own = stack.app_url().origin().ascii_serialization();
    let order = json!({ "lines": [{ "sku": "any", "quantity": 1 }] });
    let cases = [
        ("no CSRF header", None, own.as_str(), "same-origin"),
        (
            "a foreign origin",
            Some("1"),
            "https://evil.example",
            "cross-site",
        ),
        (
            "a sibling host",
            Some("1"),
            "https://auth.localhost:8443",
            "same-site",
        ),
        ("a null origin", Some("1"), "null", "cross-site"),
    ];
    for (name, csrf, origin, site) in cases {
        let mut request = alice.client.post(url.clone()).json(&order);
        request = request
            .header("origin", origin)
            .header("sec-fetch-site", site);
        if let Some(csrf) = csrf {
            request = request.header("x-ringwall-csrf", csrf);
        }
        let status = request.send().await?.status();
        ensure!(status == StatusCode::FORBIDDEN, "{name}: {status}");
    }
    Ok(())
}

/// ATTACKS: a planted session is none, sign-in makes a new one and ends the one before, and two
/// cookies are none even where each of them is right.
pub(super) async fn attack_session_fixation_and_duplicate_cookies(
    stack: Arc<StackInfo>,
) -> Result<()> {
    let mut alice = Person::signed_in(&stack, "alice").await?;
    let before = alice.session_cookie()?.to_owned();
    // The server still knows her: no form this time.
    let start = stack.app_url().join("/auth/login")?;
    alice.browse(Method::GET, start, None).await?;
    let now = alice.session_cookie()?.to_owned();
    ensure!(before != now, "the second sign-in kept the session's id");
    let planted = "__Host-ringwall-session=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let client = edge::bare_client(&stack)?;
    let url = stack.app_url().join("/api/orders")?;
    for (name, cookie, expected) in [
        ("the control", now.clone(), StatusCode::OK),
        ("the session before", before, StatusCode::UNAUTHORIZED),
        (
            "a planted one",
            planted.to_owned(),
            StatusCode::UNAUTHORIZED,
        ),
        (
            "the same twice",
            format!("{now}; {now}"),
            StatusCode::BAD_REQUEST,
        ),
        ("two", format!("{now}; {planted}"), StatusCode::BAD_REQUEST),
    ] {
        let request = client.get(url.clone()).header("cookie", cookie);
        let status = request.send().await?.status();
        ensure!(status == expected, "{name}: {status}");
    }
    Ok(())
}

pub(super) async fn attack_the_proxy_is_no_open_proxy(stack: Arc<StackInfo>) -> Result<()> {
    let alice = Person::signed_in(&stack, "alice").await?;
    for path in [
        "/api/metrics",
        "/api/v1/orders",
        "/api/orders/../../metrics",
        "/api/https://evil.example/",
        "/api//evil.example",
        "/api/topics/order.placed/events",
    ] {
        let status = alice.api(Method::GET, path, None).await?.status();
        ensure!(
            status == StatusCode::NOT_FOUND || status == StatusCode::BAD_REQUEST,
            "{path}: {status}"
        );
    }
    Ok(())
}

/// R40 R67: what the page would not send is refused by the service all the same.
pub(super) async fn r40_bypassing_the_page_still_gets_400(stack: Arc<StackInfo>) -> Result<()> {
    let bob = Person::signed_in(&stack, "bob").await?;
    // An article that could be had: only what is wrong with the request speaks against it.
    let lines = bob.place_order().await?["lines"].clone();
    let sku = lines[0]["sku"].as_str().context("the order has no line")?;
    for body in [
        json!({}),
        json!({ "lines": [] }),
        json!({ "lines": [{ "sku": "", "quantity": 1 }] }),
        json!({ "lines": [{ "sku": sku, "quantity": 0 }] }),
        json!({ "lines": [{ "sku": sku, "quantity": 100 }] }),
        json!({ "lines": [{ "sku": sku, "quantity": -1 }] }),
        json!({ "lines": [{ "sku": sku, "quantity": 1, "price_minor": 1 }] }),
        json!({ "lines": [{ "sku": sku, "quantity": 1 }, { "sku": sku, "quantity": 1 }] }),
        json!({ "lines": [{ "sku": "none such", "quantity": 1 }] }),
    ] {
        let answer = bob.api(Method::POST, "/api/orders", Some(&body)).await?;
        let status = answer.status();
        ensure!(
            status == StatusCode::BAD_REQUEST || status == StatusCode::UNPROCESSABLE_ENTITY,
            "{body}: {status}"
        );
    }
    Ok(())
}

/// R47: the bundle that everybody can load holds no secret.
pub(super) async fn r47_the_bundle_holds_no_secret(stack: Arc<StackInfo>) -> Result<()> {
    let client = edge::client(&stack)?;
    let page = client.get(stack.app_url()).send().await?.text().await?;
    let scripts: Vec<&str> = page
        .split("src=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    ensure!(!scripts.is_empty(), "the page loads no script: {page}");
    for script in scripts {
        let text = client
            .get(stack.app_url().join(script)?)
            .send()
            .await?
            .text()
            .await?;
        for secret in stack.all_credentials() {
            ensure!(!text.contains(&secret), "{script} holds a secret");
        }
        ensure!(!text.contains("BEGIN "), "{script} holds a key");
    }
    Ok(())
}
