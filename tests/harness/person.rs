//! A person without a browser: follows redirects, fills in the login and consent forms, keeps cookies.
//!
//! Owns: the steps of a sign-in, recorded so that a scenario can assert each one of them.
//! The real browser is in [`crate::browser`]; this one is for the scenarios that need many people.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use url::Url;

use crate::edge;
use crate::journal;
use crate::stack::StackInfo;

/// One request of a recorded sign-in and what answered it.
#[derive(Debug, Clone)]
pub struct Step {
    pub method: Method,
    pub url: Url,
    pub status: StatusCode,
    /// The `name=value` of each cookie that was set.
    pub cookies: Vec<String>,
}

/// A person with a cookie jar.
pub struct Person {
    pub client: reqwest::Client,
    pub steps: Vec<Step>,
    app: Url,
}

impl Person {
    pub fn new(stack: &StackInfo) -> Result<Self> {
        Ok(Self {
            client: edge::client(stack)?,
            steps: Vec::new(),
            app: stack.app_url(),
        })
    }

    /// A person who is signed in to the application.
    pub async fn signed_in(stack: &StackInfo, user: &str) -> Result<Self> {
        let mut person = Self::new(stack)?;
        person.sign_in(user, &stack.password(user)?).await?;
        Ok(person)
    }

    /// Signs in at the application: ends on its landing page with a session cookie.
    pub async fn sign_in(&mut self, user: &str, password: &str) -> Result<()> {
        let start = self.app.join("/auth/login")?;
        let (url, response) = self.browse(Method::GET, start, None).await?;
        let (url, response) = self.authenticate(url, response, user, password).await?;
        if url.host_str() != self.app.host_str() || !response.status().is_success() {
            bail!("sign-in ended at {url} with {}", response.status());
        }
        // A refused sign-in ends on the same page, with a word about it.
        self.session_cookie()?;
        Ok(())
    }

    /// Fills in whatever forms stand between an authorization request and its redirect.
    pub async fn authenticate(
        &mut self,
        mut url: Url,
        mut response: Response,
        user: &str,
        password: &str,
    ) -> Result<(Url, Response)> {
        for _ in 0..3 {
            let is_page = response
                .headers()
                .get("content-type")
                .is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
            let at_login = url.path().contains("login") || url.path().contains("authorize");
            if !is_page || !(at_login || url.path().contains("consent")) {
                break;
            }
            let page = response.text().await?;
            let form = Form::first(&page).with_context(|| format!("no form at {url}: {page}"))?;
            let fields = form.filled(user, password);
            let action = url.join(&form.action)?;
            (url, response) = self.browse(Method::POST, action, Some(fields)).await?;
        }
        Ok((url, response))
    }

    /// One request and all the redirects that follow it, except those to a host that is not ours.
    pub async fn browse(
        &mut self,
        mut method: Method,
        mut url: Url,
        mut form: Option<Vec<(String, String)>>,
    ) -> Result<(Url, Response)> {
        for _ in 0..12 {
            let mut request = self.client.request(method.clone(), url.clone());
            request = request.header("accept", "text/html,*/*");
            if let Some(fields) = form.take() {
                request = request.header("origin", url.origin().ascii_serialization());
                request = request.form(&fields);
            }
            let response = request
                .send()
                .await
                .with_context(|| format!("{method} {url}"))?;
            let status = response.status();
            self.steps.push(Step {
                method: method.clone(),
                url: url.clone(),
                status,
                cookies: set_cookies(&response),
            });
            let next = response
                .headers()
                .get("location")
                .and_then(|value| value.to_str().ok());
            let Some(next) = next.filter(|_| status.is_redirection()) else {
                return Ok((url, response));
            };
            let next = url.join(next)?;
            if !next
                .host_str()
                .is_some_and(|host| host.ends_with("localhost"))
            {
                return Ok((url, response));
            }
            (method, url) = (Method::GET, next);
        }
        bail!("more than 12 redirects, the last to {url}")
    }

    /// The cookie of the application's session, as the last sign-in has set it.
    pub fn session_cookie(&self) -> Result<&str> {
        let mut cookies = self.steps.iter().rev().flat_map(|step| &step.cookies);
        cookies
            .find(|cookie| cookie.starts_with("__Host-ringwall-session="))
            .map(String::as_str)
            .context("no session cookie was set")
    }

    /// A call of the application's own API, as its page makes it.
    pub async fn api(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response> {
        if let Some(body) = body.filter(|_| method == Method::POST) {
            let key = uuid::Uuid::new_v4().to_string();
            return self.post_with_key(path, body, &key).await;
        }
        self.send(path, self.request(method, path)?).await
    }

    /// A POST with an idempotency key of the caller's, in a trace that a failure shows.
    pub async fn post_with_key(&self, path: &str, body: &Value, key: &str) -> Result<Response> {
        let request = self
            .request(Method::POST, path)?
            .json(body)
            .header("idempotency-key", key)
            .header("traceparent", journal::begin(&self.client, &self.app));
        self.send(path, request).await
    }

    /// A request as the application's page makes it, for somebody who adds to it.
    pub(crate) fn request(&self, method: Method, path: &str) -> Result<RequestBuilder> {
        let request = self.client.request(method, self.app.join(path)?);
        Ok(request
            .header("x-ringwall-csrf", "1")
            .header("origin", self.app.origin().ascii_serialization())
            .header("sec-fetch-site", "same-origin"))
    }

    async fn send(&self, path: &str, request: RequestBuilder) -> Result<Response> {
        request
            .send()
            .await
            .with_context(|| format!("cannot call {path}"))
    }

    /// The same, for answers that must be 2xx JSON.
    pub async fn api_json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let response = self.api(method, path, body).await?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{path} answered {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("{path} answered no JSON: {text}"))
    }

    /// Places orders until one succeeds: whoever was away is not called before it has said that it is
    /// ready, and callers have heard of that.
    pub async fn place_order_within(&self, limit: Duration) -> Result<Value> {
        const PAUSE: Duration = Duration::from_millis(100);
        let begun = Instant::now();
        loop {
            match self.place_order().await {
                Ok(order) if order["status"] == "placed" => return Ok(order),
                Ok(order) if begun.elapsed() > limit => bail!("still {order} after {limit:?}"),
                Err(error) if begun.elapsed() > limit => {
                    return Err(error.context(format!("still refused after {limit:?}")));
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Places an order for one unit of the first article that is in stock.
    pub async fn place_order(&self) -> Result<Value> {
        let catalogue = self.api_json(Method::GET, "/api/catalogue", None).await?;
        let items = catalogue
            .as_array()
            .or_else(|| catalogue.get("items")?.as_array());
        let sku = items
            .context("the catalogue is no list")?
            .iter()
            .find(|item| item["available"].as_u64().unwrap_or(0) > 0)
            .and_then(|item| item["sku"].as_str())
            .context("nothing is in stock")?;
        let order = serde_json::json!({ "lines": [{ "sku": sku, "quantity": 1 }] });
        self.api_json(Method::POST, "/api/orders", Some(&order))
            .await
    }
}

/// The first form of a page: where it goes and what it already holds.
#[derive(Debug)]
pub struct Form {
    pub action: String,
    pub fields: Vec<(String, String)>,
}

impl Form {
    pub fn first(page: &str) -> Option<Self> {
        let (_, rest) = page.split_once("<form")?;
        let (form, _) = rest.split_once("</form>")?;
        let action = attribute(form, "action").unwrap_or_default();
        let mut fields = Vec::new();
        for tag in form
            .split('<')
            .filter(|tag| tag.starts_with("input") || tag.starts_with("button"))
        {
            if let Some(name) = attribute(tag, "name") {
                fields.push((name, attribute(tag, "value").unwrap_or_default()));
            }
        }
        Some(Self { action, fields })
    }

    /// The fields with a person's credentials in the places for them; of the two buttons of a
    /// consent form the one that allows is pressed.
    pub fn filled(&self, user: &str, password: &str) -> Vec<(String, String)> {
        let mut filled: Vec<(String, String)> = Vec::new();
        for (name, value) in &self.fields {
            if filled.iter().any(|(known, _)| known == name) {
                continue;
            }
            let value = match name.as_str() {
                "username" => user,
                "password" => password,
                "decision" => "allow",
                _ => value.as_str(),
            };
            filled.push((name.clone(), value.to_owned()));
        }
        filled
    }
}

fn set_cookies(response: &Response) -> Vec<String> {
    let fields = response.headers().get_all("set-cookie").iter();
    fields
        .filter_map(|field| field.to_str().ok()?.split(';').next())
        .map(str::to_owned)
        .collect()
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    Some(
        value
            .replace("&amp;", "&")
            .replace("&#38;", "&")
            .replace("&#x2F;", "/"),
    )
}
