//! Where a key is, what is asked about it, and what is remembered of the answer.

use ringwall_guest::configuration::{header_name, header_value, in_range};
use ringwall_guest::json::{self, Kind};
use ringwall_guest::target::{self, Target};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// Keys longer than this are none.
const MAX_KEY_BYTES: usize = 512;
/// The name of a client, in bytes.
const MAX_CLIENT_BYTES: usize = 128;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who knows the keys.
    pub cluster: String,
    #[serde(default = "default_authority")]
    pub authority: String,
    #[serde(default = "default_path")]
    pub path: String,
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
    #[serde(default = "default_header")]
    pub header: String,
    /// A parameter of the query that may carry the key, too.
    #[serde(default)]
    pub query: Option<String>,
    /// The header that tells the upstream who the client is.
    #[serde(default = "default_client_header")]
    pub client_header: String,
    #[serde(default = "default_cache")]
    pub cache_seconds: u64,
    /// How long a key that is not known is remembered as such.
    #[serde(default = "default_refused_cache")]
    pub refused_cache_seconds: u64,
    /// Places in the cache: what it may hold at most.
    #[serde(default = "default_places")]
    pub cache_places: u32,
}

fn default_authority() -> String {
    "keys".to_owned()
}

fn default_path() -> String {
    "/v1/check".to_owned()
}

const fn default_timeout() -> u64 {
    1000
}

fn default_header() -> String {
    "x-api-key".to_owned()
}

fn default_client_header() -> String {
    "x-api-client".to_owned()
}

const fn default_cache() -> u64 {
    60
}

const fn default_refused_cache() -> u64 {
    5
}

const fn default_places() -> u32 {
    256
}

/// Checked.
#[derive(Debug)]
pub struct Rules {
    pub config: Config,
}

/// A key, known by its hash only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    Client(String),
    Refused,
}

/// What was found in a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Key(Vec<u8>),
    /// None, or one that cannot be a key.
    None,
    /// Two that differ: which one is meant is not ours to guess.
    Two,
}

impl Rules {
    /// # Errors
    /// Names what is wrong.
    pub fn new(config: Config) -> Result<Self, String> {
        header_name("header", &config.header)?;
        header_name("client_header", &config.client_header)?;
        if config.header == config.client_header {
            return Err("header and client_header are the same".to_owned());
        }
        if config.cluster.is_empty() {
            return Err("cluster is empty".to_owned());
        }
        if !config.path.starts_with('/') {
            return Err(format!("path {:?} does not start with /", config.path));
        }
        header_value("path", &config.path)?;
        header_value("authority", &config.authority)?;
        in_range("timeout_ms", &config.timeout_ms, &(10..=10_000))?;
        in_range("cache_seconds", &config.cache_seconds, &(0..=3600))?;
        in_range(
            "refused_cache_seconds",
            &config.refused_cache_seconds,
            &(0..=3600),
        )?;
        in_range("cache_places", &config.cache_places, &(1..=4096))?;
        Ok(Self { config })
    }

    /// The key of a request.
    #[must_use]
    pub fn find(&self, header: Option<&[u8]>, target: &[u8]) -> Found {
        let mut found = header.map(<[u8]>::to_vec);
        if let Some(parameter) = &self.config.query {
            for (name, value) in Target::new(target).parameters() {
                if name != parameter.as_bytes() {
                    continue;
                }
                if found.as_ref().is_some_and(|other| *other != value) {
                    return Found::Two;
                }
                found = Some(value);
            }
        }
        match found {
            Some(key) if is_key(&key) => Found::Key(key),
            _ => Found::None,
        }
    }

    /// The target without the key: upstreams and their logs need not have it. None where nothing changes.
    #[must_use]
    pub fn stripped(&self, target: &[u8]) -> Option<Vec<u8>> {
        let parameter = self.config.query.as_ref()?;
        let parts = Target::new(target);
        let is_ours = |pair: &&[u8]| {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            target::decode_form(name) == parameter.as_bytes()
        };
        let pairs: Vec<&[u8]> = parts.query?.split(|byte| *byte == b'&').collect();
        let kept: Vec<&[u8]> = pairs
            .iter()
            .copied()
            .filter(|pair| !is_ours(pair))
            .collect();
        if kept.len() == pairs.len() {
            return None;
        }
        let mut stripped = parts.path.to_vec();
        if !kept.is_empty() {
            stripped.push(b'?');
            stripped.extend(kept.join(&b'&'));
        }
        Some(stripped)
    }

    /// Where in the cache a key is, if it is there.
    #[must_use]
    pub fn place(&self, hash: &Hash) -> String {
        let Hash([a, b, c, d, ..]) = hash;
        let number = u32::from_be_bytes([*a, *b, *c, *d]) % self.config.cache_places;
        place_name(number)
    }

    /// What the answer of the cluster says. None: nothing that can be relied on.
    #[must_use]
    pub fn read_answer(&self, status: &str, body: &[u8]) -> Option<Known> {
        match status {
            "200" => {
                let answer = json::parse(body).ok()?;
                match &answer.member("client")?.value.kind {
                    Kind::Text(client) if is_client(client) => Some(Known::Client(client.clone())),
                    _ => None,
                }
            }
            "401" | "403" | "404" => Some(Known::Refused),
            _ => None,
        }
    }

    /// How long an answer is remembered, in nanoseconds; 0 for not at all.
    #[must_use]
    pub fn lifetime(&self, known: &Known) -> u64 {
        let seconds = match known {
            Known::Client(_) => self.config.cache_seconds,
            Known::Refused => self.config.refused_cache_seconds,
        };
        seconds * 1_000_000_000
    }
}

/// The name of a place in shared data.
#[must_use]
pub fn place_name(number: u32) -> String {
    format!("api-key.{number}")
}

fn is_key(key: &[u8]) -> bool {
    (1..=MAX_KEY_BYTES).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic)
}

fn is_client(client: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@/".contains(&byte);
    (1..=MAX_CLIENT_BYTES).contains(&client.len()) && client.bytes().all(fits)
}

impl Hash {
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }
}

/// A place's content: expiry in nanoseconds since 1970, the hash, then the client, or nothing where the key is refused.
#[must_use]
pub fn write_entry(hash: &Hash, known: &Known, expiry: u64) -> Vec<u8> {
    let mut entry = expiry.to_be_bytes().to_vec();
    entry.extend(hash.0);
    if let Known::Client(client) = known {
        entry.extend(client.as_bytes());
    }
    entry
}

/// What is remembered of a key: none where the place has another one, or what it has is over.
#[must_use]
pub fn read_entry(entry: &[u8], hash: &Hash, now: u64) -> Option<Known> {
    if expiry(entry)? <= now {
        return None;
    }
    let (other, client) = entry.get(8..)?.split_first_chunk::<32>()?;
    if *other != hash.0 {
        return None;
    }
    if client.is_empty() {
        return Some(Known::Refused);
    }
    let client = std::str::from_utf8(client).ok()?;
    Some(Known::Client(client.to_owned()))
}

/// When a place is to be emptied.
#[must_use]
pub fn expiry(entry: &[u8]) -> Option<u64> {
    entry
        .first_chunk::<8>()
        .map(|bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration::parse;

    use super::*;

    fn rules(json: &str) -> Result<Rules, String> {
        parse::<Config>(json.as_bytes()).and_then(Rules::new)
    }

    fn both() -> Rules {
        rules(r#"{"cluster":"keys","query":"api_key"}"#).unwrap()
    }

    #[test]
    fn a_key_is_found_in_header_or_query() {
        let rules = both();
        let key = |text: &str| Found::Key(text.as_bytes().to_vec());
        assert_eq!(rules.find(Some(b"k1"), b"/"), key("k1"));
        assert_eq!(rules.find(None, b"/?a=b&api_key=k%32"), key("k2"));
        assert_eq!(rules.find(Some(b"k1"), b"/?api_key=k1"), key("k1"));
        assert_eq!(rules.find(Some(b"k1"), b"/?api_key=k2"), Found::Two);
        assert_eq!(rules.find(None, b"/?api_key=k1&api_key=k2"), Found::Two);
        for nothing in [&b""[..], b"a b", b"\xff", &[b'k'; 513]] {
            assert_eq!(rules.find(Some(nothing), b"/"), Found::None);
        }
        let header_only = self::rules(r#"{"cluster":"keys"}"#).unwrap();
        assert_eq!(header_only.find(None, b"/?api_key=k"), Found::None);
    }

    #[test]
    fn the_query_loses_its_key_and_nothing_else() {
        let rules = both();
        for (target, stripped) in [
            ("/a?api_key=k", Some("/a")),
            ("/a?x=1&api_key=k&y=%20", Some("/a?x=1&y=%20")),
            ("/a?%61pi_key=k&api_key=l&z", Some("/a?z")),
            ("/a?x=api_key", None),
            ("/a", None),
        ] {
            let stripped = stripped.map(|text: &str| text.as_bytes().to_vec());
            assert_eq!(rules.stripped(target.as_bytes()), stripped, "{target}");
        }
    }

    #[test]
    fn only_a_clear_answer_counts() {
        let rules = both();
        let client = Some(Known::Client("shop-1".to_owned()));
        assert_eq!(
            rules.read_answer("200", br#"{"client":"shop-1","x":1}"#),
            client
        );
        for status in ["401", "403", "404"] {
            assert_eq!(rules.read_answer(status, b""), Some(Known::Refused));
        }
        for (status, body) in [
            ("200", "{}"),
            ("200", "shop-1"),
            ("200", r#"{"client":""}"#),
            ("200", r#"{"client":"a\r\nb: c"}"#),
            ("200", r#"{"client":7}"#),
            ("204", ""),
            ("500", r#"{"client":"shop-1"}"#),
            ("", ""),
        ] {
            assert_eq!(
                rules.read_answer(status, body.as_bytes()),
                None,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn a_place_remembers_one_key_until_its_time() {
        let (one, other) = (Hash::of(b"k1"), Hash::of(b"k2"));
        let known = Known::Client("shop-1".to_owned());
        let entry = write_entry(&one, &known, 100);
        assert_eq!(read_entry(&entry, &one, 99), Some(known));
        assert_eq!(read_entry(&entry, &one, 100), None);
        assert_eq!(read_entry(&entry, &other, 99), None);
        let refused = write_entry(&one, &Known::Refused, 100);
        assert_eq!(read_entry(&refused, &one, 0), Some(Known::Refused));
        for cut in [0, 7, 8, 39] {
            assert_eq!(read_entry(&entry[..cut], &one, 0), None, "{cut}");
        }
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for json in [
            "",
            r#"{"cluster":""}"#,
            r#"{"cluster":"k","path":"x"}"#,
            r#"{"cluster":"k","timeout_ms":1}"#,
            r#"{"cluster":"k","cache_places":0}"#,
            r#"{"cluster":"k","header":"x-api-client"}"#,
            r#"{"cluster":"k","header":"X-Key"}"#,
            r#"{"cluster":"k","cache":1}"#,
        ] {
            assert!(rules(json).is_err(), "{json}");
        }
    }
}
