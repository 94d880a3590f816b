//! SPIFFE IDs and trust domains, parsed once at the edge.
//!
//! Owns: the grammar of SPIFFE-ID §2 (<https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>).
//! Must not: normalise. A name that is not already in its one valid spelling is refused, because two
//! spellings of one identity are how policy checks are bypassed.
//! Read next: `svid.rs`, which finds such a name in a certificate.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{IdentityError, excerpt};

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID §2.3: implementations support, and senders do not exceed, 2048 bytes.
const MAX_ID_BYTES: usize = 2048;
/// SPIFFE-ID §2.3: the trust domain has at most 255 bytes.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The name of a trust domain, such as `ringwall.local`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID, such as `spiffe://ringwall.local/orders`. Cheap to clone.
///
/// Equality is equality of bytes: the grammar leaves only one spelling for each identity.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl TrustDomain {
    /// Parses a bare trust domain name (SPIFFE-ID §2.1): `[a-z0-9._-]`, 1 to 255 bytes.
    ///
    /// # Errors
    /// [`IdentityError::TrustDomain`] names the rule that is broken.
    pub fn parse(name: &str) -> Result<Self, IdentityError> {
        match trust_domain_rule(name) {
            None => Ok(Self(Arc::from(name))),
            Some(rule) => Err(IdentityError::TrustDomain {
                seen: excerpt(name),
                rule,
            }),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// Parses a SPIFFE ID URI (SPIFFE-ID §2).
    ///
    /// An ID without a path names the trust domain itself; see [`SpiffeId::is_workload`].
    ///
    /// # Errors
    /// [`IdentityError::SpiffeId`] names the rule that is broken.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let refuse = |rule| IdentityError::SpiffeId {
            seen: excerpt(text),
            rule,
        };
        if text.len() > MAX_ID_BYTES {
            return Err(refuse("longer than 2048 bytes"));
        }
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| refuse("must begin with spiffe://"))?;
        let (domain, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if let Some(rule) = trust_domain_rule(domain).or_else(|| path_rule(path)) {
            return Err(refuse(rule));
        }
        Ok(Self {
            text: Arc::from(text),
            trust_domain: TrustDomain(Arc::from(domain)),
        })
    }

    /// The ID of the workload `name` in `domain`: `spiffe://<domain>/<name>`.
    ///
    /// `name` may have several segments (`ns/sales/orders`), without a leading slash.
    ///
    /// # Errors
    /// [`IdentityError::SpiffeId`] when `name` is empty or breaks the path grammar.
    pub fn workload(domain: &TrustDomain, name: &str) -> Result<Self, IdentityError> {
        Self::parse(&format!("{SCHEME}{}/{name}", domain.as_str()))
    }

    /// The trust domain that vouches for this name.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path without its leading slash (`orders`); empty for the trust domain's own ID.
    #[must_use]
    pub fn path(&self) -> &str {
        let start = SCHEME.len() + self.trust_domain.as_str().len() + 1;
        self.text.get(start..).unwrap_or("")
    }

    /// Whether this ID has a path, so that a workload may carry it (X509-SVID §5.2).
    #[must_use]
    pub fn is_workload(&self) -> bool {
        !self.path().is_empty()
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The rule of SPIFFE-ID §2.1 that `name` breaks, if any.
fn trust_domain_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("the trust domain is empty")
    } else if name.len() > MAX_TRUST_DOMAIN_BYTES {
        Some("the trust domain is longer than 255 bytes")
    } else if !name
        .bytes()
        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
    {
        Some("the trust domain may hold only a-z, 0-9, '.', '-' and '_'")
    } else {
        None
    }
}

/// The rule of SPIFFE-ID §2.2 that `path` (empty, or beginning with a slash) breaks, if any.
fn path_rule(path: &str) -> Option<&'static str> {
    let Some(segments) = path.strip_prefix('/') else {
        return None; // No path at all: the trust domain's own ID.
    };
    segments.split('/').find_map(|segment| match segment {
        "" => Some("path segments must not be empty, and no slash may end the path"),
        "." | ".." => Some("relative path segments are not allowed"),
        _ if segment.bytes().all(is_path_byte) => None,
        _ => Some("path segments may hold only a-z, A-Z, 0-9, '.', '-' and '_'"),
    })
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// The traits that both names share: text out, parse in, one JSON string either way.
macro_rules! text_newtype {
    ($name:ident, $schema_pattern:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl FromStr for $name {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, IdentityError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdentityError;

            fn try_from(text: String) -> Result<Self, IdentityError> {
                Self::parse(&text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $schema_pattern })
            }
        }
    };
}

text_newtype!(TrustDomain, "^[a-z0-9._-]{1,255}$");
text_newtype!(SpiffeId, "^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)*$");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    #[test]
    fn parts_of_a_workload_id() {
        let orders = id("spiffe://ringwall.local/ns/sales/orders");
        assert_eq!(orders.trust_domain().as_str(), "ringwall.local");
        assert_eq!(orders.path(), "ns/sales/orders");
        assert_eq!(
            orders.to_string(),
            "spiffe://ringwall.local/ns/sales/orders"
        );
        assert!(orders.is_workload());
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        assert_eq!(
            SpiffeId::workload(&domain, "ns/sales/orders").unwrap(),
            orders
        );
    }

    #[test]
    fn the_trust_domain_itself_has_no_path() {
        let domain = id("spiffe://ringwall.local");
        assert_eq!(domain.path(), "");
        assert!(!domain.is_workload());
    }

    #[test]
    fn every_rule_of_the_specification_refuses() {
        let long_domain = format!("spiffe://{}/x", "a".repeat(256));
        let long_id = format!("spiffe://a/{}", "b".repeat(2048));
        for (text, rule) in [
            ("", "begin with spiffe://"),
            ("SPIFFE://ringwall.local/x", "begin with spiffe://"),
            ("https://ringwall.local/x", "begin with spiffe://"),
            ("spiffe:/ringwall.local/x", "begin with spiffe://"),
            ("spiffe:///x", "trust domain is empty"),
            ("spiffe://", "trust domain is empty"),
            ("spiffe://Ringwall.local/x", "may hold only a-z"),
            ("spiffe://user@ringwall.local/x", "may hold only a-z"),
            ("spiffe://ringwall.local:443/x", "may hold only a-z"),
            ("spiffe://ringwall%2elocal/x", "may hold only a-z"),
            ("spiffe://ringwall.local/", "must not be empty"),
            ("spiffe://ringwall.local/x/", "must not be empty"),
            ("spiffe://ringwall.local//x", "must not be empty"),
            ("spiffe://ringwall.local/./x", "relative"),
            ("spiffe://ringwall.local/x/..", "relative"),
            ("spiffe://ringwall.local/x?y", "path segments may hold"),
            ("spiffe://ringwall.local/x#y", "path segments may hold"),
            ("spiffe://ringwall.local/%2e%2e", "path segments may hold"),
            ("spiffe://ringwall.local/ö", "path segments may hold"),
            ("spiffe://ringwall.local/x\n", "path segments may hold"),
            ("spiffe://ringwall.local/x\0", "path segments may hold"),
            (long_domain.as_str(), "longer than 255"),
            (long_id.as_str(), "longer than 2048"),
        ] {
            let error = SpiffeId::parse(text).unwrap_err().to_string();
            assert!(error.contains(rule), "{text:?}: {error}");
        }
    }

    #[test]
    fn dots_inside_a_segment_are_not_relative() {
        assert_eq!(id("spiffe://a/.../v1.2").path(), ".../v1.2");
    }

    #[test]
    fn workload_names_cannot_leave_their_segment() {
        let domain = TrustDomain::parse("ringwall.local").unwrap();
        for name in ["", "/orders", "orders/", "../payments", "a b"] {
            assert!(SpiffeId::workload(&domain, name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn json_is_one_string_and_is_validated() {
        let orders: SpiffeId = serde_json::from_str("\"spiffe://ringwall.local/orders\"").unwrap();
        assert_eq!(
            serde_json::to_string(&orders).unwrap(),
            "\"spiffe://ringwall.local/orders\""
        );
        assert!(serde_json::from_str::<SpiffeId>("\"spiffe://ringwall.local/\"").is_err());
        assert!(serde_json::from_str::<SpiffeId>("7").is_err());
        assert!(serde_json::from_str::<TrustDomain>("\"UPPER\"").is_err());
    }

    #[test]
    fn hostile_text_is_cut_in_the_error() {
        let error = SpiffeId::parse(&"x".repeat(100_000))
            .unwrap_err()
            .to_string();
        assert!(error.len() < 300, "{}", error.len());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,80}") {
            let _ = SpiffeId::parse(&text);
            let _ = TrustDomain::parse(&text);
        }

        #[test]
        fn what_parses_prints_the_same_and_splits_into_its_parts(
            domain in "[a-z0-9._-]{1,40}",
            path in proptest::collection::vec("[A-Za-z0-9_-][A-Za-z0-9._-]{0,10}", 0..5),
        ) {
            let text = path.iter().fold(format!("spiffe://{domain}"), |t, s| t + "/" + s);
            let id = SpiffeId::parse(&text).unwrap();
            prop_assert_eq!(id.as_str(), &text);
            prop_assert_eq!(id.trust_domain().as_str(), &domain);
            prop_assert_eq!(id.path(), path.join("/"));
        }

        #[test]
        fn accepted_means_inside_the_grammar(text in "spiffe://[a-zA-Z0-9._@:%/?#-]{0,40}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert!(!text.contains(['@', ':', '%', '?', '#'].as_slice()) || text.matches(':').count() == 1);
                prop_assert!(!text.ends_with('/') );
                // A trust domain may consist of a dot; a segment of the path may not.
                prop_assert!(id.path().split('/').all(|segment| segment != "." && segment != ".."));
            }
        }
    }
}
