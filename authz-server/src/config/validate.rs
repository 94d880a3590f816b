//! Checks of the configuration beyond its shape: bounds of lifetimes (R64) and clients that
//! contradict themselves. What only the production profile refuses stands in `production.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use ringwall_service::{ConfigError, Profile};
use url::Url;

use super::clients::{AuthenticationMethod, ClientDeclaration, GrantName};
use super::{Config, Lifetimes};
use crate::authorize::redirect;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Least and most, in seconds.
type Bounds = (u64, u64);

/// Everything that no profile accepts.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    check_issuer(&config.issuer)?;
    config.service.workload(&config.ingress)?;
    if !is_production(config)
        && let Some(found) = lifetimes_out_of_bounds(&config.lifetimes).pop()
    {
        return Err(found.error());
    }
    check_policies(config)?;
    for group in &config.groups {
        check_audiences(config, "groups.audiences", &group.name, &group.audiences)?;
    }
    let mut seen = BTreeSet::new();
    for client in all_clients(config) {
        if !seen.insert(client.id.as_str()) {
            return Err(wrong(
                client,
                "declared twice",
                "one declaration",
                "remove one",
            ));
        }
        check_client(config, client)?;
    }
    check_demo_users(config)
}

fn is_production(config: &Config) -> bool {
    config.service.profile == Profile::Production
}

fn all_clients(config: &Config) -> impl Iterator<Item = &ClientDeclaration> {
    config
        .clients
        .iter()
        .chain(config.demo.iter().flat_map(|demo| &demo.clients))
}

fn check_issuer(issuer: &Url) -> Result<(), ConfigError> {
    let plain = issuer.scheme() == "https"
        && issuer.path() == "/"
        && issuer.query().is_none()
        && issuer.fragment().is_none()
        && issuer.username().is_empty()
        && issuer.password().is_none();
    if plain {
        return Ok(());
    }
    Err(ConfigError::invalid(
        "issuer",
        issuer.as_str(),
        "an https origin without path, query, fragment or user (RFC 8414 §2)",
        "for instance https://auth.example.org",
    ))
}

/// A value outside its bounds.
pub(super) struct OutOfBounds {
    pub(super) key: String,
    pub(super) seen: String,
    pub(super) expected: String,
}

impl OutOfBounds {
    fn error(self) -> ConfigError {
        let fix = "choose a value within these bounds";
        ConfigError::invalid(&self.key, &self.seen, &self.expected, fix)
    }
}

/// Every lifetime that crosses its bounds.
pub(super) fn lifetimes_out_of_bounds(l: &Lifetimes) -> Vec<OutOfBounds> {
    let table: [(&str, Duration, Bounds); 10] = [
        ("access_token", l.access_token, (30, 15 * MINUTE)),
        ("exchanged_token", l.exchanged_token, (5, 5 * MINUTE)),
        ("id_token", l.id_token, (30, 15 * MINUTE)),
        ("refresh_family", l.refresh_family, (5 * MINUTE, 30 * DAY)),
        ("refresh_retry", l.refresh_retry, (0, 30)),
        ("code", l.code, (5, 60)),
        ("pushed_request", l.pushed_request, (5, 10 * MINUTE)),
        ("interaction", l.interaction, (MINUTE, HOUR)),
        ("login_session", l.login_session, (5 * MINUTE, DAY)),
        (
            "login_idle",
            l.login_idle,
            (MINUTE, l.login_session.as_secs().min(DAY)),
        ),
    ];
    table
        .into_iter()
        .filter_map(|(name, value, bounds)| {
            out_of_bounds(&format!("lifetimes.{name}"), value, bounds)
        })
        .collect()
}

fn check_policies(config: &Config) -> Result<(), ConfigError> {
    check_span(
        "keys.rotate_after",
        config.keys.rotate_after,
        (HOUR, 90 * DAY),
    )?;
    check_span("keys.keep_for", config.keys.keep_for, (HOUR, 30 * DAY))?;
    check_span(
        "login_limits.window",
        config.login_limits.window,
        (MINUTE, DAY),
    )?;
    let limits = &config.login_limits;
    let passwords = &config.passwords;
    let counts = [
        (
            "passwords.concurrent_hashes",
            passwords.concurrent_hashes,
            64,
        ),
        ("passwords.waiting", passwords.waiting, 1024),
        ("login_limits.account", limits.account as usize, 1000),
        ("login_limits.address", limits.address as usize, 100_000),
        ("login_limits.network", limits.network as usize, 1_000_000),
    ];
    for (key, value, most) in counts {
        if !(1..=most).contains(&value) {
            let expected = format!("1 to {most}");
            return Err(ConfigError::invalid(
                key,
                &value.to_string(),
                &expected,
                "choose a number within",
            ));
        }
    }
    Ok(())
}

fn check_span(key: &str, value: Duration, bounds: Bounds) -> Result<(), ConfigError> {
    out_of_bounds(key, value, bounds).map_or(Ok(()), |found| Err(found.error()))
}

fn out_of_bounds(key: &str, value: Duration, (least, most): Bounds) -> Option<OutOfBounds> {
    let (least, most) = (Duration::from_secs(least), Duration::from_secs(most));
    let fits = (least..=most).contains(&value) && value.subsec_nanos() == 0;
    (!fits).then(|| OutOfBounds {
        key: key.to_owned(),
        seen: humantime(value),
        expected: format!("whole seconds, {} to {}", humantime(least), humantime(most)),
    })
}

fn check_client(config: &Config, client: &ClientDeclaration) -> Result<(), ConfigError> {
    check_authentication(config, client)?;
    check_grants(client, is_production(config))?;
    check_addresses(client)?;
    check_audiences(
        config,
        "clients.audiences",
        client.id.as_str(),
        &client.audiences,
    )?;
    if let Some(exchange) = &client.exchange {
        check_audiences(
            config,
            "clients.exchange",
            client.id.as_str(),
            &exchange.audiences,
        )?;
        let subjects = &exchange.subject_audiences;
        check_audiences(config, "clients.exchange", client.id.as_str(), subjects)?;
    }
    Ok(())
}

fn check_authentication(config: &Config, client: &ClientDeclaration) -> Result<(), ConfigError> {
    use AuthenticationMethod as Method;
    if client.id.as_str().is_empty() || client.authentication.is_empty() {
        return Err(wrong(
            client,
            "no id or no method",
            "both",
            "set `id` and `authentication`",
        ));
    }
    if client.is_public() && client.authentication.len() > 1 {
        let fix = "remove `none`, or every other method";
        return Err(wrong(
            client,
            "`none` beside other methods",
            "`none` alone",
            fix,
        ));
    }
    let uri = client.tls_client_auth_san_uri.as_deref();
    if client.authenticates_by(Method::TlsClientAuth) != uri.is_some() {
        let fix = "set `tls_client_auth_san_uri` exactly when `tls_client_auth` is a method";
        return Err(wrong(client, "one of the two alone", "both or none", fix));
    }
    let ingress = config.service.workload(&config.ingress)?;
    if uri == Some(ingress.as_str()) {
        return Err(wrong(
            client,
            "the ingress's own identity",
            "another workload's identity: the ingress carries everybody's requests",
            "let this client authenticate by a secret or a key",
        ));
    }
    let has_keys = client.jwks.is_some() || client.key_secret.is_some();
    if client.authenticates_by(Method::PrivateKeyJwt) != has_keys {
        let fix = "set `jwks` exactly when `private_key_jwt` is a method";
        return Err(wrong(client, "one of the two alone", "both or none", fix));
    }
    Ok(())
}

fn check_grants(client: &ClientDeclaration, production: bool) -> Result<(), ConfigError> {
    // The production profile lists these with everything else that it refuses.
    let legacy = client
        .grants
        .iter()
        .find(|grant| grant.is_legacy() && !production);
    if let Some(legacy) = legacy {
        return Err(wrong(
            client,
            &format!("the legacy grant `{}`", legacy.as_str()),
            "a grant that this server serves",
            "use authorization_code with PKCE",
        ));
    }
    let code = client.may_use(GrantName::AuthorizationCode);
    if code == client.redirect_uris.is_empty() {
        let fix = "set `redirect_uris` exactly when `authorization_code` is a grant";
        return Err(wrong(client, "one of the two alone", "both or none", fix));
    }
    if client.may_use(GrantName::RefreshToken) && !code {
        let fix = "remove `refresh_token`, or add `authorization_code`";
        return Err(wrong(
            client,
            "refresh_token alone",
            "something to refresh",
            fix,
        ));
    }
    if client.may_use(GrantName::TokenExchange) != client.exchange.is_some() {
        let fix = "set `exchange` exactly when token exchange is a grant";
        return Err(wrong(client, "one of the two alone", "both or none", fix));
    }
    if client.is_public() && client.may_use(GrantName::ClientCredentials) {
        let fix = "give it a way to authenticate";
        return Err(wrong(
            client,
            "client_credentials without a credential",
            "a credential",
            fix,
        ));
    }
    let needs_audience = code || client.may_use(GrantName::ClientCredentials);
    if needs_audience && client.audiences.is_empty() {
        return Err(wrong(
            client,
            "no audience",
            "at least one",
            "set `audiences`",
        ));
    }
    Ok(())
}

fn check_addresses(client: &ClientDeclaration) -> Result<(), ConfigError> {
    for uri in client
        .redirect_uris
        .iter()
        .chain(&client.post_logout_redirect_uris)
    {
        let parsed = Url::parse(uri).ok().filter(|url| url.fragment().is_none());
        let scheme_fits = parsed.as_ref().is_some_and(|url| match url.scheme() {
            "https" => true,
            "http" => client.native && redirect::is_loopback(uri),
            // Private-use schemes are reversed domain names (RFC 8252 §7.1).
            scheme => client.native && scheme.contains('.'),
        });
        let canonical = parsed.as_ref().is_some_and(|url| url.as_str() == uri);
        if !scheme_fits || !canonical {
            return Err(wrong(
                client,
                &format!("the address {uri}"),
                "https, in canonical form, without fragment; native clients may use http on a \
                 loopback address",
                parsed
                    .map_or_else(
                        || "write a full address".to_owned(),
                        |url| format!("for instance {url}"),
                    )
                    .as_str(),
            ));
        }
    }
    match &client.backchannel_logout {
        Some(place) if !place.path.starts_with('/') => {
            Err(wrong(client, &place.path, "a path", "begin it with /"))
        }
        _ => Ok(()),
    }
}

fn check_audiences(
    config: &Config,
    key: &str,
    owner: &str,
    audiences: &[String],
) -> Result<(), ConfigError> {
    match audiences
        .iter()
        .find(|audience| !config.audiences.contains(audience))
    {
        None => Ok(()),
        Some(unknown) => Err(ConfigError::invalid(
            key,
            &format!("{unknown} (of {owner})"),
            "one of `audiences`",
            "add it to `audiences`, or correct it",
        )),
    }
}

fn check_demo_users(config: &Config) -> Result<(), ConfigError> {
    let groups: BTreeSet<&str> = config.groups.iter().map(|g| g.name.as_str()).collect();
    for user in config.demo.iter().flat_map(|demo| &demo.users) {
        if let Some(unknown) = user
            .groups
            .iter()
            .find(|group| !groups.contains(group.as_str()))
        {
            return Err(ConfigError::invalid(
                "demo.users.groups",
                &format!("{unknown} (of {})", user.username),
                "a declared group",
                "add it to `groups`, or correct it",
            ));
        }
    }
    Ok(())
}

fn wrong(client: &ClientDeclaration, seen: &str, expected: &str, fix: &str) -> ConfigError {
    ConfigError::invalid("clients", &format!("{}: {seen}", client.id), expected, fix)
}

/// The text that configuration files use.
pub(super) fn humantime(span: Duration) -> String {
    match span.as_secs() {
        s if s > 0 && s % DAY == 0 => format!("{}d", s / DAY),
        s if s > 0 && s % HOUR == 0 => format!("{}h", s / HOUR),
        s if s > 0 && s % MINUTE == 0 => format!("{}m", s / MINUTE),
        s => format!("{s}s"),
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
