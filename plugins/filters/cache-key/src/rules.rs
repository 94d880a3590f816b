//! The key: coarse enough to be met again, fine enough that no two answers share it.

use std::collections::BTreeSet;

use ringwall_guest::configuration::header_name;
use ringwall_guest::target::{self, Target};
use serde::Deserialize;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default = "default_header")]
    header: String,
    /// Parameters of the query that change the answer.
    #[serde(default)]
    query: BTreeSet<String>,
    /// Whether answers differ by class of device.
    #[serde(default)]
    device: bool,
    /// Whether they differ by host.
    #[serde(default = "yes")]
    host: bool,
}

fn default_header() -> String {
    "x-cache-key".to_owned()
}

const fn yes() -> bool {
    true
}

/// Checked.
#[derive(Debug)]
pub struct Rules {
    config: Config,
}

/// What of a request makes its key.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a str,
    pub authority: &'a str,
    pub target: &'a [u8],
    pub user_agent: &'a str,
}

impl Rules {
    /// # Errors
    /// Where the header cannot be set.
    pub fn new(config: Config) -> Result<Self, String> {
        header_name("header", &config.header)?;
        Ok(Self { config })
    }

    #[must_use]
    pub fn header(&self) -> &str {
        &self.config.header
    }

    /// The key; none for what is not to be cached: other methods than GET and HEAD, and paths that servers read
    /// differently.
    #[must_use]
    pub fn key(&self, asked: &Asked<'_>) -> Option<String> {
        if !matches!(asked.method, "GET" | "HEAD") {
            return None;
        }
        let target = Target::new(asked.target);
        let mut key = String::new();
        if self.config.host {
            key.push_str(&asked.authority.to_ascii_lowercase());
        }
        key.push_str(&target::normalise(target.path).ok()?);
        let mut parameters = Vec::new();
        for (name, value) in target.parameters() {
            let name = String::from_utf8(name).ok()?;
            if self.config.query.contains(&name) {
                parameters.push((name, value));
            }
        }
        // Sorted by name only: the order of two values of one name may mean something.
        parameters.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (index, (name, value)) in parameters.iter().enumerate() {
            key.push(if index == 0 { '?' } else { '&' });
            key.push_str(&encode(name.as_bytes()));
            key.push('=');
            key.push_str(&encode(value));
        }
        if self.config.device {
            key.push_str("#device=");
            key.push_str(device(asked.user_agent));
        }
        Some(key)
    }
}

/// Percent-encodes everything but unreserved characters, so that no value can pretend to be more than one.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The class of a device by its user agent: what is not known is a desktop.
fn device(user_agent: &str) -> &'static str {
    let agent = user_agent.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| agent.contains(word));
    if has(&["bot", "crawler", "spider", "slurp"]) {
        "bot"
    } else if has(&["ipad", "tablet", "kindle", "silk/"])
        || (agent.contains("android") && !agent.contains("mobile"))
    {
        "tablet"
    } else if has(&["mobi", "iphone", "ipod", "android"]) {
        "mobile"
    } else {
        "desktop"
    }
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration::parse;

    use super::*;

    fn key(json: &str, target: &str, user_agent: &str) -> Option<String> {
        let rules = Rules::new(parse(json.as_bytes()).unwrap()).unwrap();
        rules.key(&Asked {
            method: "GET",
            authority: "Shop.Example",
            target: target.as_bytes(),
            user_agent,
        })
    }

    #[test]
    fn what_asks_for_the_same_has_one_key() {
        let json = r#"{"query":["b","a"]}"#;
        let expected = Some("shop.example/x/y?a=1&b=2".to_owned());
        for target in [
            "/x/y?a=1&b=2",
            "/x//y?b=2&a=1",
            "/x/./%79?utm_source=z&b=2&a=1",
            "/x/z/../y?%61=%31&b=2",
        ] {
            assert_eq!(key(json, target, ""), expected, "{target}");
        }
    }

    #[test]
    fn what_asks_for_something_else_has_another() {
        let json = r#"{"query":["a"]}"#;
        let targets = [
            "/x?a=1",
            "/x?a=2",
            "/x?a=1&a=2",
            "/x?a=2&a=1",
            "/x?a=1%26a=2",
            "/x",
            "/x/",
            "/X",
        ];
        let keys: BTreeSet<_> = targets.iter().map(|target| key(json, target, "")).collect();
        assert_eq!(keys.len(), targets.len());
    }

    #[test]
    fn devices_have_classes() {
        for (agent, class) in [
            ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0)", "mobile"),
            ("Mozilla/5.0 (Linux; Android 14) Mobile Safari", "mobile"),
            ("Mozilla/5.0 (Linux; Android 14; SM-X910) Safari", "tablet"),
            ("Mozilla/5.0 (iPad; CPU OS 17_0)", "tablet"),
            ("Mozilla/5.0 (compatible; Googlebot/2.1)", "bot"),
            ("Mozilla/5.0 (X11; Linux x86_64)", "desktop"),
            ("", "desktop"),
        ] {
            let expected = format!("/#device={class}");
            let json = r#"{"device":true,"host":false}"#;
            assert_eq!(key(json, "/", agent), Some(expected), "{agent}");
        }
    }

    #[test]
    fn what_servers_read_differently_has_none() {
        for target in ["/a%2fb", "/../a", "*", "/a?%ff=1"] {
            assert_eq!(key("{}", target, ""), None, "{target}");
        }
        assert!(Rules::new(parse(br#"{"header":"X"}"#).unwrap()).is_err());
        assert!(parse::<Config>(br#"{"queries":[]}"#).is_err());
    }
}
