//! What the production profile refuses, all of it at once, each with its reason and its fix.

use std::time::Duration;

use ringwall_secret::SecretProvider;
use ringwall_service::Refusal;
use url::Url;

use super::Config;
use super::validate::{humantime, lifetimes_out_of_bounds};
use crate::clients::registry;

/// In production nobody stays signed in for longer than a day without signing in again.
const LONGEST_FAMILY: Duration = Duration::from_secs(24 * 3600);

/// Everything in the configuration that is fit for a demonstration only.
pub(super) fn refusals(config: &Config) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if let Some(demo) = &config.demo {
        let users: Vec<&str> = demo.users.iter().map(|u| u.username.as_str()).collect();
        let clients: Vec<&str> = demo.clients.iter().map(|c| c.id.as_str()).collect();
        refusals.push(Refusal::new(
            format!(
                "demo: users [{}], clients [{}]",
                users.join(", "),
                clients.join(", ")
            ),
            "demo identities are known by name to everybody who has read the documentation",
            "remove the section `demo`",
        ));
    }
    for client in &config.clients {
        for grant in client.grants.iter().filter(|grant| grant.is_legacy()) {
            refusals.push(Refusal::new(
                format!("clients: {} has the legacy grant `{}`", client.id, grant.as_str()),
                "it shows passwords or tokens to places that must not see them (RFC 9700 §2.1.2, §2.4)",
                "use authorization_code with PKCE",
            ));
        }
        if client
            .redirect_uris
            .iter()
            .any(|uri| host_of(uri).is_some_and(|h| is_local(&h)))
        {
            refusals.push(Refusal::new(
                format!("clients: {} returns to a `localhost` address", client.id),
                "every machine has its own localhost, so the code would go to whoever listens there",
                "register the public address of the application",
            ));
        }
    }
    if host_of(config.issuer.as_str()).is_some_and(|host| is_local(&host)) {
        refusals.push(Refusal::new(
            format!("issuer: {}", config.issuer),
            "`localhost` names a different server on each machine",
            "set the public name of this server",
        ));
    }
    refusals.extend(
        lifetimes_out_of_bounds(&config.lifetimes)
            .into_iter()
            .map(|found| {
                Refusal::new(
                    format!("{}: {}", found.key, found.seen),
                    "what is stolen works for as long as it lives",
                    format!("choose {}", found.expected),
                )
            }),
    );
    refusals.extend(weak_secrets(config));
    if config.lifetimes.refresh_family > LONGEST_FAMILY {
        refusals.push(Refusal::new(
            format!(
                "lifetimes.refresh_family: {}",
                humantime(config.lifetimes.refresh_family)
            ),
            "a stolen refresh token would work for that long",
            "at most 24h",
        ));
    }
    refusals
}

/// Client secrets that somebody chose or copied. A provider that cannot be opened is the shell's
/// error, and tells more there.
fn weak_secrets(config: &Config) -> Vec<Refusal> {
    let Ok(provider) = SecretProvider::open(&config.service.secrets) else {
        return Vec::new();
    };
    let named = config.clients.iter().filter(|client| client.has_secret());
    named
        .filter_map(|client| {
            let name = client.secret_name();
            let secret = provider.get_string(&name).ok()?;
            registry::is_weak(secret.expose()).then(|| {
                Refusal::new(
                    format!("secret {name}: too short or without variety"),
                    "default and chosen secrets are guessed first",
                    "make a random one, for instance with `openssl rand -hex 32`",
                )
            })
        })
        .collect()
}

fn host_of(uri: &str) -> Option<String> {
    Url::parse(uri).ok()?.host_str().map(str::to_owned)
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use ringwall_service::{ComponentConfig as _, Profile};

    use super::*;
    use crate::config::clients::GrantName;
    use crate::testing;

    #[test]
    fn r08_production_names_every_refusal_at_once() {
        let mut config = testing::example_config();
        config.clients[0].grants.push(GrantName::Implicit);
        config.lifetimes.refresh_family = Duration::from_secs(7 * 24 * 3600);
        let text: Vec<String> = refusals(&config).iter().map(ToString::to_string).collect();
        let text = text.join("\n");
        for part in [
            "demo: users",
            "alice",
            "demo-cli",
            "spa-proxy",
            "implicit",
            "issuer",
            "7d",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn production_has_nothing_to_say_about_a_clean_configuration() {
        let mut config = testing::example_config();
        config.demo = None;
        config.issuer = Url::parse("https://auth.example.org").unwrap();
        config.clients[0].redirect_uris = vec!["https://app.example.org/callback".to_owned()];
        assert!(refusals(&config).is_empty());
    }

    #[test]
    fn r64_production_lists_lifetimes_and_legacy_grants_with_everything_else() {
        let mut config = testing::example_config();
        config.service.profile = Profile::Production;
        config.clients[0].grants.push(GrantName::Password);
        config.lifetimes.access_token = Duration::from_secs(24 * 3600);
        config.lifetimes.code = Duration::from_secs(3600);
        config.validate().expect("left to the list");
        let text: Vec<String> = refusals(&config).iter().map(ToString::to_string).collect();
        let text = text.join("\n");
        for part in [
            "lifetimes.access_token",
            "lifetimes.code",
            "password",
            "demo: users",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn weak_client_secrets_are_refused_in_production() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client-gateway-secret");
        ringwall_secret::private_file::write(&path, "changeme".as_bytes()).unwrap();
        let mut config = testing::example_config();
        config.service.secrets = ringwall_secret::SecretsConfig::File {
            directory: directory.path().to_owned(),
        };
        let found = weak_secrets(&config);
        assert_eq!(found.len(), 1);
        assert!(!found[0].to_string().contains("changeme"));
    }
}
