//! What is signed, and how the signature is written (RFC 9421 sections 2 and 3).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ringwall_guest::configuration::{header_name, in_range};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    key_id: String,
    key_base64: String,
    #[serde(default = "default_label")]
    label: String,
    #[serde(default = "default_components")]
    components: Vec<String>,
    /// Whether the signature says when it was made.
    #[serde(default = "yes")]
    created: bool,
    #[serde(default)]
    expires_seconds: Option<u64>,
    #[serde(default = "default_body_bytes")]
    max_body_bytes: usize,
}

fn default_label() -> String {
    "sig1".to_owned()
}

fn default_components() -> Vec<String> {
    let components = [
        "@method",
        "@authority",
        "@path",
        "@query",
        "date",
        "content-digest",
    ];
    components.map(str::to_owned).to_vec()
}

const fn yes() -> bool {
    true
}

const fn default_body_bytes() -> usize {
    256 * 1024
}

/// Checked. Has no `Debug`: the key is in it.
pub struct Rules {
    key_id: String,
    key: Vec<u8>,
    label: String,
    components: Vec<String>,
    created: bool,
    expires_seconds: Option<u64>,
    max_body_bytes: usize,
}

/// Derived components that a request of ours has (RFC 9421 section 2.2).
const DERIVED: [&str; 4] = ["@authority", "@method", "@path", "@query"];

/// What is signed of a request.
pub struct Request<'a> {
    pub method: &'a str,
    pub authority: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// All values of a header.
    pub header: &'a dyn Fn(&str) -> Option<String>,
}

/// The two headers of a signature.
#[derive(Debug, PartialEq, Eq)]
pub struct Signature {
    pub input: String,
    pub signature: String,
}

impl Rules {
    /// # Errors
    /// Names what is wrong; never holds a part of the key.
    pub fn new(config: Config) -> Result<Self, String> {
        let Ok(key) = STANDARD.decode(config.key_base64.trim()) else {
            return Err("key_base64 is not base64".to_owned());
        };
        in_range("the key's length in bytes", &key.len(), &(32..=128))?;
        in_range("max_body_bytes", &config.max_body_bytes, &(1..=1_048_576))?;
        if let Some(seconds) = config.expires_seconds {
            in_range("expires_seconds", &seconds, &(1..=86_400))?;
            if !config.created {
                return Err("expires_seconds counts from created, which is off".to_owned());
            }
        }
        let quotable = |text: &str| {
            let visible = |byte: u8| (b' '..0x7f).contains(&byte) && !b"\"\\".contains(&byte);
            !text.is_empty() && text.bytes().all(visible)
        };
        if !quotable(&config.key_id) {
            return Err("key_id: visible ASCII without quotes".to_owned());
        }
        let is_label =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !config.label.bytes().all(is_label)
            || !config
                .label
                .starts_with(|first: char| first.is_ascii_lowercase())
        {
            return Err("label: a lower-case letter, then such letters, digits and -".to_owned());
        }
        let mut seen = BTreeSet::new();
        for component in &config.components {
            if !DERIVED.contains(&component.as_str()) {
                header_name("components", component)?;
            }
            if !seen.insert(component) {
                return Err(format!("components: {component} comes twice"));
            }
        }
        if config.components.is_empty() {
            return Err("components is empty: nothing would be signed".to_owned());
        }
        Ok(Self {
            key_id: config.key_id,
            key,
            label: config.label,
            components: config.components,
            created: config.created,
            expires_seconds: config.expires_seconds,
            max_body_bytes: config.max_body_bytes,
        })
    }

    #[must_use]
    pub fn max_body_bytes(&self) -> usize {
        self.max_body_bytes
    }

    /// True when a component is signed.
    #[must_use]
    pub fn signs(&self, component: &str) -> bool {
        self.components.iter().any(|other| other == component)
    }

    /// Signs.
    ///
    /// # Errors
    /// Names the header that is to be signed and is not there.
    pub fn sign(&self, request: &Request<'_>, now_seconds: u64) -> Result<Signature, String> {
        let quoted: Vec<String> = self
            .components
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect();
        let mut parameters = format!("({})", quoted.join(" "));
        if self.created {
            parameters.push_str(&format!(";created={now_seconds}"));
        }
        if let Some(seconds) = self.expires_seconds {
            parameters.push_str(&format!(";expires={}", now_seconds.saturating_add(seconds)));
        }
        parameters.push_str(&format!(";keyid=\"{}\";alg=\"hmac-sha256\"", self.key_id));
        let mut base = String::new();
        for name in &self.components {
            let value = request.component(name).ok_or_else(|| name.clone())?;
            base.push_str(&format!("\"{name}\": {value}\n"));
        }
        base.push_str(&format!("\"@signature-params\": {parameters}"));
        let mac = self.mac(base.as_bytes());
        let label = &self.label;
        Ok(Signature {
            input: format!("{label}={parameters}"),
            signature: format!("{label}=:{}:", STANDARD.encode(mac)),
        })
    }

    fn mac(&self, base: &[u8]) -> Vec<u8> {
        // HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            return Vec::new();
        };
        mac.update(base);
        mac.finalize().into_bytes().to_vec()
    }
}

impl Request<'_> {
    fn component(&self, name: &str) -> Option<String> {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, query),
            None => (self.target, ""),
        };
        Some(match name {
            "@method" => self.method.to_owned(),
            "@authority" => self.authority.to_ascii_lowercase(),
            "@path" => path.to_owned(),
            // With its question mark, also where there is no query (section 2.2.7).
            "@query" => format!("?{query}"),
            header => {
                let value = (self.header)(header)?;
                // Section 2.1: several values are joined, each without the space around it.
                let values: Vec<&str> = value.split('\n').map(str::trim).collect();
                values.join(", ")
            }
        })
    }
}

/// The `content-digest` header of a body (RFC 9530).
#[must_use]
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)))
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration::parse;

    use super::*;

    /// The shared secret of RFC 9421, appendix B.1.5.
    const KEY: &str =
        "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";

    fn rules(json: &str) -> Result<Rules, String> {
        parse::<Config>(json.replace("KEY", KEY).as_bytes()).and_then(Rules::new)
    }

    fn sign(rules: &Rules, headers: &[(&str, &str)], now: u64) -> Result<Signature, String> {
        let header = |name: &str| {
            let found = headers.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let request = Request {
            method: "POST",
            authority: "Example.com",
            target: "/foo?param=Value&Pet=dog",
            header: &header,
        };
        rules.sign(&request, now)
    }

    #[test]
    fn the_signature_base_is_that_of_the_rfc() {
        // Appendix B.2.5, but for `alg`, which that example leaves to the key: so the base is compared, not the MAC.
        let rules = rules(
            r#"{"key_id":"test-shared-secret","key_base64":"KEY","label":"sig-b25","components":["date","@authority","content-type"]}"#,
        )
        .unwrap();
        let mac = |base: &str| STANDARD.encode(rules.mac(base.as_bytes()));
        let base = "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@authority\": example.com\n\"content-type\": application/json\n\
                    \"@signature-params\": (\"date\" \"@authority\" \"content-type\");created=1618884473;keyid=\"test-shared-secret\"";
        assert_eq!(mac(base), "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=");
        let headers = [
            ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
            ("content-type", "application/json"),
        ];
        let signature = sign(&rules, &headers, 1_618_884_473).unwrap();
        assert_eq!(
            signature.input,
            "sig-b25=(\"date\" \"@authority\" \"content-type\");created=1618884473;keyid=\"test-shared-secret\";alg=\"hmac-sha256\""
        );
        let with_algorithm = mac(&format!("{base};alg=\"hmac-sha256\""));
        assert_eq!(signature.signature, format!("sig-b25=:{with_algorithm}:"));
    }

    #[test]
    fn digests_are_those_of_the_rfc() {
        // RFC 9530, appendix B.1, without its line break.
        assert_eq!(
            content_digest(b"{\"hello\": \"world\"}"),
            "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
        );
    }

    #[test]
    fn every_part_counts() {
        let rules = rules(
            r#"{"key_id":"k","key_base64":"KEY","components":["@method","@path","@query","x-a"],"expires_seconds":60}"#,
        );
        let rules = rules.unwrap();
        let one = sign(&rules, &[("x-a", "1")], 5).unwrap();
        assert!(one.input.contains(";created=5;expires=65;"));
        assert_ne!(
            one.signature,
            sign(&rules, &[("x-a", "2")], 5).unwrap().signature
        );
        assert_ne!(
            one.signature,
            sign(&rules, &[("x-a", "1")], 6).unwrap().signature
        );
        assert_eq!(sign(&rules, &[], 5).unwrap_err(), "x-a");
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for json in [
            "",
            r#"{"key_id":"k","key_base64":"YQ=="}"#,
            r#"{"key_id":"k","key_base64":"%"}"#,
            r#"{"key_id":"a\"b","key_base64":"KEY"}"#,
            r#"{"key_id":"k","key_base64":"KEY","label":"1"}"#,
            r#"{"key_id":"k","key_base64":"KEY","components":[]}"#,
            r#"{"key_id":"k","key_base64":"KEY","components":["@status"]}"#,
            r#"{"key_id":"k","key_base64":"KEY","components":["date","date"]}"#,
            r#"{"key_id":"k","key_base64":"KEY","created":false,"expires_seconds":1}"#,
            r#"{"key_id":"k","key_base64":"KEY","algorithm":"none"}"#,
        ] {
            let error = rules(json).err().unwrap();
            assert!(!error.contains("uzvJ"), "{error}");
        }
    }
}
