//! The configuration of spa-proxy, validated at start.
//!
//! Owns: every limit and address that an operator may change, with its default.
//! Must not: read the environment or open files.

use std::{path::PathBuf, time::Duration};

use ringwall_http_io::Address;
use ringwall_service::{
    ComponentConfig,
    config::{ConfigError, ServiceConfig},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

/// Longest time that an introspection answer may be reused: revocation is seen within it (R11, R19).
const MAX_INTROSPECTION_CACHE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) service: ServiceConfig,
    /// Where browsers reach this application, without a path: `https://app.localhost:8443`.
    #[schemars(with = "String")]
    pub(crate) public_origin: Url,
    /// Issuer identifier of the authorization server, exactly as it stands in its tokens.
    pub(crate) issuer: String,
    /// This application's client at the authorization server.
    #[serde(default = "defaults::client_id")]
    pub(crate) client_id: String,
    /// Scopes that sign-in asks for.
    #[serde(default = "defaults::scope")]
    pub(crate) scope: String,
    pub(crate) api: ApiConfig,
    /// Directory with the built web bundle (`spa-proxy/web/dist`).
    pub(crate) assets: PathBuf,
    #[serde(default)]
    pub(crate) session: SessionConfig,
    /// How long "this token is active" may be reused; at most one second.
    #[serde(default = "defaults::introspection_cache", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) introspection_cache: Duration,
    #[serde(default)]
    pub(crate) traces: TraceConfig,
}

/// The gateway's API host: the only place that API calls go to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiConfig {
    /// Public URL; its host is verified in the certificate and sent as `Host`. Also the audience
    /// that access tokens must carry.
    #[schemars(with = "String")]
    pub(crate) url: Url,
    /// Address that is dialled for it, `ip:port` or `name:port`.
    #[schemars(with = "String")]
    pub(crate) address: Address,
    /// PEM file with the certificate authorities that vouch for the gateway.
    pub(crate) roots: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SessionConfig {
    /// A session that is not used for this long ends.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) idle: Duration,
    /// A session ends after this long, used or not.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) absolute: Duration,
    /// Most sessions at one time; the least recently used one gives way.
    pub(crate) max: usize,
    /// How long a started sign-in may take.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) sign_in: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30 * 60),
            absolute: Duration::from_secs(12 * 3600),
            max: 10_000,
            sign_in: Duration::from_secs(10 * 60),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TraceConfig {
    /// Most traces at one time.
    pub(crate) max_traces: usize,
    /// Most spans of one trace.
    pub(crate) max_spans_per_trace: usize,
    /// Most spans of all traces together.
    pub(crate) max_spans: usize,
    /// How long a trace is kept.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) keep: Duration,
    /// Upstream that gets a copy of every accepted batch of spans (OTLP/HTTP); null for nobody.
    pub(crate) export_to: Option<String>,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self {
            max_traces: 2_000,
            max_spans_per_trace: 200,
            max_spans: 40_000,
            keep: Duration::from_secs(15 * 60),
            export_to: None,
        }
    }
}

impl Config {
    /// Where the authorization server sends the browser back to; registered there as an exact string.
    pub(crate) fn redirect_uri(&self) -> String {
        format!("{}/auth/callback", self.origin())
    }

    /// Where the browser lands after sign-out; registered there as an exact string.
    pub(crate) fn post_logout_redirect_uri(&self) -> String {
        format!("{}/", self.origin())
    }

    /// The public origin as browsers send it in `Origin` (RFC 6454 §6.1): no trailing slash.
    pub(crate) fn origin(&self) -> String {
        self.public_origin.origin().ascii_serialization()
    }

    fn receiver_of_spans(&self) -> Result<(), ConfigError> {
        let Some(name) = &self.traces.export_to else {
            return Ok(());
        };
        let wrong = |seen: &str, fix: &str| {
            let expected = "the name of another workload's declared upstream, or null";
            Err(ConfigError::invalid(
                "traces.export_to",
                seen,
                expected,
                fix,
            ))
        };
        match self.service.upstreams.get(name) {
            None => wrong(
                &format!("`{name}`, which service.upstreams does not declare"),
                &format!(
                    "add `{name}: {{ address: \"{name}:4318\", identity: {name} }}` to \
                     service.upstreams, or write `export_to: null`"
                ),
            ),
            // Each copy would be accepted, and copied again, for ever.
            Some(upstream) if upstream.identity == self.service.name => wrong(
                &format!("`{name}`, which is this component itself"),
                "name the receiver that keeps the spans, or write `export_to: null`",
            ),
            Some(_) => Ok(()),
        }
    }
}

impl ComponentConfig for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        bare_origin("public_origin", &self.public_origin)?;
        bare_origin("api.url", &self.api.url)?;
        if !Url::parse(&self.issuer).is_ok_and(|issuer| issuer.scheme() == "https") {
            return Err(invalid("issuer", &self.issuer, "an https URL"));
        }
        if self.introspection_cache > MAX_INTROSPECTION_CACHE {
            let seen = format!("{:?}", self.introspection_cache);
            return Err(invalid("introspection_cache", &seen, "at most 1s"));
        }
        if self.session.idle.is_zero() || self.session.idle > self.session.absolute {
            let seen = format!("{:?}", self.session.idle);
            return Err(invalid(
                "session.idle",
                &seen,
                "more than 0s, at most session.absolute",
            ));
        }
        self.receiver_of_spans()?;
        let sizes = [
            ("session.max", self.session.max),
            ("traces.max_traces", self.traces.max_traces),
            (
                "traces.max_spans_per_trace",
                self.traces.max_spans_per_trace,
            ),
            ("traces.max_spans", self.traces.max_spans),
        ];
        match sizes.iter().find(|(_, size)| *size == 0) {
            Some((key, _)) => Err(invalid(key, "0", "at least 1")),
            None => Ok(()),
        }
    }
}

/// An https URL with nothing behind its authority.
fn bare_origin(key: &str, url: &Url) -> Result<(), ConfigError> {
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    if url.scheme() == "https" && url.has_host() && bare && anonymous {
        return Ok(());
    }
    Err(invalid(
        key,
        url.as_str(),
        "https://HOST[:PORT] without a path",
    ))
}

fn invalid(key: &str, seen: &str, expected: &str) -> ConfigError {
    ConfigError::invalid(
        key,
        seen,
        expected,
        "correct the value in the configuration file",
    )
}

mod defaults {
    use std::time::Duration;

    pub(super) fn client_id() -> String {
        "spa-proxy".to_owned()
    }

    pub(super) fn scope() -> String {
        "openid profile email offline_access orders:read orders:write notifications:read".to_owned()
    }

    pub(super) fn introspection_cache() -> Duration {
        Duration::from_secs(1)
    }
}
